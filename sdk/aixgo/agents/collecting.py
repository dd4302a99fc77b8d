"""Messages of several sources collected until there is one of each.

Pure state with an injected clock: no tasks, no I/O. Above: the aggregator when it runs reactively.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from aixgo.message import Message

MAX_TRIES = 3
"""How often a group that was closed for its time is aggregated before it is given up."""


@dataclass(slots=True, eq=False)
class Group:
    """Messages of one conversation, at most one of each source. `due` is in seconds of the collector's clock."""

    key: str
    due: float
    messages: dict[str, Message] = field(default_factory=dict[str, Message])
    tries: int = 0


class Collector:
    """The groups that are open.

    A group is complete with messages of `wait_for` sources, and due `wait` seconds after its first message. A source's
    second message in a conversation begins the next group, but what comes from a source that a complete group went
    without is late, and taken for that group's, until that would have been due. At most `max_open` groups are open.
    """

    def __init__(
        self, sources: Collection[str], *, wait_for: int, wait: float, max_open: int, clock: Callable[[], float]
    ) -> None:
        self.sources = tuple(dict.fromkeys(sources))
        self._wait_for = wait_for
        self._wait = wait
        self._max_open = max_open
        self._clock = clock
        self._open: list[Group] = []
        self._complete: deque[tuple[Group, set[str]]] = deque(maxlen=max_open)

    def __len__(self) -> int:
        return len(self._open)

    def late(self, key: str, source: str) -> bool:
        """Whether a message that has come now belongs to a group that was complete without it."""
        now = self._clock()
        while self._complete and self._complete[0][0].due <= now:
            self._complete.popleft()
        for group, missing in self._complete:
            if group.key == key and source in missing:
                missing.remove(source)
                return True
        return False

    def add(self, key: str, source: str, message: Message) -> Group | None:
        """Put a message into the first group of `key` that has none of `source`.

        When that completes the group, it is closed and returned.
        """
        group = next((each for each in self._open if each.key == key and source not in each.messages), None)
        if group is None:
            group = Group(key, self._clock() + self._wait)
            self._open.append(group)
        group.messages[source] = message
        if len(group.messages) < self._wait_for:
            return None
        self._open.remove(group)
        self._complete.append((group, set(self.sources) - set(group.messages)))
        return group

    def take_back(self, group: Group, source: str) -> None:
        """Undo the `add` that completed a group: its message will be delivered again."""
        self._complete = deque((each for each in self._complete if each[0] is not group), self._max_open)
        del group.messages[source]
        if group.messages:
            self._open.insert(0, group)

    def retry(self, group: Group) -> bool:
        """Open a group again that could not be aggregated when it was due; False when it was tried often enough."""
        group.tries += 1
        if group.tries >= MAX_TRIES:
            return False
        group.due = self._clock() + self._wait
        self._open.append(group)
        return True

    def ordered(self, group: Group) -> Mapping[str, Message]:
        """The messages of a group in the order of the sources."""
        return {source: group.messages[source] for source in self.sources if source in group.messages}

    def take_crowded(self) -> Group | None:
        """The oldest group, closed, when more are open than may be."""
        return self._open.pop(0) if len(self._open) > self._max_open else None

    def next_due(self) -> float | None:
        """When the next group is due; None when none is open."""
        return min((group.due for group in self._open), default=None)

    def take_due(self) -> list[Group]:
        """The groups whose time has passed, closed."""
        now = self._clock()
        due = [group for group in self._open if group.due <= now]
        self._open = [group for group in self._open if group.due > now]
        return due
