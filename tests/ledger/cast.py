"""The agents that grow any call tree out of the message: leaves call models, nodes call leaves and nodes.

Owns what the fields of a tree do; `trees.py` makes trees. PLACES says which process of the fleet has which agents, so
that a child lives in its parent's process or in another one.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

from aixgo import Agent, Message
from aixgo.errors import AixgoError
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.metering import Metered
from aixgo.llm.pricing import Prices
from aixgo.runtime.parallel import together

from tests.ledger.vendor import PRICES, Vendor

Tree = dict[str, Any]
PLACES = {place: (f"node-{place}", f"leaf-{place}") for place in ("one", "two", "three")}
"""The processes of the fleet."""
HERE = ("node-here", "leaf-here")
"""Agents of the process that the tests run in."""


class Leaf(Agent):
    """Makes the `calls` of its tree, one after the other, and ends as it says: it replies, raises, hangs or dies."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._models = Metered(Vendor(), Prices(PRICES))

    async def execute(self, message: Message) -> Message:
        tree = cast("Tree", message.payload)
        for call in tree["calls"]:
            try:
                await self._ask(call, tree)
            except AixgoError:
                if not call["forgiven"]:
                    raise
        if tree["ends"] == "raise":
            raise ValueError("no")
        if tree["ends"] == "hang":
            await asyncio.Event().wait()
        if tree["ends"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Message("done")

    async def _ask(self, call: Tree, tree: Tree) -> None:
        request = CompletionRequest(
            (ChatMessage("user", "x" * call["prompt"]),),
            call["model"],
            max_tokens=call["max_tokens"],
            extra={**call, "tree": tree["tree"], "bill": tree["bill"]},
        )
        if not call["pieces"]:
            await self._models.complete(request)
            return
        async with aclosing(cast("Any", self._models.stream(request))) as chunks:
            async for _ in chunks:
                if call["left"]:
                    break


class Node(Agent):
    """Calls the children of its tree, in order or all at once, by call or by stream."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def execute(self, message: Message) -> Message:
        tree = cast("Tree", message.payload)
        jobs = [
            (child["agent"], self._job({**child, "tree": tree["tree"], "bill": tree["bill"]}))
            for child in tree["children"]
        ]
        if tree["how"] == "together":
            wanted = tree["wanted"]
            enough = (lambda ended: len(ended) >= wanted) if wanted else None
            outcomes = await together(jobs, tree["at_once"], enough)
            failed = outcomes.errors
        else:
            failed = [error for _, job in jobs if (error := await self._tried(job)) is not None]
        if failed and tree["strict"]:
            raise failed[0]
        return Message(f"{len(failed)} failed")

    def _job(self, child: Tree) -> Callable[[], Awaitable[Message]]:
        async def call() -> Message:
            if child["by"] == "call":
                return await self.runtime.call(child["agent"], child, timeout=child["timeout"])
            async with self.runtime.stream(child["agent"], child, timeout=child["timeout"]) as events:
                async for _ in events:
                    if child["by"] == "glance":
                        break
            return events.result or Message("left")

        return call

    async def _tried(self, job: Callable[[], Awaitable[Message]]) -> AixgoError | None:
        try:
            await job()
        except AixgoError as error:
            return error
        return None


def all_agents() -> list[Agent]:
    """Every agent of every place, new."""
    places = (HERE, *PLACES.values())
    return [agent for node, leaf in places for agent in (Node(node), Leaf(leaf))]
