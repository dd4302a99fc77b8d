"""The fleet of the acceptance test: five processes of nested patterns, whose leaves let any call tree grow.

Owns the leaves, as YAML names them, and the YAML. What a leaf does is drawn from the session and from its place in the
tree, so a session's name is the seed of its tree. Above: `test_fleet_sums.py`.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from random import Random
from typing import Any, cast

from aixgo import Agent, AgentSpec, Message
from aixgo.call import current
from aixgo.errors import AixgoError
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.models import Models

from tests.ledger.shop import MODELS

LEAVES, PATTERNS = ("clerk", "typist"), ("main", "line", "panel")
PATIENCE, SHORT = 1.0, 0.3
"""Seconds that a leaf waits for a model, and that some of its calls of other agents may take."""
WAIT = "wait for ever"
"""The message at which a leaf never answers."""
DEEPEST = 7
"""The depth from which on leaves call no agents."""
MESH = """
version: 2
pricing:
  cheap: {prompt: 0.001, completion: 0.002}
  dear: {prompt: 0.03, completion: 0.06, cached: 0.0037, cache_write: 0.0375}
agents:
  - {name: clerk, role: "tests.ledger.forest:Leaf"}
  - {name: typist, role: "tests.ledger.forest:Leaf"}
orchestrations:
  - name: main
    pattern: parallel
    agents:
      - clerk
      - pattern: sequential
        agents:
          - typist
          - pattern: router
            config:
              classifier: clerk
              routes: {left: panel, right: line}
              fallback: {pattern: parallel, agents: [typist, clerk, panel], config: {early_stop: true}}
      - typist
  - name: line
    pattern: sequential
    config: {on_error: skip}
    agents:
      - clerk
      - {pattern: parallel, agents: [typist, panel, clerk], config: {require: majority}}
      - typist
  - name: panel
    pattern: parallel
    limits: {max_tokens: 1200}
    config: {require: all}
    agents: [typist, {pattern: sequential, agents: [clerk, typist]}]
observability: OBSERVABILITY
"""


class Leaf(Agent):
    """Calls models, then perhaps another agent of the fleet, and answers or fails."""

    def __init__(self, spec: AgentSpec, *, models: Models) -> None:
        self.name, self.role = spec.name, spec.role
        self._chats = {model: models.chat([f"openai/{model}"]) for model in MODELS}

    async def execute(self, message: Message) -> Message:
        state = current()
        assert state is not None
        place = f"{state.session_id}|{'/'.join(state.path)}"
        draw = Random(place)
        for number in range(draw.randint(0, 2)):
            await _forgiven(draw, self._ask(draw, f"{place}|{number}"))
        if state.depth < DEEPEST and draw.random() < 0.3:
            await _forgiven(draw, self._call(draw))
        if message.text == WAIT:
            await asyncio.Event().wait()
        if draw.random() < 0.08:
            raise ValueError("no")
        return Message(draw.choice(["left", "right", "odd"]))

    async def _ask(self, draw: Random, user: str) -> None:
        chat = self._chats[draw.choice(list(MODELS))]
        prompt, most = "x" * draw.randint(0, 400), draw.randint(1, 50)
        request = CompletionRequest((ChatMessage("user", prompt),), max_tokens=most, extra={"user": user})
        streamed, left = draw.random() < 0.4, draw.random() < 0.1
        async with asyncio.timeout(PATIENCE):
            if not streamed:
                await chat.complete(request)
                return
            async with aclosing(cast("Any", chat.stream(request))) as chunks:
                async for _ in chunks:
                    if left:
                        return

    async def _call(self, draw: Random) -> None:
        target, by = draw.choice([*LEAVES, *PATTERNS]), draw.choice([*["call"] * 5, *["stream"] * 2, "glance"])
        timeout = draw.choice([*[None] * 7, SHORT])
        if by == "call":
            await self.runtime.call(target, "x", timeout=timeout)
            return
        async with self.runtime.stream(target, "x", timeout=timeout) as events:
            async for _ in events:
                if by == "glance":
                    return


async def _forgiven(draw: Random, work: Any) -> None:
    forgives = draw.random() < 0.7
    try:
        await work
    except (AixgoError, TimeoutError):
        if not forgives:
            raise
