"""The agents under test, the same in one process and in a fleet.

Owns their behaviour and which process of the fleet each lives in (PLACES). Above: `host.py`, which serves some of them,
and `conftest.py`, which registers all of them in a LocalRuntime. They show what they did through the journal of their
process, which the agent `journal` reads out to tests: it answers when an entry is there, so that no test has to poll.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

from aixgo import Agent, AgentSpec, Delta, Event, Message, Parallel, Result, Router, Sequential, agent
from aixgo import call as ambient
from aixgo.agents.llm import LLMAgent
from aixgo.errors import AixgoError, Code, InvalidInput

MAILBOX_SIZE = 16
"""Letters that wait for one agent, in every runtime of these tests."""


class OutOfStock(AixgoError):
    """An error of the agents' author, with fields of its own."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left", fields={"item": item, "left": left})

    @property
    def item(self) -> str:
        """What is out of stock."""
        return self.fields["item"]


class Journal:
    """What the agents of one process have done, by key, in order."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Any]] = {}
        self._noted = asyncio.Event()

    def note(self, key: str, entry: Any) -> None:
        """Add an entry and wake who waits."""
        self._entries.setdefault(key, []).append(entry)
        self._noted.set()
        self._noted = asyncio.Event()

    def read(self, key: str) -> list[Any]:
        """The entries of a key so far."""
        return self._entries.get(key, [])

    async def wait(self, key: str, count: int) -> list[Any]:
        """The entries of a key, once there are `count`."""
        while len(self.read(key)) < count:
            await self._noted.wait()
        return self.read(key)


class Witness(Agent):
    """An agent that writes into the journal of its process."""

    def __init__(self, journal: Journal, name: str = "") -> None:
        self.name = name or self.name
        self.journal = journal

    async def execute(self, message: Message) -> Message:
        """Not what a reactive witness is for."""
        raise InvalidInput(f"{self.name} answers no calls; send to it")


class JournalReader(Witness):
    """Answers with the entries of `key`, once there are `count`; with `note`, adds one instead."""

    name = "journal"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        if "note" in body:
            self.journal.note(body["key"], body["note"])
            return Message("noted")
        return Message(list(await self.journal.wait(body["key"], body.get("count", 1))))


@agent(idempotent=True)
async def echo(message: Message) -> Message:
    """The message itself."""
    return message


@agent(idempotent=True)
async def upper(message: Message) -> Message:
    """The text in capitals, and which process made it."""
    return Message(message.text.upper(), {"pid": os.getpid()}, session_id=message.session_id)


@agent
async def reverse(message: Message) -> str:
    """The text backwards."""
    return message.text[::-1]


@agent(name="first-word")
async def first_word(message: Message) -> Message:
    """A classifier: the category is the first word, its confidence the second when there is one."""
    words = message.text.split()
    metadata = {"category": words[0]}
    return Message(words[0], metadata if len(words) == 1 else {**metadata, "confidence": float(words[1])})


@agent
async def boom(message: Message) -> str:
    """Raises an exception that is none of aixgo's."""
    raise ValueError(f"no {message.text}")


@agent(name="sold-out")
async def sold_out(message: Message) -> str:
    """Raises an error class of this module."""
    raise OutOfStock(message.text, 3)


@agent(name="returns-none")
async def returns_none(message: Message) -> None:
    """Returns nothing."""


@agent(name="returns-set")
async def returns_set(message: Message) -> Any:
    """Returns what is no payload."""
    return {1, 2}


class ReturnsText(Agent):
    """A class whose execute returns a str instead of a Message."""

    name = "returns-text"

    async def execute(self, message: Message) -> Message:
        return cast("Message", "text")


@agent(name="self-cancelled")
async def self_cancelled(message: Message) -> str:
    """Awaits something that was cancelled, though nobody cancelled the call."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return await future


@agent
async def observer(message: Message) -> dict[str, Any]:
    """What its call inherited."""
    state = ambient.current()
    assert state is not None
    left = state.budget.left() if state.budget is not None else (None, None)
    return {
        "depth": state.depth,
        "path": list(state.path),
        "session": state.session_id,
        "remaining": ambient.remaining(),
        "tokens": left[0],
        "usage": message.usage.total_tokens,
        "metadata": dict(message.metadata),
        "pid": os.getpid(),
    }


class Via(Agent):
    """Calls the first of `route` with what is left of the route, the last one with `message`."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        target, *rest = body["route"]
        onward = {**body, "route": rest} if rest else body.get("message", "")
        return await self.runtime.call(target, onward, timeout=body.get("timeout"))


