"""Calls to agents of other processes: which instance, how long, and whether to try again.

Owns the rules of DESIGN 5.1, 5.6 and 5.7 (typed end within bounds, retries, replicas). Below it lie the resolver, the
balancer and the transport; above it `distributed.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import (
    AgentNotFound,
    AgentUnavailable,
    AixgoError,
    DeadlineExceeded,
    Overloaded,
    RegistryUnavailable,
)
from aixgo.events import Event, Result
from aixgo.message import Message, new_id
from aixgo.runtime.balancer import Balancer, Load, RetryBudget
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.entry import READY_TIMEOUT, finished_reply, past_deadline, typed
from aixgo.runtime.instance import Instance
from aixgo.runtime.plain import Headers, PlainTransport, TransportFailed
from aixgo.runtime.resolver import Resolver
from aixgo.telemetry import spans
from aixgo.v1 import agent_pb2, types_pb2
from aixgo.wire.codec import decode_message, fill_context, fill_message

log = logging.getLogger(__name__)

SEND_TIMEOUT = 30.0
"""Seconds for putting a message into another process's mailbox."""
MAX_RETRIES, RETRY_PAUSE = 4, 0.05
"""Retries of a call that may have been accepted, and the seconds before the same instance is asked again."""
FIRST_PROBE, LONGEST_PROBE = 0.1, 5.0
"""Seconds until an ejected instance is probed; doubled each time, jittered by half."""


class RemoteCalls:
    """Calls, streams and messages to agents of other processes."""

    def __init__(
        self,
        resolver: Resolver,
        transport: PlainTransport,
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.resolver = resolver
        self.transport = transport
        self.balancer = Balancer(rng)
        self._rng = rng or random.Random()  # noqa: S311  # jitter
        self._sleep = sleep
        self._retries: dict[str, RetryBudget] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._call_ids = itertools.count(1)
        self._prefix = new_id()

    async def call(self, target: str, message: Message, state: CallState, options: CallOptions) -> Message:
        """One reply, from the instance that gave it, after as many attempts as are allowed."""
        attempts = Attempts(self, target, state, options)
        request = agent_pb2.ExecuteRequest(agent=target)
        fill_message(request.message, message)
        granted = _lend(state)
        try:
            while True:
                instance = await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, granted)
                with attempts.on(instance):
                    response = await self.transport.execute(instance.address, request, timeout, headers, state.ledger)
                    reply = decode_message(response.message)
                    state.ledger.record(reply.usage)
                    return finished_reply(reply, state)
        finally:
            _repay(state, granted)

    async def stream(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> AsyncGenerator[Event]:
        """The events of one call; another instance is tried only as long as none has come."""
        attempts = Attempts(self, target, state, options)
        request = agent_pb2.ExecuteStreamRequest(agent=target)
        fill_message(request.message, message)
        granted = _lend(state)
        try:
            while True:
                instance = await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, granted)
                events = self.transport.stream(instance.address, request, timeout, headers, state.ledger)
                with attempts.on(instance):
                    async with aclosing(events):  # here, not when it is collected: its end may record usage
                        async for event in events:
                            attempts.answered = True
                            state.instance_id = instance.instance_id
                            if isinstance(event, Result):
                                state.ledger.record(event.message.usage)
                                yield Result(finished_reply(event.message, state), event.path)
                                return
                            yield event
        finally:
            _repay(state, granted)

    async def send(self, target: str, message: Message) -> None:
        """Put a message into the mailbox of one instance; it is tried again only where it cannot have arrived."""
        above = ambient.current()
        deadline = asyncio.get_running_loop().time() + SEND_TIMEOUT
        state = ambient.root(SEND_TIMEOUT).child(target)
        if above is not None:
            state.deadline, state.session_id = min(deadline, above.deadline), above.session_id
        attempts = Attempts(self, target, state, CallOptions(), only_refused=True)
        request = agent_pb2.DeliverRequest(agent=target)
        fill_message(request.message, message)
        request.context.agent_path.extend(ambient.current_path())
        headers = _trace(request.context)
        while True:
            instance = await attempts.next()
            timeout = attempts.timeout()
            with attempts.on(instance):
                await self.transport.deliver(instance.address, request, timeout, headers)
                return

    async def close(self) -> None:
        """Stop probing."""
        probes, self._probes = list(self._probes.values()), {}
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    def retry_budget(self, target: str) -> RetryBudget:
        """The retries of one agent."""
        budget = self._retries.get(target)
        if budget is None:
            budget = self._retries[target] = RetryBudget()
        return budget

    def load(self, instance: Instance) -> Load:
        """The load of an instance; with the first call to a new one, those that are gone are forgotten."""
        if instance.instance_id not in self.balancer:
            self.balancer.forget(self.resolver.instance_ids())
        return self.balancer.load(instance.instance_id)

    def failed(self, instance: Instance, *, refused: bool) -> None:
        """Note a transport failure; an instance that it ejects is probed until it is healthy again, or gone."""
        if self.balancer.failed(instance.instance_id, refused=refused) and instance.instance_id not in self._probes:
            log.info("instance %s at %s is ejected", instance.instance_id, instance.address)
            probe = asyncio.get_running_loop().create_task(self._probe(instance), name=f"probe {instance.address}")
            self._probes[instance.instance_id] = probe

    async def _probe(self, instance: Instance) -> None:
        pause = FIRST_PROBE
        while True:
            await self._sleep(pause * (0.5 + self._rng.random()))
            pause = min(pause * 2, LONGEST_PROBE)
            known = self.resolver.instance_ids()
            if instance.instance_id not in known:
                self.balancer.forget(known)
                break
            if await self.transport.healthy(instance.address):
                log.info("instance %s at %s is healthy again", instance.instance_id, instance.address)
                self.balancer.readmit(instance.instance_id)
                self.resolver.touch()
                break
        self._probes.pop(instance.instance_id, None)

    async def pause(self) -> None:
        """A short, jittered pause before an instance that has just failed is asked again."""
        await self._sleep(RETRY_PAUSE * (0.5 + self._rng.random()))

    def _context(
        self, context: types_pb2.CallContext, state: CallState, timeout: float, granted: Budget | None
    ) -> Headers | None:
        """Fill in what the callee inherits; each attempt is a call of its own, with an id of its own."""
        call_id = f"{self._prefix}-{next(self._call_ids)}"
        fill_context(context, state, call_id, timeout, granted)
        return _trace(context)


