"""Models that answer by script: `test/...`, deterministic, without a network.

Owns the `test` vendor. A test passes a ScriptedModel by name to `Models(scripted={"judge": ScriptedModel(...)})` and
uses it as `test/judge`. Where nothing can be passed in, as in the processes of a fleet, the model's name says what it
does:

    test/echo              answers with the last user message
    test/upper             the same in capitals
    test/fixed:TEXT        answers TEXT
    test/choose:VALUE      answers VALUE; into a schema: the first field whose enum has VALUE gets it, every other field
                           its first choice or an empty value
    test/slow              streams the last user message word by word, then never ends: it waits to be cancelled. Not
                           streamed it only waits
    test/slow:PATH         the same, and appends the lines `started` and `cancelled` to the file PATH, so that another
                           process can see that the work has stopped
    test/script:PATH       answers by the rules of a YAML file (`script.py`); a relative path begins at the folder of
                           the configuration, else at the working directory
    test/fail:CLASS        raises that class of `aixgo.errors`, for example test/fail:RateLimited

Usage is known exactly: a prompt costs as many tokens as it has words, a completion too, and `max_tokens` cuts it.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

from aixgo import errors
from aixgo.errors import AixgoError, ConfigError
from aixgo.llm.contract import Chunk, Completion, CompletionRequest, StopReason, TokenChoice, ToolUse
from aixgo.llm.script import Rule, find_rule, last_user, read_script, tool_use
from aixgo.message import to_json
from aixgo.names import nearest
from aixgo.usage import Usage

_WORD = re.compile(r"\S+\s*")


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer, where text alone does not say enough.

    `deltas` are the pieces of a stream (default: the words of the text); `usage` replaces the count of words. `error`
    is raised after `deltas` were streamed. `gate` is waited for before anything is answered: it holds the model back
    until the test says so.
    """

    text: str = ""
    deltas: Sequence[str] | None = None
    usage: Usage | None = None
    tool_uses: Sequence[ToolUse] = ()
    tokens: Sequence[TokenChoice] = ()
    stop_reason: StopReason | None = None
    error: Exception | None = None
    gate: asyncio.Event | None = None


Scripted: TypeAlias = "str | Mapping[str, Any] | Reply | Exception"
Script: TypeAlias = "Callable[[CompletionRequest], Scripted | Awaitable[Scripted]]"


@dataclass(slots=True)
class ScriptedModel:
    """A model whose answers the test writes.

    `replies` are used up one by one, or a function of the request makes them. A str is the text, a mapping a JSON
    object, an exception is raised. `requests` has what the model was asked, in order. Asked for more than its replies,
    it raises ProviderRejected.
    """

    replies: Sequence[Scripted] | Script
    requests: list[CompletionRequest] = field(default_factory=list[CompletionRequest])

    async def reply(self, request: CompletionRequest) -> Reply:
        """The answer to `request`."""
        self.requests.append(request)
        if callable(self.replies):
            made = self.replies(request)
            return _reply(await made if inspect.isawaitable(made) else made)
        if len(self.requests) > len(self.replies):
            raise errors.ProviderRejected(
                f"the scripted model has {len(self.replies)} replies and was asked {len(self.requests)} times"
            )
        return _reply(self.replies[len(self.requests) - 1])


