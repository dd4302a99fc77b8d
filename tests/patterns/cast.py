"""The agents that every pattern of these tests works with, and the one model behind them.

The model is a function of the request, so that the same agents answer alike in every process: it decides, plans, scores
and hands over by the schema or tool that it is offered, and otherwise answers `RESULT` with the beginning of what it
was asked. It counts the tokens of each of its answers, so that a test can compare the usage of a whole tree with
what its leaves really took.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from aixgo import Agent, AgentSpec, Message
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.llm import LLMAgent
from aixgo.llm.contract import CompletionRequest, ToolUse
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.scripted import Reply, ScriptedModel, count_words

CHUNKS = [
    {"id": "a", "text": "Tea is grown in Assam.", "source": "tea.md", "score": 0.9, "metadata": {}},
    {"id": "b", "text": "Rice is grown in Punjab.", "source": "rice.md", "score": 0.6, "metadata": {}},
]


@dataclass
class Brain:
    """The model, and what it has answered so far."""

    calls: int = 0
    tokens: int = 0
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        self.models = Models(ModelSettings(), scripted={"brain": ScriptedModel(self.reply)})

    def reply(self, request: CompletionRequest) -> Reply:
        """The answer to a request, counted."""
        reply = _answer(request)
        self.calls += 1
        self.tokens += sum(count_words(turn.content) for turn in request.messages) + count_words(reply.text)
        return reply


def cast_members(brain: Brain) -> list[Agent]:
    """The agents, new."""

    def llm(name: str, prompt: str) -> Agent:
        return LLMAgent(AgentSpec(name=name, role="llm", model=("test/brain",), prompt=prompt), models=brain.models)

    categories = {"categories": {"a": "all", "b": "none"}}
    sorter = AgentSpec(name="sorter", role="classifier", model=("test/brain",), config=categories)
    return [
        llm("lead", "You lead."),
        llm("greeter", "You greet."),
        llm("leaf", "You work."),
        llm("leaf-2", "You work."),
        ClassifierAgent(sorter, models=brain.models),
        Shelf(),
        PaidBoom(),
        hangs := Hangs(),
        Hanging(hangs),
        Late(hangs),
        Mortal(),
    ]


class Shelf(Agent):
    """A retriever with two chunks."""

    name = "shelf"
    idempotent = True

    async def execute(self, message: Message) -> Message:
        return message.with_(payload={"chunks": CHUNKS})


class PaidBoom(Agent):
    """Spends tokens, then raises."""

    name = "paid-boom"

    async def execute(self, message: Message) -> Message:
        await self.runtime.call("leaf", Message("spend these words"))
        raise ValueError("boom, after it was paid for")


class Hangs(Agent):
    """Spends tokens, then waits until it is cancelled."""

    name = "hangs"

    def __init__(self) -> None:
        self.running = 0
        self.two = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        self.running += 1
        if self.running == 2:
            self.two.set()
        try:
            await self.runtime.call("leaf", Message("spend these words"))
            return await asyncio.get_running_loop().create_future()
        finally:
            self.running -= 1


class Hanging(Agent):
    """Says how many calls hang in its process."""

    name = "hanging"

    def __init__(self, hangs: Hangs) -> None:
        self._hangs = hangs

    async def execute(self, message: Message) -> Message:
        return Message(self._hangs.running)


class Late(Agent):
    """Answers as soon as two calls have hung at once in its process."""

    name = "late"

    def __init__(self, hangs: Hangs) -> None:
        self._hangs = hangs

    async def execute(self, message: Message) -> Message:
        await self._hangs.two.wait()
        return Message("late")


class Mortal(Agent):
    """Kills its process in the middle of a call."""

    name = "mortal"

    async def execute(self, message: Message) -> Message:
        os.kill(os.getpid(), signal.SIGKILL)
        return message


def _answer(request: CompletionRequest) -> Reply:
    text = "\n".join(turn.content for turn in request.messages)
    if request.tools:
        offer = request.tools[0]
        to = cast("Any", offer.parameters)["properties"]["to"]["enum"][0]
        return Reply("", tool_uses=(ToolUse("1", offer.name, {"to": to, "reason": "it knows"}),))
    if request.schema is None:
        asked = next(turn.content for turn in reversed(request.messages) if turn.role == "user")
        return Reply(f"RESULT {' '.join(asked.split()[:3])} [1]")
    return Reply(_json(_filled(request.schema, text)))


def _filled(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """An object that follows the schema and makes sense to the pattern that asks."""
    properties = cast("Mapping[str, Mapping[str, Any]]", schema["properties"])
    definitions = cast("Mapping[str, Mapping[str, Any]]", schema.get("$defs", {}))
    return {name: _value(name, part, definitions, text) for name, part in properties.items()}


def _value(name: str, part: Mapping[str, Any], definitions: Mapping[str, Any], text: str) -> Any:
    if name == "next":
        return _next(_choices(part, definitions), text)
    if name in ("assignments", "steps"):
        return _work(name, _resolved(part["items"], definitions), definitions)
    known: dict[str, Any] = {
        "instruction": "",
        "score": 0.9,
        "consensus": True,
        "answer": "RESULT",
        "confidence": 0.9,
        "category": "a",
    }
    if name in known and "enum" not in part:
        return known[name]
    choices = _choices(part, definitions)
    if choices:
        return choices[0]
    kinds = [each.get("type") for each in (part, *part.get("anyOf", ()))]
    empty = {"string": "RESULT", "number": 0.9, "integer": 1, "boolean": True, "array": list[Any](), "object": {}}
    return next((empty[kind] for kind in kinds if kind in empty), None)


def _next(choices: list[str], text: str) -> str:
    """The first worker; the last one once somebody has failed; nobody once there is a result."""
    workers = [choice for choice in choices if choice != "finish"]
    if "RESULT" in text:
        return "finish"
    return workers[-1] if " failed: " in text else workers[0]


def _work(name: str, item: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[dict[str, Any]]:
    properties = item["properties"]
    if name == "assignments":
        return [{"to": to, "task": f"do {to}", "manager": None} for to in _choices(properties["to"], definitions)]
    agents = _choices(properties["agent"], definitions)
    first = {"id": "one", "agent": agents[0], "task": "begin with it", "needs": []}
    return [first, {"id": "two", "agent": agents[-1], "task": "go on with {step.one}", "needs": ["one"]}]


def _choices(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    part = _resolved(part, definitions)
    if "const" in part:
        return [part["const"]]
    return list(part.get("enum", ()))


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else part


def _json(value: Any) -> str:
    from aixgo.message import to_json

    return to_json(value).decode()