class Attempts:
    """The attempts of one call: picks instances, waits for them, and decides after a failure whether another follows.

    An instance that refused the call is not asked again. One whose connection broke is avoided while there are others.
    """

    # What most calls, the first attempt of which succeeds, never change stands in the class: every call makes one.
    _avoid: frozenset[str] = frozenset()
    _never: frozenset[str] = frozenset()
    _last: AixgoError | None = None
    _until = 0.0
    _count = 0
    _instance: Instance
    _load: Load
    answered = False

    def __init__(
        self, remote: RemoteCalls, target: str, state: CallState, options: CallOptions, *, only_refused: bool = False
    ) -> None:
        self._remote = remote
        self._target = target
        self._state = state
        self._options = options
        self._only_refused = only_refused

    async def next(self) -> Instance:
        """The instance to try; raises the typed error when there is none in time."""
        remote, target = self._remote, self._target
        but = self._avoid | self._never if self._count else self._never
        instance = remote.balancer.pick(target, remote.resolver.instances(target), but) or await self._wait()
        if not self._count:
            remote.retry_budget(target).paid()
        return instance

    def timeout(self) -> float:
        """Seconds until the deadline; raises DeadlineExceeded when it has passed."""
        left = _remaining(self._state)
        if left <= 0:
            raise past_deadline(self._state)
        return left

    def on(self, instance: Instance) -> Self:
        """A context for one attempt: it counts the load, and swallows a failure after which another may follow."""
        self._instance, self._load = instance, self._remote.load(instance)
        return self

    def __enter__(self) -> None:
        self._load.in_flight += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._load.in_flight -= 1
        if error is None:
            self._load.failures = 0
            return False
        return self._failed(self._instance, error)

    def _failed(self, instance: Instance, error: BaseException) -> bool:
        """Judge a failed attempt: True to go on, False to let `error` through; raises what the caller gets."""
        balancer = self._remote.balancer
        broken = isinstance(error, TransportFailed)
        failure = error.error if isinstance(error, TransportFailed) else error
        if not isinstance(failure, AixgoError):
            return False
        if broken:
            self._remote.failed(instance, refused=not failure.accepted)
        else:
            self._state.ledger.record(failure.usage)
            if not isinstance(failure, DeadlineExceeded):
                balancer.succeeded(instance.instance_id)
        if not self._may_retry(instance, failure, broken) or not self._remote.retry_budget(self._target).spend():
            raise typed(failure, self._state) from error.__cause__
        self._count += 1
        self._last = failure
        if failure.accepted:
            self._avoid |= {instance.instance_id}
        elif not broken:
            self._never |= {instance.instance_id}
        return True

    def _may_retry(self, instance: Instance, failure: AixgoError, broken: bool) -> bool:
        if self.answered:
            return False
        if not failure.accepted:
            return True
        info = instance.by_name.get(self._target)
        idempotent = info is not None and info.idempotent
        return broken and idempotent and not self._only_refused and self._count < MAX_RETRIES

    def _pick(self, but: frozenset[str]) -> Instance | None:
        return self._remote.balancer.pick(self._target, self._remote.resolver.instances(self._target), but)

    async def _wait(self) -> Instance:
        """Wait for an instance: READY_TIMEOUT in all, or until the deadline with wait_for_ready."""
        await self._must_be_known()
        now = asyncio.get_running_loop().time
        if not self._until:
            patience = self._state.deadline if self._options.wait_for_ready else now() + READY_TIMEOUT
            self._until = min(patience, self._state.deadline)
        if self._avoid:
            await self._remote.pause()
        while True:
            instance = self._pick(self._avoid | self._never) or self._pick(self._never)
            if instance is not None:
                return instance
            if isinstance(self._last, (Overloaded, AgentNotFound)):
                raise typed(self._last, self._state)
            left = self._until - now()
            if left <= 0:
                raise self._unavailable()
            await self._remote.resolver.changed(left)

    async def _must_be_known(self) -> None:
        resolver, target = self._remote.resolver, self._target
        if resolver.known(target):
            return
        patience = min(READY_TIMEOUT, _remaining(self._state))
        if not await resolver.first_snapshot(patience):
            raise typed(
                RegistryUnavailable(
                    f"no control plane has answered, so agent {target!r} cannot be found;"
                    " check that one runs at the configured address (aixgo controlplane)"
                ),
                self._state,
            )
        if not resolver.known(target):
            known = ", ".join(resolver.names()[:10]) or "none"
            error = AgentNotFound(f"no agent named {target!r}; known: {known}", fields={"agent": target})
            raise typed(error, self._state)

    def _unavailable(self) -> AixgoError:
        if _remaining(self._state) <= 0:
            return past_deadline(self._state)
        count = len(self._remote.resolver.instances(self._target))
        error = AgentUnavailable(
            f"agent {self._target!r} has no ready instance ({count} listed)"
            + (f"; last: {self._last.message}" if self._last is not None else ""),
            retry_after=1.0,
            fields={"agent": self._target, "listed": count},
        )
        return typed(error, self._state)


def _remaining(state: CallState) -> float:
    return state.deadline - asyncio.get_running_loop().time()


def _lend(state: CallState) -> Budget | None:
    return None if state.budget is None else state.budget.lend()


def _repay(state: CallState, granted: Budget | None) -> None:
    if state.budget is not None and granted is not None:
        state.budget.repay(granted, state.ledger.usage)


def _trace(context: types_pb2.CallContext) -> Headers | None:
    """Write the current trace into the context, and as the headers that other tools read; None when there is none."""
    traceparent, tracestate, baggage = spans.inject()
    if not traceparent:
        return None
    context.traceparent, context.tracestate, context.baggage = traceparent, tracestate, baggage
    headers = (("traceparent", traceparent), ("tracestate", tracestate), ("baggage", baggage))
    return [(key, value) for key, value in headers if value]
