"""Python functions as tools: the schema from type hints, the description from the docstring, arguments validated.

Owns FunctionTool and the decorator. Below: the contract. Above: `toolbox.py`, and users' modules.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Thread
from typing import Annotated, Any, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from aixgo.errors import ConfigError, ToolError
from aixgo.message import JSON
from aixgo.tools.contract import check_tool_name

Function = Callable[..., Any]

_SPREAD = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


class FunctionTool:
    """A function as a tool. `async def` functions are awaited, others run in a thread of their own.

    Arguments are what the type hints say, converted as pydantic does ("3" is an int); a parameter without a hint takes
    anything. `Annotated[str, Field(description="...")]` describes one to the model; the docstring describes the whole.
    The result is a JSON value, or what pydantic can make one of: models, dataclasses, dates. Raises ConfigError for a
    function that cannot be a tool.

    A thread cannot be stopped: a function that is not `async def` goes on after the call of its agent was cancelled or
    timed out, and its result is dropped; it does not hold up the end of the process.
    """

    def __init__(self, function: Function, *, name: str = "", description: str = "") -> None:
        self.name = name or getattr(function, "__name__", "")
        check_tool_name(self.name)
        self._function = function
        self._asynchronous = inspect.iscoroutinefunction(_code_of(function))
        self.description = description or inspect.getdoc(function) or ""
        self._arguments, self._fields = _arguments_of(function, self.name)
        self.parameters: Mapping[str, Any] = _schema_of(self._arguments, self.name)
        self.__doc__ = self.description

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, so that a decorated one can be used as before."""
        return self._function(*args, **kwargs)

    def renamed(self, name: str) -> FunctionTool:
        """The same function as a tool of another name."""
        return FunctionTool(self._function, name=name, description=self.description)

    async def call(self, arguments: Mapping[str, Any]) -> JSON:
        """Validate and call. Raises ToolError for arguments or a result that do not fit, and what the function does."""
        call = partial(self._function, **self._validated(arguments))
        try:
            result = await (call() if self._asynchronous else _in_thread(call, f"tool {self.name}"))
        except SystemExit as error:
            raise ToolError(f"tool {self.name!r} wanted to end the process") from error
        try:
            return to_jsonable_python(result, bytes_mode="utf8")
        except (PydanticSerializationError, ValueError) as error:
            raise ToolError(
                f"tool {self.name!r} returned a {type(result).__name__}, which cannot be told as JSON"
            ) from error

    def _validated(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            valid = self._arguments.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolError(f"wrong arguments for tool {self.name!r}: {_faults(error)}") from error
        return {self._fields[field]: getattr(valid, field) for field in valid.model_fields_set}


@overload
def tool(function: Function, /) -> FunctionTool: ...
@overload
def tool(*, name: str = "", description: str = "") -> Callable[[Function], FunctionTool]: ...
def tool(
    function: Function | None = None, /, *, name: str = "", description: str = ""
) -> FunctionTool | Callable[[Function], FunctionTool]:
    """Turn a function into a tool named after it; its docstring tells the model what it does and when to use it.

    The result can still be called like the function. Raises ConfigError; see FunctionTool.
    """

    def make(function: Function) -> FunctionTool:
        return FunctionTool(function, name=name, description=description)

    return make if function is None else make(function)


async def _in_thread(call: Callable[[], Any], name: str) -> Any:
    """What `call` returns or raises in a thread, with the caller's context.

    Not `asyncio.to_thread`: its few threads serve the whole process, which waits for them when it ends, so functions
    that do not return would hold up everything.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = copy_context()

    def settle(outcome: Future[Any]) -> None:
        if done.cancelled():
            return
        error = outcome.exception()
        if error is None:
            done.set_result(outcome.result())
        else:
            # asyncio's futures take no StopIteration.
            done.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def work() -> None:
        outcome: Future[Any] = Future()
        try:
            outcome.set_result(context.run(call))
        except BaseException as error:  # noqa: BLE001  # raised again in the task that waits
            outcome.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    Thread(target=work, name=name, daemon=True).start()
    return await done


def _code_of(function: Function) -> Any:
    """What holds the type hints and the `async`: the function, or the `__call__` of an object."""
    return function if inspect.isroutine(function) else type(function).__call__


def _arguments_of(function: Function, name: str) -> tuple[type[BaseModel], Mapping[str, str]]:
    """A model of the arguments, and which parameter each of its fields is.

    The fields have names of their own, with the parameters' as aliases: a parameter may be called `json` or `_x`.
    """
    try:
        parameters = inspect.signature(function).parameters
        hints = get_type_hints(_code_of(function), include_extras=True)
    except (TypeError, ValueError, NameError) as error:
        raise ConfigError(f"tool {name!r}: the parameters of its function cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for index, parameter in enumerate(parameters.values()):
        if parameter.kind in _SPREAD:
            raise ConfigError(f"tool {name!r}: parameter {parameter} cannot be given by name; models only do that")
        hint = Annotated[hints.get(parameter.name, Any), Field(alias=parameter.name)]
        fields[f"a{index}"] = (hint, ... if parameter.default is parameter.empty else parameter.default)
        names[f"a{index}"] = parameter.name
    try:
        return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields), names
    except PydanticSchemaGenerationError as error:
        raise _no_json(name, error) from error


def _schema_of(arguments: type[BaseModel], name: str) -> Mapping[str, Any]:
    try:
        made = arguments.model_json_schema()
    except PydanticInvalidForJsonSchema as error:
        raise _no_json(name, error) from error
    made.pop("title", None)
    for part in made.get("properties", {}).values():
        part.pop("title", None)
    return {"type": "object", "properties": dict[str, Any]()} | made


def _no_json(name: str, error: PydanticSchemaGenerationError | PydanticInvalidForJsonSchema) -> ConfigError:
    return ConfigError(
        f"tool {name!r}: a parameter has a type that no JSON can hold: {error.message.partition('. ')[0]}"
    )


def _faults(error: ValidationError) -> str:
    """What is wrong, by argument, without the values: they may be long, or secret."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()[:5])
