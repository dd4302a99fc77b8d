"""The attempts of one call: which instance each goes to, and whether another follows.

Owns the rules of typed ends and retries: what is proven not to have been accepted may go elsewhere, what may have been
accepted only when the agent is idempotent. Below it lies `replicas.py`; above it `remote.py`, which makes the calls.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from aixgo.call import CallState
from aixgo.errors import (
    AgentNotFound,
    AgentUnavailable,
    AixgoError,
    DeadlineExceeded,
    Overloaded,
    RegistryUnavailable,
)
from aixgo.runtime.balancer import Load
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.entry import READY_TIMEOUT, past_deadline, typed
from aixgo.runtime.grant import Grant
from aixgo.runtime.instance import Instance
from aixgo.runtime.plain import TransportFailed
from aixgo.runtime.replicas import Replicas
from aixgo.telemetry import metrics, spans
from aixgo.telemetry.endings import ending
from aixgo.usage import NO_USAGE

MAX_RETRIES = 4
"""Retries of a call that may have been accepted."""


class Attempts:
    """The attempts of one call: picks instances, waits for them, and decides after a failure whether another follows.

    An instance that refused the call is not asked again. One whose connection broke is avoided while there are others.
    `grant` is what the attempts may spend; whoever makes them says so when one begins and when it has ended well.
    A `with` block is one attempt, at the instance that was named last: it counts the load, and swallows a failure after
    which another may follow.
    """

    # What most calls, the first attempt of which succeeds, never change stands in the class: every call makes one.
    _avoid: frozenset[str] = frozenset()
    _never: frozenset[str] = frozenset()
    _last: AixgoError | None = None
    _until = 0.0
    _count = 0
    _instance: Instance
    _load: Load
    _asking: Instance | None = None
    _alone = False
    answered = False

    def __init__(
        self, replicas: Replicas, target: str, state: CallState, options: CallOptions, *, only_refused: bool = False
    ) -> None:
        self._replicas = replicas
        self._target = target
        self._state = state
        self._options = options
        self._only_refused = only_refused
        self.grant = Grant(state)

    def at_once(self) -> Instance | None:
        """The instance to try; None when `next` has to wait for one."""
        replicas, target, count = self._replicas, self._target, self._count
        but = self._avoid | self._never if count else self._never
        instance = replicas.balancer.pick(target, replicas.resolver.instances(target), but)
        if instance is not None:
            self._instance = instance
            if not count:
                replicas.retry_budget(target).paid()
        return instance

    async def next(self) -> Instance:
        """The instance to try, where there is none at once; raises the typed error when there is none in time."""
        self._instance = await self._wait()
        if not self._count:
            self._replicas.retry_budget(self._target).paid()
        return self._instance

    def timeout(self) -> float:
        """Seconds until the deadline; raises DeadlineExceeded when it has passed."""
        left = self._state.deadline - self._replicas.clock()
        if left <= 0:
            raise past_deadline(self._state)
        return left

    def hedge(self) -> Attempts | None:
        """One more attempt, beside the one that is out, at another instance; None when there must not be any.

        That is where none is out, the agent is not idempotent, no other instance is usable, or nothing is left of the
        budget or of the retries.
        """
        asked, budget = self._asking, self._state.budget
        if asked is None or self.answered or not self._idempotent(asked):
            return None
        if budget is not None and any(left is not None and left <= 0 for left in budget.left()):
            return None
        but = self._avoid | self._never | {asked.instance_id}
        other = self._pick(but)
        if other is None or not self._replicas.retry_budget(self._target).spend():
            return None
        self._avoid |= {other.instance_id}
        hedge = Attempts(self._replicas, self._target, self._state, self._options)
        hedge._alone, hedge._never, hedge._count = True, but, 1
        return hedge

    @property
    def instance_id(self) -> str:
        """The instance of the latest attempt."""
        return self._instance.instance_id

    def __enter__(self) -> None:
        replicas, instance = self._replicas, self._instance
        load = replicas.balancer.loads.get(instance.instance_id) or replicas.load(instance)
        self._asking, self._load = instance, load
        load.in_flight += 1
        if load.rests:
            replicas.balancer.tries(self._target, load)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._asking = None
        load = self._load
        load.in_flight -= 1
        if error is None:
            load.failures = 0
            if load.rests:
                self._replicas.balancer.answered(self._target, load)
            metrics.attempt_ended(self._target, None)
            return False
        followed = False
        try:
            followed = self._failed(self._instance, error)
        finally:
            self._tell(error, followed)
        return followed

    def _tell(self, error: BaseException, followed: bool) -> None:
        """Count a failed attempt. One that no agent ended has no span of its own, and is an event of its caller's."""
        failure = ending(error.error if isinstance(error, TransportFailed) else error, self._state)
        metrics.attempt_ended(self._target, failure, retried=followed)
        if followed or isinstance(error, TransportFailed):
            instance, kind = self._instance.instance_id, metrics.outcome(failure)
            told = {metrics.AGENT: self._target, "aixgo.instance.id": instance, "error.type": kind, "retried": followed}
            spans.event("aixgo.attempt.failed", told)

    def _failed(self, instance: Instance, error: BaseException) -> bool:
        """Judge a failed attempt: True to go on, False to let `error` through; raises what the caller gets."""
        balancer = self._replicas.balancer
        broken = isinstance(error, TransportFailed)
        failure = error.error if isinstance(error, TransportFailed) else error
        if not isinstance(failure, AixgoError):
            return False
        if failure.accepted:
            self._state.instance_id = instance.instance_id
        if broken:
            self._replicas.failed(instance, refused=not failure.accepted)
            self.grant.lose() if failure.accepted else self.grant.settle(NO_USAGE)
        else:
            self.grant.settle(failure.usage)
            if not isinstance(failure, DeadlineExceeded):
                balancer.succeeded(instance.instance_id)
            if failure.accepted:
                balancer.answered(self._target, self._load)
            elif failure.retry_after:
                balancer.refused(self._target, instance.instance_id, failure.retry_after)
        if not self._may_retry(instance, failure, broken) or not self._replicas.retry_budget(self._target).spend():
            raise typed(failure, self._state) from error.__cause__
        self._count += 1
        self._last = failure
        if failure.accepted:
            self._avoid |= {instance.instance_id}
        elif not broken:
            self._never |= {instance.instance_id}
        return True

    def _may_retry(self, instance: Instance, failure: AixgoError, broken: bool) -> bool:
        if self.answered or self._alone:
            return False
        if not failure.accepted:
            return True
        return broken and self._idempotent(instance) and not self._only_refused and self._count < MAX_RETRIES

    def _idempotent(self, instance: Instance) -> bool:
        info = instance.by_name.get(self._target)
        return info is not None and info.idempotent

    def _pick(self, but: frozenset[str]) -> Instance | None:
        return self._replicas.pick(self._target, but)

    async def _wait(self) -> Instance:
        """Wait for an instance: READY_TIMEOUT in all, or until the deadline with wait_for_ready."""
        await self._must_be_known()
        now = asyncio.get_running_loop().time
        if not self._until:
            patience = self._state.deadline if self._options.wait_for_ready else now() + READY_TIMEOUT
            self._until = min(patience, self._state.deadline)
        if self._avoid:
            await self._replicas.pause()
        while True:
            instance = self._pick(self._avoid | self._never) or self._pick(self._never)
            if instance is not None:
                return instance
            if isinstance(self._last, (Overloaded, AgentNotFound)):
                raise typed(self._last, self._state)
            left = self._until - now()
            if left <= 0:
                raise self._unavailable()
            await self._replicas.resolver.changed(left)

    async def _must_be_known(self) -> None:
        resolver, target = self._replicas.resolver, self._target
        if resolver.known(target):
            return
        patience = min(READY_TIMEOUT, remaining(self._state))
        try:
            heard = await resolver.find(target, patience)
        except AixgoError as error:
            raise typed(error, self._state) from error.__cause__
        if not heard:
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
        if remaining(self._state) <= 0:
            return past_deadline(self._state)
        count = len(self._replicas.resolver.instances(self._target))
        error = AgentUnavailable(
            f"agent {self._target!r} has no ready instance ({count} listed)"
            + (f"; last: {self._last.message}" if self._last is not None else ""),
            retry_after=1.0,
            fields={"agent": self._target, "listed": count},
        )
        return typed(error, self._state)


def remaining(state: CallState) -> float:
    """Seconds until the deadline of a call; negative when it has passed."""
    return state.deadline - asyncio.get_running_loop().time()