class Fan(Agent):
    """Calls all `targets` at once, and says of each how it went."""

    name = "fan"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        outcomes = await self.runtime.call_parallel(
            body["targets"], body.get("message", ""), concurrency=body.get("concurrency")
        )
        return Message([[o.target, o.message.payload if o.message else type(o.error).__name__] for o in outcomes])


class Circle(Agent):
    """Calls `other`, which calls it."""

    def __init__(self, name: str, other: str) -> None:
        self.name, self._other = name, other

    async def execute(self, message: Message) -> Message:
        return await self.runtime.call(self._other, message)


class Slow(Witness):
    """Works until it is cancelled; notes `started` and `cancelled` under the key in the text."""

    name = "slow"

    async def execute(self, message: Message) -> Message:
        self.journal.note(message.text, "started")
        try:
            await asyncio.Event().wait()
        finally:
            self.journal.note(message.text, "cancelled")
        return message


class Stubborn(Witness):
    """Ignores its first cancellation, and goes on until `release` is noted under its key."""

    name = "stubborn"

    async def execute(self, message: Message) -> Message:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.journal.note(message.text, "ignored")
            await self.journal.wait(f"release {message.text}", 1)
        return message


class Crowd(Witness):
    """Notes how many of its calls run at once, and lets them go when `size` of them do."""

    name = "crowd"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        self.journal.note(body["key"], os.getpid())
        await self.journal.wait(body["key"], body["size"])
        return Message("together")


class Streaming(Agent):
    """Streams the words of the text, then a Result with all of it."""

    name = "words"

    async def execute(self, message: Message) -> Message:
        return Message(message.text)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)
        yield Result(Message(message.text))


class BreaksOff(Streaming):
    """Streams the words, then raises."""

    name = "breaks-off"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)
        raise OutOfStock("words", 0)


class NoResult(Streaming):
    """Streams the words and no Result."""

    name = "no-result"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)


class NoEvent(Streaming):
    """Streams what is no Event."""

    name = "no-event"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta("first")
        yield cast("Event", "second")


class GoesOn(Streaming):
    """Streams a Result, and does not stop."""

    name = "goes-on"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Result(Message("first"))
        yield Delta("too late")
        yield Result(Message("second"))


class Endless(Witness):
    """Streams without end; notes `closed` under the key in the text when it is stopped."""

    name = "endless"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        try:
            for number in range(10**9):
                yield Delta(str(number))
                await asyncio.sleep(0)
        finally:
            self.journal.note(message.text, "closed")


class Collector(Witness):
    """Notes each delivery under the message's session. A text `fail N` fails its first N attempts."""

    name = "collector"

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            try:
                async with delivery as message:
                    state = ambient.current()
                    assert state is not None
                    self.journal.note(
                        message.session_id,
                        {
                            "payload": message.payload,
                            "attempt": delivery.attempt,
                            "sender": list(delivery.sender),
                            "depth": state.depth,
                            "path": list(state.path),
                            "remaining": ambient.remaining(),
                            "tokens": None if state.budget is None else state.budget.left()[0],
                        },
                    )
                    if message.text.startswith("fail") and delivery.attempt <= int(message.text.split()[1]):
                        raise ValueError("not yet")
            except ValueError:
                continue


class Crashing(Witness):
    """Its `start` dies of the first attempt of every delivery."""

    name = "crashing"

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            async with delivery as message:
                self.journal.note(message.session_id, delivery.attempt)
                if delivery.attempt == 1:
                    raise ValueError("start dies")


class Poster(Agent):
    """Sends `message` to `to`."""

    name = "poster"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        await self.runtime.send(body["to"], body["message"])
        return Message("sent")


class Unready(Agent):
    """Is never ready."""

    name = "unready"

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        return False


