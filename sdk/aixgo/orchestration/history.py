"""What has happened in the rounds of a pattern that chooses a worker at a time.

Owns the records of rounds, what a supervising agent is shown of them, and the conversation that a worker sees. Below:
`aixgo.conversation`. Above: `supervisor.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from aixgo.conversation import MAX_TURNS, Turn, turns_of
from aixgo.errors import AixgoError
from aixgo.message import Message


@dataclass(frozen=True, slots=True)
class Round:
    """One worker's turn: who was asked what (empty: the task itself), and the reply or the error."""

    number: int
    agent: str
    instruction: str = ""
    reply: Message | None = None
    error: AixgoError | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a reply's metadata: without what the worker said."""
        made: dict[str, Any] = {"round": self.number, "agent": self.agent, "instruction": self.instruction}
        return made if self.error is None else made | {"error": self.error.brief()}


class History(Sequence[Round]):
    """The rounds of one run, the first one first. `task` is the message that the whole is about."""

    def __init__(self, task: Message, rounds: Sequence[Round] = ()) -> None:
        self.task = task
        self._rounds = tuple(rounds)

    def and_then(self, one: Round) -> History:
        """The same with one more round."""
        return History(self.task, (*self._rounds, one))

    @property
    def last_reply(self) -> Message | None:
        """The last reply that a worker gave; None while none succeeded."""
        return next((one.reply for one in reversed(self._rounds) if one.reply is not None), None)

    @property
    def errors(self) -> Mapping[str, Mapping[str, str]]:
        """Class and message of each worker's last error, by worker."""
        return {one.agent: one.error.brief() for one in self._rounds if one.error is not None}

    def told(self, longest: int) -> str:
        """The rounds in words, `longest` characters of each instruction and reply."""
        return "\n".join(_told(one, longest) for one in self._rounds)

    def shown(self, longest: int) -> list[dict[str, Any]]:
        """The rounds as JSON objects with what was replied, `longest` characters of each reply."""
        return [one.to_json() | ({"reply": cut(one.reply.text, longest)} if one.reply else {}) for one in self._rounds]

    def conversation(self, instruction: str) -> Sequence[Turn]:
        """What comes before a worker's request: the caller's conversation, the task, and what others said to it.

        The task is left out where the request itself is the task and nobody has answered yet. The oldest turns go
        first when there are more than MAX_TURNS.
        """
        turns = [*(turns_of(self.task) or ())]
        if instruction or self.last_reply is not None:
            turns.append(Turn("user", self.task.text))
        for one in self._rounds:
            if one.reply is not None:
                turns += [Turn("user", one.instruction)] if one.instruction else []
                turns.append(Turn("assistant", one.reply.text, one.agent))
        return turns[-MAX_TURNS:]

    @overload
    def __getitem__(self, index: int) -> Round: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Round]: ...
    def __getitem__(self, index: int | slice) -> Round | Sequence[Round]:
        return self._rounds[index]

    def __len__(self) -> int:
        return len(self._rounds)

    def __iter__(self) -> Iterator[Round]:
        return iter(self._rounds)


def cut(text: str, longest: int) -> str:
    """The first `longest` characters of a text, and how many there are more."""
    return text if len(text) <= longest else f"{text[:longest]} [... {len(text) - longest} more characters]"


def _told(one: Round, longest: int) -> str:
    asked = f"{one.number}. {one.agent} was asked: {cut(one.instruction, longest) or 'the task'}"
    if one.error is not None:
        return f"{asked}\n   {one.agent} failed: {type(one.error).__name__}: {cut(str(one.error), longest)}"
    return f"{asked}\n   {one.agent} answered: {cut(one.reply.text if one.reply else '', longest)}"
