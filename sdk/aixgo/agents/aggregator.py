"""The role `aggregator`: several answers become one.

Owns AggregatorAgent, and how it collects the answers of several sources when it runs reactively. Below: the strategies
(`combining.py`), what it takes for answers (`answers.py`), the groups (`collecting.py`). Above: patterns that name an
aggregator.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, cast

from pydantic import Field

from aixgo.agents.answers import Answer, answers_in, message_of
from aixgo.agents.base import ReadyAgent, completion_metadata, read_config, reply_to
from aixgo.agents.collecting import Collector, Group
from aixgo.agents.combining import AggregatorConfig, Combined, combining
from aixgo.config.duration import Duration
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, ConfigError
from aixgo.events import Delta, Event, Result
from aixgo.llm.chat import Chat
from aixgo.llm.embeddings import Embedder
from aixgo.llm.models import Models
from aixgo.message import Message
from aixgo.runtime.contract import Delivery

log = logging.getLogger(__name__)


class _Config(AggregatorConfig):
    """`config:` of the role `aggregator`: the strategy, and how the messages of several `inputs` are collected."""

    wait_for: int | None = Field(
        default=None, ge=1, description="Reactively: of how many inputs one answer is made; without it, of all."
    )
    wait: Duration = Field(
        default=60.0,
        description="Reactively: seconds after the first message, when one answer is made of what came.",
    )
    max_open: int = Field(
        default=1000, ge=1, description="Reactively: conversations collected at once; beyond it the oldest is answered."
    )


class AggregatorAgent(ReadyAgent):
    """Makes one answer of several, as its `strategy` says.

    It takes what a parallel pattern hands on: a payload that is a JSON object, agent name -> answer, or the metadata
    `parallel_results`, agent name -> {"payload", "metadata"}; a plain JSON list is taken too. Metadata of the reply:
    `strategy`, `sources`, and

    * consensus: `agreement`, `disagreements`;
    * weighted: `weights`;
    * hierarchical: `levels`;
    * clustering: `agreement` (the share of the largest cluster) and `clusters`, [{"sources", "answer", "cohesion"}];
    * a vote: `answer`, `agreement`, `votes`, `voters`, `decided`; the payload is the answer of the first who gave it.

    With two or more `inputs` it collects their messages by conversation (the message's session, else its metadata
    `correlation_id`) until there is one of each, or of `wait_for` of them, or `wait` seconds have passed; then sends
    one reply to its outputs, with the metadata `missing` when some did not come. A message of a sender that is no agent
    holds all answers itself. What is collected is lost when the process ends.

    Raises InvalidInput for messages without answers, NoAgreement for a vote without a winner, ProviderError and
    BudgetExceeded where a model is asked; the constructor ConfigError. `clock` and `sleep` are in seconds.
    """

    role = "aggregator"
    idempotent = True

    def __init__(
        self,
        spec: AgentSpec,
        *,
        models: Models | None = None,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, _Config)
        self._chat: Chat | None = None
        self._combining = combining(self.config, spec.prompt, self._needed_chat, self._embedder)
        self._clock = clock
        self._sleep = sleep
        self._opened = asyncio.Event()
        self._collector = self._make_collector()

    async def execute(self, message: Message) -> Message:
        """One answer made of those in `message`."""
        answers = answers_in(message)
        made = await self._combining.combine(answers)
        if isinstance(made, Combined):
            return reply_to(message, made.payload, self._metadata(answers, made.metadata))
        completion = await self._needed_chat().complete(made.request)
        metadata = self._metadata(answers, made.metadata) | completion_metadata(completion)
        return reply_to(message, completion.text, metadata)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The answer in Deltas where a model writes it last, then the Result."""
        answers = answers_in(message)
        made = await self._combining.combine(answers)
        metadata = self._metadata(answers, made.metadata)
        if isinstance(made, Combined):
            yield Result(reply_to(message, made.payload, metadata))
            return
        async with aclosing(cast("Any", self._needed_chat().stream(made.request))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield Delta(chunk.text)
                if (done := chunk.completion) is not None:
                    yield Result(reply_to(message, done.text, metadata | completion_metadata(done)))

    async def start(self) -> None:
        """Answer the messages of the mailbox, or collect those of several inputs, until cancelled."""
        if self._collector is None:
            await super().start()
            return
        try:
            async with asyncio.TaskGroup() as group:
                closing = group.create_task(self._close_in_time(self._collector))
                await self._collect_all(self._collector)
                closing.cancel()
        finally:
            if len(self._collector):
                log.warning("agent %s stops with %d conversations not aggregated", self.name, len(self._collector))

    async def _collect_all(self, collector: Collector) -> None:
        async for delivery in self.runtime.recv():
            try:
                await self._collect(collector, delivery)
            except AixgoError:
                log.exception("agent %s could not answer message %s", self.name, delivery.message.id)
            if (crowded := collector.take_crowded()) is not None:
                log.warning("agent %s collects over %d conversations at once", self.name, self.config.max_open)
                await self._close(collector, crowded)

    async def _collect(self, collector: Collector, delivery: Delivery) -> None:
        """Take one message: keep it, or answer with it, when it is the last of its group or holds all answers."""
        source = delivery.sender[-1] if delivery.sender else ""
        async with delivery as message:
            if not source:
                await self._answer(message)
                return
            if not self._takes(delivery.sender):
                return
            if collector.late(key := _conversation(message), source):
                log.info("agent %s drops a late message of %s in conversation %r", self.name, source, key)
                return
            group = collector.add(key, source, message)
            self._opened.set()
            if group is None:
                return
            try:
                await self._answer_group(collector, group)
            except BaseException:
                collector.take_back(group, source)
                raise

    async def _close_in_time(self, collector: Collector) -> None:
        """Answer each group that is due with what has come."""
        while True:
            due = collector.next_due()
            if due is None:
                self._opened.clear()
                await self._opened.wait()
                continue
            await self._sleep(max(0.0, due - self._clock()))
            for group in collector.take_due():
                await self._close(collector, group)

    async def _close(self, collector: Collector, group: Group) -> None:
        try:
            await self._answer_group(collector, group)
        except AixgoError:
            again = collector.retry(group)
            log.exception(
                "agent %s could not aggregate conversation %r; %s",
                self.name, group.key, "it is tried again" if again else "its messages are dropped",
            )  # fmt: skip

    async def _answer_group(self, collector: Collector, group: Group) -> None:
        """A call of itself, so that what was collected is answered within a call, with its deadline and its usage."""
        replies = collector.ordered(group)
        asked = message_of(replies, next(iter(replies.values())).session_id)
        reply = await self.runtime.call(self.name, asked)
        if missing := [source for source in collector.sources if source not in replies]:
            reply = reply.with_metadata(missing=missing)
        if group.key and not reply.session_id:
            reply = reply.with_metadata(correlation_id=group.key)
        for output in self.spec.outputs:
            await self.runtime.send(output.target, reply)

    def _metadata(self, answers: Sequence[Answer], more: Mapping[str, Any]) -> dict[str, Any]:
        return {"strategy": self.config.strategy, "sources": [answer.name for answer in answers], **more}

    def _needed_chat(self) -> Chat:
        if self._chat is None:
            self._chat = self.chat()
        return self._chat

    def _embedder(self, name: str) -> Embedder:
        try:
            return self._models.embedder(name)
        except ConfigError as error:
            raise ConfigError(f"agents.{self.name}.config.embeddings: {error.message}") from error

    def _make_collector(self) -> Collector | None:
        """Where several inputs are collected; None where each message holds all answers."""
        sources = {given.source: None for given in self.spec.inputs}
        wait_for = self.config.wait_for or len(sources)
        if wait_for > len(sources):
            raise ConfigError(
                f"agents.{self.name}.config.wait_for: is {wait_for}, and {len(sources)} inputs are named; name"
                " more, or wait for fewer"
            )
        if len(sources) < 2:
            return None
        config = self.config
        return Collector(
            tuple(sources), wait_for=wait_for, wait=config.wait, max_open=config.max_open, clock=self._clock
        )


def _conversation(message: Message) -> str:
    """What tells the messages of one question from those of another; "" when nothing does."""
    known = message.metadata.get("correlation_id", "")
    return message.session_id or (known if isinstance(known, str) else "")