class ScriptedClient:
    """The vendor `test`. `models` are found by name before the self-contained names of this module; paths of scripts
    begin at `folder`.
    """

    vendor = "test"

    def __init__(self, models: Mapping[str, ScriptedModel] | None = None, folder: Path | None = None) -> None:
        self._models = dict(models or {})
        self._folder = folder or Path()
        self._scripts: dict[Path, Sequence[Rule]] = {}

    def check(self, model: str) -> None:
        """Raise ConfigError when there is no such model."""
        self._find(model)

    async def complete(self, request: CompletionRequest) -> Completion:
        """The scripted answer, at once."""
        completion: Completion | None = None
        async for chunk in self._play(request, paced=False):
            completion = chunk.completion
        if completion is None:
            raise errors.InternalError("a script ended without a completion")
        return completion

    def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """The scripted answer in its deltas."""
        return self._play(request, paced=True)

    async def close(self) -> None:
        """Nothing is held."""

    async def _play(self, request: CompletionRequest, *, paced: bool) -> AsyncGenerator[Chunk]:
        name, _, argument = request.model.partition(":")
        if name == "slow" and name not in self._models:
            async with aclosing(_until_cancelled(request, argument, paced=paced)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        reply = await self._find(request.model).reply(request)
        if reply.gate is not None:
            await reply.gate.wait()
        completion = _completion(request, reply)
        for piece in _pieces(reply, completion) if paced else ():
            await asyncio.sleep(0)
            yield Chunk(piece)
        if reply.error is not None:
            raise reply.error
        yield Chunk(completion=completion)

    def _find(self, model: str) -> ScriptedModel:  # noqa: PLR0911  # a table of models, one line each
        if model in self._models:
            return self._models[model]
        name, _, argument = model.partition(":")
        match name:
            case "echo" | "slow":
                return ScriptedModel(last_user)
            case "upper":
                return ScriptedModel(lambda request: last_user(request).upper())
            case "fixed":
                return ScriptedModel(lambda _: argument)
            case "choose":
                return ScriptedModel(partial(_choose, argument))
            case "script":
                return self._script(self._folder / argument)
            case "fail":
                return ScriptedModel(partial(_raise, _error_class(argument)))
            case _:
                known = [
                    *self._models,
                    "echo",
                    "upper",
                    "fixed:TEXT",
                    "choose:VALUE",
                    "script:PATH",
                    "slow",
                    "fail:CLASS",
                ]
                raise ConfigError(f"there is no model test/{model}; {nearest(name, known)}")

    def _script(self, path: Path) -> ScriptedModel:
        if path not in self._scripts:
            self._scripts[path] = read_script(path)
        return ScriptedModel(partial(_by_rule, path, self._scripts[path]))


def _by_rule(path: Path, rules: Sequence[Rule], request: CompletionRequest) -> Scripted:
    rule = find_rule(rules, request, path)
    if rule.tool is not None:
        return Reply(tool_uses=tool_use(rule, request))
    if rule.text is not None:
        return rule.text.replace("{user}", last_user(request))
    return to_json(rule.json_).decode()


def count_words(text: str) -> int:
    """The tokens of a scripted text."""
    return len(text.split())


def _choose(value: str, request: CompletionRequest) -> Scripted:
    if request.schema is None:
        return value
    properties = cast("Mapping[str, Mapping[str, Any]]", request.schema.get("properties", {}))
    chosen = next((name for name, part in properties.items() if value in part.get("enum", ())), None)
    return {name: value if name == chosen else _first_value(part) for name, part in properties.items()}


def _first_value(part: Mapping[str, Any]) -> Any:
    if "enum" in part:
        return part["enum"][0]
    empty = {
        "string": "",
        "integer": 0,
        "number": 0,
        "boolean": False,
        "array": list[Any](),
        "object": dict[str, Any](),
    }
    return part.get("const", empty.get(cast("str", part.get("type", "null"))))


def _error_class(name: str) -> type[AixgoError]:
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, AixgoError):
        return found
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AixgoError)]
    known = [kind.__name__ for kind in kinds]
    raise ConfigError(f"test/fail:{name} names no class of aixgo.errors; {nearest(name, known)}")


def _raise(cls: type[AixgoError], _: CompletionRequest) -> Scripted:
    return cls(f"{cls.__name__}, as the script of test/fail:{cls.__name__} says")


def _reply(scripted: Scripted) -> Reply:
    if isinstance(scripted, Reply):
        return scripted
    if isinstance(scripted, Exception):
        raise scripted
    return Reply(scripted if isinstance(scripted, str) else to_json(scripted).decode())


def _completion(request: CompletionRequest, reply: Reply) -> Completion:
    words = cast("list[str]", _WORD.findall(reply.text))
    fits = len(words) <= request.max_tokens
    text = reply.text if fits else "".join(words[: request.max_tokens]).rstrip()
    reason: StopReason = "tool_calls" if reply.tool_uses else "stop" if fits else "length"
    return Completion(
        text,
        request.model,
        reply.usage or Usage(prompt_tokens=_prompt_words(request), completion_tokens=count_words(text)),
        reply.stop_reason or reason,
        reply.tool_uses,
        reply.tokens,
    )


def _pieces(reply: Reply, completion: Completion) -> Sequence[str]:
    return cast("list[str]", _WORD.findall(completion.text)) if reply.deltas is None else reply.deltas


def _prompt_words(request: CompletionRequest) -> int:
    return sum(count_words(turn.content) for turn in request.messages)


async def _until_cancelled(request: CompletionRequest, path: str, *, paced: bool) -> AsyncGenerator[Chunk]:
    _note(path, "started")
    try:
        for word in _WORD.findall(last_user(request)) if paced else ():
            await asyncio.sleep(0)
            yield Chunk(cast("str", word))
        await asyncio.Event().wait()
    finally:
        _note(path, "cancelled")


def _note(path: str, line: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
