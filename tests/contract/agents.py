"""The agents under test, the same in one process and in a fleet.

Owns which there are (all_agents) and which process of the fleet each lives in (PLACES). Above: `host.py`, which serves
some of them, and `conftest.py`, which registers all of them in a LocalRuntime. Below: `witnesses.py`, `streamers.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from aixgo import Agent, AgentSpec, MemberStarted, Message, Parallel, Router, Sequential, agent
from aixgo import call as ambient
from aixgo.agents.llm import LLMAgent
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price

from tests.contract.failures import OutOfStock
from tests.contract.streamers import BreaksOff, GoesOn, NoEvent, NoResult, Streaming
from tests.contract.witnesses import (
    Collector,
    Crashing,
    Crowd,
    Endless,
    Flaky,
    Journal,
    JournalReader,
    Narrow,
    Slow,
    Stubborn,
    Torrent,
    Waking,
    Witness,
)  # fmt: skip

MAILBOX_SIZE = 16
"""Letters that wait for one agent, in every runtime of these tests."""
PRICE = Price(Decimal("0.001"), Decimal("0.002"))
"""What the model of `writer` costs, in USD per 1,000 tokens; the others are free."""


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


@agent
async def worker(message: Message) -> Message:
    """Takes a moment, and says which process it took it in."""
    await asyncio.sleep(0.01)
    return Message(message.payload, {"pid": os.getpid()})


@agent
async def blows_up(message: Message) -> bytes:
    """Answers with as many bytes as the text says."""
    return b"x" * int(message.text)


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


class FanThenObserve(Agent):
    """Calls two at once, then one that says what is left of the budget."""

    name = "fan-then-observe"

    async def execute(self, message: Message) -> Message:
        await self.runtime.call_parallel(["echo", "upper"], "x")
        return await self.runtime.call("observer", "")


class Leaver(Agent):
    """Leaves the stream of `paid-then-slow` when its second step begins."""

    name = "leaver"

    async def execute(self, message: Message) -> Message:
        async with self.runtime.stream("paid-then-slow", message) as events:
            async for event in events:
                if isinstance(event, MemberStarted) and event.path[-1] == "slow":
                    break
        return Message("left")


class Circle(Agent):
    """Calls `other`, which calls it."""

    def __init__(self, name: str, other: str) -> None:
        self.name, self._other = name, other

    async def execute(self, message: Message) -> Message:
        return await self.runtime.call(self._other, message)


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


class Mortal(Agent):
    """Appends its process to the file that the message names, and kills the process if it is the first to do so."""

    def __init__(self, name: str, *, idempotent: bool) -> None:
        self.name, self.idempotent = name, idempotent

    async def execute(self, message: Message) -> Message:
        if append(Path(message.text)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return Message("survived")


def append(path: Path) -> int:
    """Add this process to a file and return how many lines it has; at once, since the process may be about to die."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return path.read_text().count("\n")


def llm(name: str, model: str, *, outputs: Sequence[str] = ()) -> LLMAgent:
    """An LLM agent with a scripted model; with `outputs` it runs reactively. `test/echo` has a price."""
    targets = [{"target": target} for target in outputs]
    spec = AgentSpec.model_validate({"name": name, "role": "llm", "model": model, "outputs": targets})
    return LLMAgent(spec, models=Models(ModelSettings(), prices={"test/echo": PRICE}))


def all_agents(journal: Journal) -> list[Agent]:
    """Every agent under test, new."""
    plain: list[Agent] = [
        function.renamed(function.name)
        for function in (
            echo, upper, reverse, first_word, boom, sold_out, returns_none, returns_set, self_cancelled, observer,
            worker, blows_up,
        )
    ]  # fmt: skip
    witnesses: list[Agent] = [
        kind(journal)
        for kind in (JournalReader, Slow, Narrow, Stubborn, Crowd, Endless, Flaky, Collector, Crashing, Torrent, Waking)
    ]
    streams: list[Agent] = [kind() for kind in (Streaming, BreaksOff, NoResult, NoEvent, GoesOn)]
    routes: list[Agent] = [
        Via("via-one"),
        Via("via-two"),
        Via("via-three"),
        Fan(),
        FanThenObserve(),
        Leaver(),
        Poster(),
    ]
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


def new_agents() -> list[Agent]:
    """Every agent under test, new, with a journal of their own: what a process of the fleet serves some of."""
    return all_agents(Journal())


def orchestrators() -> list[Agent]:
    """One of each pattern, and nested ones."""
    return [
        Sequential("pipeline", ["reverse", "upper"]),
        Sequential("broken-pipeline", ["reverse", "boom", "upper"]),
        Sequential("paid-then-slow", ["writer", "slow"]),
        Sequential("paid-then-boom", ["writer", "boom"]),
        Sequential("drafts", ["writer", "shouter"]),
        Parallel("panel", ["upper", "reverse"]),
        Parallel("gentle-panel", ["upper", Sequential("", ["echo", "writer"])]),
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
        "via-one", "fan", "fan-then-observe", "poster", "ping", "upper", "reverse", "pipeline", "broken-pipeline",
        "paid-then-boom", "paid-then-slow", "drafts", "panel", "gentle-panel", "half-panel", "hopeless", "paid-panel",
        "judged", "triage", "strict", "nested", "streamed",
    ),
    "two": (
        "via-two", "journal", "slow", "flaky", "narrow", "stubborn", "crowd", "endless", "torrent", "collector",
        "crashing", "waking", "hoarder", "crammed", "observer", "echo", "words", "breaks-off", "no-result", "no-event",
        "goes-on", "unready",
    ),
    "three": (
        "via-three", "pong", "upper", "first-word", "boom", "sold-out", "returns-none", "returns-set", "returns-text",
        "self-cancelled", "leaver", "writer", "shouter", "limited", "relay",
    ),
}  # fmt: skip
"""The processes of the fleet and their agents: callers and callees apart, `upper` in two of them."""