class Waking(Witness):
    """Is ready once `awake` is noted under its name."""

    name = "waking"

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        return bool(self.journal.read("waking"))


class Mortal(Agent):
    """Appends its process to the file that the message names, and kills the process if it is the first to do so."""

    def __init__(self, name: str, *, idempotent: bool) -> None:
        self.name, self.idempotent = name, idempotent

    async def execute(self, message: Message) -> Message:
        path = Path(message.text)
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if path.read_text().count("\n") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return Message("survived")


def llm(name: str, model: str, *, outputs: Sequence[str] = ()) -> LLMAgent:
    """An LLM agent with a scripted model; with `outputs` it runs reactively."""
    targets = [{"target": target} for target in outputs]
    return LLMAgent(AgentSpec.model_validate({"name": name, "role": "llm", "model": model, "outputs": targets}))


def all_agents(journal: Journal) -> list[Agent]:
    """Every agent under test, new."""
    plain: list[Agent] = [
        function.renamed(function.name)
        for function in (
            echo, upper, reverse, first_word, boom, sold_out, returns_none, returns_set, self_cancelled, observer,
        )
    ]  # fmt: skip
    witnesses: list[Agent] = [
        kind(journal) for kind in (JournalReader, Slow, Stubborn, Crowd, Endless, Collector, Crashing, Waking)
    ]
    streams: list[Agent] = [kind() for kind in (Streaming, BreaksOff, NoResult, NoEvent, GoesOn)]
    routes: list[Agent] = [Via("via-one"), Via("via-two"), Via("via-three"), Fan(), Poster()]
    circle: list[Agent] = [Circle("ping", "pong"), Circle("pong", "ping")]
    models: list[Agent] = [
        llm("writer", "test/echo"),
        llm("shouter", "test/upper"),
        llm("limited", "test/fail:RateLimited"),
        llm("relay", "test/upper", outputs=["collector"]),
    ]
    mortals: list[Agent] = [Mortal("mortal", idempotent=False), Mortal("mortal-again", idempotent=True)]
    others: list[Agent] = [ReturnsText(), Unready(), Witness(journal, "hoarder"), Witness(journal, "crammed")]
    return [*plain, *witnesses, *streams, *routes, *circle, *models, *mortals, *others, *orchestrators()]


def orchestrators() -> list[Agent]:
    """One of each pattern, and nested ones."""
    return [
        Sequential("pipeline", ["reverse", "upper"]),
        Sequential("broken-pipeline", ["reverse", "boom", "upper"]),
        Sequential("drafts", ["writer", "shouter"]),
        Parallel("panel", ["upper", "reverse"]),
        Parallel("half-panel", ["upper", "boom"]),
        Parallel("hopeless", ["boom", "sold-out"]),
        Parallel("paid-panel", ["writer", "shouter"]),
        Parallel("judged", ["upper", "reverse"], aggregator="echo"),
        Router("triage", "first-word", {"loud": "upper", "back": "reverse"}, fallback="echo", threshold=0.5),
        Router("strict", "first-word", {"loud": "upper"}),
        Parallel("nested", ["pipeline", Sequential("", ["upper", "words"]), "triage"]),
        Sequential("streamed", ["words", "upper"]),
    ]


PLACES: dict[str, tuple[str, ...]] = {
    "one": (
        "via-one", "fan", "poster", "ping", "upper", "reverse", "pipeline", "broken-pipeline", "drafts", "panel",
        "half-panel", "hopeless", "paid-panel", "judged", "triage", "strict", "nested", "streamed",
    ),
    "two": (
        "via-two", "journal", "slow", "stubborn", "crowd", "endless", "collector", "crashing", "waking", "hoarder",
        "crammed", "observer", "echo", "words", "breaks-off", "no-result", "no-event", "goes-on", "unready",
    ),
    "three": (
        "via-three", "pong", "upper", "first-word", "boom", "sold-out", "returns-none", "returns-set", "returns-text",
        "self-cancelled", "writer", "shouter", "limited", "relay",
    ),
}  # fmt: skip
"""The processes of the fleet and their agents: callers and callees apart, `upper` in two of them."""
