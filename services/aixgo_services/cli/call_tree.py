"""The tree of one call, read from the events of its stream: who was called where, for how long, at what cost.

Owns which event belongs to which call. No collector is needed: members tell when they start and finish, and their
replies and errors carry what they spent, wherever they ran. Above: `trace.py`, which prints it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aixgo.errors import AixgoError
from aixgo.events import MemberFinished, MemberStarted
from aixgo.usage import NO_USAGE, Usage

from aixgo_services.cli.failures import failure
from aixgo_services.cli.output import usage_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from aixgo.events import Event

MAX_CALLS = 1000
"""Calls that a tree holds; those after it are only counted."""


@dataclass(slots=True)
class Called:
    """One call of an agent and the calls below it. Times are in seconds of the tree's clock.

    `ended` None says that nobody told its end: what was above it ended before.
    """

    agent: str
    started: float
    ended: float | None = None
    instance_id: str = ""
    usage: Usage = NO_USAGE
    error: BaseException | None = None
    members: list[Called] = field(default_factory=list["Called"])

    @property
    def seconds(self) -> float | None:
        """How long it took, as its caller saw it; None when that is not known."""
        return None if self.ended is None else self.ended - self.started

    def as_json(self) -> dict[str, Any]:
        """This call as a JSON object: `agent`, `instance_id`, `seconds`, `usage`, `error`, `members`."""
        return {
            "agent": self.agent,
            "instance_id": self.instance_id,
            "seconds": None if self.seconds is None else round(self.seconds, 6),
            "usage": usage_json(self.usage),
            "error": _error_json(self.error),
            "members": [member.as_json() for member in self.members],
        }


class CallTree:
    """What the events of a call to `target` say so far. `clock` gives seconds.

    Of several calls of one member that run at the same time the first to end is taken for the first that began: the
    events do not tell them apart. Sums are not affected by that.
    """

    def __init__(self, target: str, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.root = Called(target, clock())
        self.left_out = 0
        self._running: dict[tuple[str, ...], list[Called]] = {}
        self._count = 1

    def add(self, event: Event) -> None:
        """Take one event in; those that say nothing about the tree are ignored."""
        if isinstance(event, MemberStarted):
            self._start(event.path)
        elif isinstance(event, MemberFinished):
            self._finish(event)

    def end(self, usage: Usage = NO_USAGE, *, instance_id: str = "", error: BaseException | None = None) -> None:
        """The call itself has ended; an error brings its own usage."""
        self.root.ended, self.root.instance_id, self.root.error = self._clock(), instance_id, error
        self.root.usage = error.usage if isinstance(error, AixgoError) else usage

    def as_json(self) -> dict[str, Any]:
        """The call as a JSON object; `left_out` is how many calls the tree does not hold."""
        return self.root.as_json() | {"left_out": self.left_out}

    def _start(self, path: tuple[str, ...]) -> None:
        if self._count >= MAX_CALLS:
            self.left_out += 1
            return
        self._count += 1
        called = Called(path[-1] if path else "", self._clock())
        self._above(path).members.append(called)
        self._running.setdefault(path, []).append(called)

    def _finish(self, event: MemberFinished) -> None:
        running = self._running.get(event.path)
        if not running:
            return
        called = running.pop(0)
        called.ended, called.instance_id, called.error = self._clock(), event.instance_id, event.error
        if event.error is not None:
            called.usage = event.error.usage
        elif event.message is not None:
            called.usage = event.message.usage

    def _above(self, path: tuple[str, ...]) -> Called:
        """Whoever called the member at `path`: the nearest caller that is known to run, the last that began."""
        for length in range(len(path) - 1, 1, -1):
            running = self._running.get(path[:length])
            if running:
                return running[-1]
        return self.root


def _error_json(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, AixgoError):
        return {key: value for key, value in failure(error).items() if key != "usage"}  # it stands beside the error
    return {"error": type(error).__name__, "message": str(error)}
