"""What every kind of mailbox promises, and the records that it keeps.

An agent has one mailbox, whichever process it runs in. The promises, which one suite of tests holds all kinds to:

* **Accepted means kept**, as long as the medium keeps anything: `put` returns once the letter is in.
* **At least once.** Leaving a delivery acknowledges it; leaving it with an exception brings it again after a pause, at
  most `max_deliveries` times; then it is a dead letter, with the reason. Every delivery after the first one says so.
* **Once by its id.** A message that is put again under its id, while the window of duplicates lasts, is not kept
  twice.
* **In order by session.** Of the messages of one session at most one is out, and the next one follows when it is
  acknowledged or dead. Messages without a session have no order between them.
* **Bounded.** What does not fit is refused with MailboxFull.

Owns no storage; `memory.py`, `sqlite.py` and `nats.py` implement the contract, `places.py` chooses one. Above:
runtimes.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aixgo.errors import AixgoError, Code, InvalidInput, MailboxFull, Unavailable
from aixgo.message import Message

if TYPE_CHECKING:
    from aixgo.mailboxes.delivery import LetterDelivery

MAX_DELIVERIES = 5
"""Deliveries of one message before it is given up as a dead letter."""
BACKOFF = (0.2, 1.0, 5.0, 30.0)
"""Seconds before a message that failed comes again: after its first delivery, its second, ...; the last one repeats."""
ACK_WAIT = 30.0
"""Seconds after which a message whose receiver has died comes again; a living receiver renews three times as often."""
MEMORY_MESSAGES, LASTING_MESSAGES = 100, 10_000
"""Messages that a mailbox holds when nobody says otherwise, in memory and where they last."""
MAX_DEAD = 10_000
"""Dead letters that are kept."""
DUPLICATE_WINDOW = 120.0
"""Seconds for which at least an id is remembered; senders give up trying again long before."""
SEND_TIMEOUT = 30.0
"""Seconds for putting a message into a mailbox, where no call's deadline is nearer."""
MAX_REASON = 500
"""Characters of what is kept of a reason."""


class MailboxUnavailable(Unavailable):
    """The medium of the mailboxes cannot be reached, or does not answer in time.

    Whether a message that was being put is in, is then not known; to put it again under the same id is safe.
    """


class LetterNotFound(AixgoError):
    """There is no dead letter of that id; it was replayed or dropped, or never died."""

    code = Code.NOT_FOUND


@dataclass(frozen=True, slots=True)
class MailboxPolicy:
    """What mailboxes keep, and how often they deliver. `backoff` and `ack_wait` are in seconds.

    `max_bytes` bounds a mailbox in NATS, besides the number of its messages. Raises InvalidInput, naming the field.
    """

    max_messages: int = MEMORY_MESSAGES
    max_bytes: int | None = None
    max_deliveries: int = MAX_DELIVERIES
    backoff: tuple[float, ...] = BACKOFF
    ack_wait: float = ACK_WAIT
    max_dead: int = MAX_DEAD

    def __post_init__(self) -> None:
        for name in ("max_messages", "max_deliveries", "max_dead"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"mailbox.{name}: {getattr(self, name)} is too few; give at least 1")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InvalidInput(f"mailbox.max_bytes: {self.max_bytes} is too few; give at least 1, or leave it out")
        if not self.backoff or any(pause < 0 for pause in self.backoff):
            raise InvalidInput("mailbox.backoff: give at least one pause, and none below 0")
        if self.ack_wait <= 0:
            raise InvalidInput(f"mailbox.ack_wait: {self.ack_wait:g} s is no time to wait; give more than 0")

    def pause(self, attempt: int, error: BaseException) -> float:
        """Seconds between the delivery `attempt`, which failed, and the next: none when its receiver was stopped."""
        return 0.0 if isinstance(error, CancelledError) else self.backoff[min(attempt, len(self.backoff)) - 1]


@dataclass(frozen=True, slots=True)
class Letter:
    """A message in a mailbox: who sent it (its agent path), in which trace, and how often it was replayed when dead."""

    message: Message
    sender: tuple[str, ...] = ()
    traceparent: str = ""
    replays: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up: after how many deliveries, why, and when, in seconds since the epoch."""

    agent: str
    letter: Letter
    attempts: int
    reason: str
    at: float

    @property
    def id(self) -> str:
        """The id of the message, which names the dead letter among those of its agent."""
        return self.letter.message.id


class Count(NamedTuple):
    """How many letters a mailbox is known to hold, and how many this process has given up."""

    agent: str
    waiting: int
    dead: int


class Settlement(Protocol):
    """What becomes of one delivery. Exactly one of the three is called, once; none of them raises."""

    async def done(self) -> None:
        """It was worked on: forget the letter."""
        ...

    async def failed(self, error: BaseException) -> None:
        """It ended with an exception: bring it again later, or give it up."""
        ...

    async def released(self) -> None:
        """Nobody has begun with it: bring it again at once; this delivery does not count."""
        ...


class DeadLetters(Protocol):
    """The messages that were given up. Every method raises MailboxUnavailable, those that name one AgentNotFound or
    LetterNotFound too.
    """

    async def dead_letters(self, agent: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        """The oldest of them, of one agent or of all."""
        ...

    async def dead_letter(self, agent: str, id: str) -> DeadLetter:  # noqa: A002  # the field's name
        """One of them."""
        ...

    async def replay(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        """Put one into its mailbox again, and forget it here. Raises MailboxFull, too."""
        ...

    async def drop(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        """Forget one for good."""
        ...


class Mailboxes(DeadLetters, Protocol):
    """The mailboxes that one process can reach. `add` names those whose agents live in it; `close` it at the end."""

    policy: MailboxPolicy

    def add(self, agent: str) -> None:
        """An agent lives here now: its mailbox is made where there is none yet, at the latest when it is first used."""
        ...

    def remove(self, agent: str) -> None:
        """An agent lives here no longer: `receive` of it ends. What lies in a mailbox that lasts stays there."""
        ...

    async def put(self, agent: str, letter: Letter, timeout: float) -> bool:
        """Put a letter into a mailbox; False when there is none of that name.

        `timeout` is in seconds. Raises MailboxFull, MessageTooLarge, InvalidMessage, MailboxUnavailable.
        """
        ...

    def receive(self, agent: str) -> AsyncGenerator[LetterDelivery]:
        """Deliveries to an agent that was added, as they come, until it is removed. It goes on past failures of the
        medium, which it logs. A delivery that nobody has entered when the generator is closed counts for nothing.
        """
        ...

    def counts(self) -> Iterable[Count]:
        """How full the mailboxes of this process are, as far as it knows. Called from another thread."""
        ...

    async def close(self) -> None:
        """Give back what is held open. Using it again opens it again."""
        ...


def full(agent: str, size: int) -> MailboxFull:
    """The error that says that a mailbox has no room."""
    return MailboxFull(
        f"the mailbox of {agent!r} holds {size} messages; send later, or raise mailbox.max_messages (mailbox_size of a"
        " runtime)",
        retry_after=1.0,
        fields={"agent": agent, "size": size},
    )


def reason_of(error: BaseException) -> str:
    """An error as one line of at most MAX_REASON characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON]


def unsettled(attempts: int) -> str:
    """The reason of a letter whose receivers never said how it went."""
    return f"delivered {attempts} times, and its receivers ended without an answer"
