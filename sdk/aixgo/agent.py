"""What an agent is: a name, a role and `execute(message) -> message`.

Part of the core: no I/O. Runtimes (above) find agents by name, bind themselves to them and call them; orchestrators and
the ready agents are agents like any other. A function becomes an agent with `@agent`.
"""

from __future__ import annotations

import inspect
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from aixgo.errors import InvalidInput, InvalidMessage, InvalidReply, WrongState
from aixgo.events import Event, Result
from aixgo.message import Message

if TYPE_CHECKING:
    from aixgo.runtime.contract import Runtime

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}(/[0-9]{1,4})*")
"""An agent's name: letters, digits, `_ . -`. A pattern's unnamed member is `parent/0`."""

MAX_QUEUE = 100
"""Calls that wait for an agent which has as many as it takes, when nobody says otherwise."""


class Agent(ABC):
    """The base of every agent. Subclasses set `name` (in the class or the constructor) and write `execute`.

    `idempotent = True` says that calling it twice with one message does no more than calling it once, which allows a
    call that broke off to be tried again on another instance. `allow_callers` are the identities of other processes
    that may call it, with `*` for any text; None lets all in whom the process lets in, and an empty list nobody.
    `max_concurrent_calls` of it run at once in one process, None for no limit of its own; `max_queue` more wait for
    their turn there, and what comes on top, or would wait longer than its deadline allows, is refused with Overloaded.
    """

    name: str = ""
    role: str = "custom"
    idempotent: bool = False
    allow_callers: Sequence[str] | None = None
    max_concurrent_calls: int | None = None
    max_queue: int = MAX_QUEUE
    _runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The runtime that the agent is registered with; raises WrongState before that."""
        if self._runtime is None:
            raise WrongState(f"agent {self.name!r} is not registered; call runtime.register(agent) first")
        return self._runtime

    def bind(self, runtime: Runtime | None) -> None:
        """Called by the runtime when the agent is registered, and with None when it is unregistered."""
        self._runtime = runtime

    def bound_to(self, runtime: Runtime) -> bool:
        """Whether the agent is registered with `runtime`."""
        return self._runtime is runtime

    async def start(self) -> None:  # noqa: B027  # not every agent is reactive
        """Run reactively (`async for delivery in self.runtime.recv()`), until cancelled. The default does nothing.

        The runtime runs it in a task of its own and starts it again, after a growing pause, when it raises.
        """

    async def stop(self) -> None:  # noqa: B027  # not every agent holds something
        """Release what the agent holds. Called once, after `start` has ended and no call is running."""

    @abstractmethod
    async def execute(self, message: Message) -> Message:
        """Answer a message. Any exception reaches the caller as AgentFailed, an AixgoError as it is."""

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """Yield what happens while answering; the last event is the Result. The default executes."""
        yield Result(await self.execute(message))

    def ready(self) -> bool:
        """Whether the agent can take calls now; must not block. Instances that are not ready get none."""
        return True

    def callees(self) -> Sequence[str]:
        """Names of agents that it calls or sends to, as far as they are known beforehand.

        Its process looks for them from the start, so that their first call, too, can do without a control plane. The
        default are the members of an orchestrator; a class that calls others by name says here which.
        """
        return pattern_of(self)[1]

    @property
    def reactive(self) -> bool:
        """True when the class has a `start` of its own."""
        return type(self).start is not Agent.start


Function = Callable[[Message], Awaitable[Any]]


class FunctionAgent(Agent):
    """An async function as an agent; made by `@agent`."""

    def __init__(self, function: Function, name: str, role: str, idempotent: bool) -> None:
        if not inspect.iscoroutinefunction(function):
            raise InvalidInput(f"@agent needs an `async def` function, and {name} is none")
        self.name, self.role, self.idempotent = name, role, idempotent
        self._function = function
        self.__doc__ = function.__doc__

    async def execute(self, message: Message) -> Message:
        reply = await self._function(message)
        if reply is None:
            raise self._no_reply(reply)
        try:
            return Message.of(reply)
        except InvalidMessage as error:
            raise self._no_reply(reply) from error

    def _no_reply(self, reply: object) -> InvalidReply:
        kind = "None" if reply is None else f"a {type(reply).__name__}"
        return InvalidReply(f"agent {self.name!r} returned {kind}; return a Message, str, bytes or a JSON value")

    def renamed(self, name: str) -> FunctionAgent:
        """The same function as an agent of another name."""
        made = FunctionAgent(self._function, name, self.role, self.idempotent)
        made.max_concurrent_calls, made.max_queue = self.max_concurrent_calls, self.max_queue
        return made


@overload
def agent(function: Function, /) -> FunctionAgent: ...
@overload
def agent(
    *,
    name: str = "",
    role: str = "custom",
    idempotent: bool = False,
    max_concurrent_calls: int | None = None,
    max_queue: int = MAX_QUEUE,
) -> Callable[[Function], FunctionAgent]: ...
def agent(
    function: Function | None = None,
    /,
    *,
    name: str = "",
    role: str = "custom",
    idempotent: bool = False,
    max_concurrent_calls: int | None = None,
    max_queue: int = MAX_QUEUE,
) -> FunctionAgent | Callable[[Function], FunctionAgent]:
    """Turn `async def f(message: Message)` into an agent named after it. It may return a Message or just a payload."""

    def make(function: Function) -> FunctionAgent:
        made = FunctionAgent(function, name or getattr(function, "__name__", ""), role, idempotent)
        made.max_concurrent_calls, made.max_queue = max_concurrent_calls, max_queue
        return made

    return make if function is None else make(function)


def is_ready(agent: Agent) -> bool:
    """What the agent says of its readiness; one whose `ready` raises is not ready, with a log entry."""
    try:
        return agent.ready()
    except Exception:
        log.exception("ready() of agent %s failed", agent.name)
        return False


def check_name(name: str) -> None:
    """Raise InvalidInput when `name` cannot be an agent's name."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"agent name {name!r} is not usable; use 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter"
            " or digit (an agent class sets `name`)"
        )


def pattern_of(agent: Agent) -> tuple[str, Sequence[str]]:
    """An orchestrator's pattern and the names of its members; ("", ()) for other agents."""
    return getattr(agent, "pattern", ""), getattr(agent, "agents", ())
