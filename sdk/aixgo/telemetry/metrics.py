"""What a process counts: calls, latencies, tokens, cost, retries, and how full it is; at no cost while nobody asks.

Owns the names of all metrics. Like spans, they go to the meter provider that is set in this process, by `setup.py` or
by the application; while none is, opentelemetry is not even imported. The names `gen_ai.*` and their buckets are those
of the GenAI conventions. Above: the runtimes, the server, and what measures LLM calls (`llm.py`).
"""

from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from aixgo.errors import AixgoError, CallCancelled
from aixgo.telemetry import durations
from aixgo.telemetry.durations import AGENT, Durations
from aixgo.telemetry.endings import ending

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

Reading = tuple[str, float, Mapping[str, str]]
"""The name of a gauge or total, its value now, and what tells it from others of the name."""

SCOPE = "aixgo"
OUTCOME = "aixgo.outcome"
"""`ok`, or the type of the error."""
REASON = "aixgo.reason"
"""Why a call was refused: `queue`, `deadline` and `circle` by an agent's own limit, `process`, `rate` and `draining` by
its process."""

GENAI_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
GENAI_TOKENS = tuple(4**power for power in range(14))
_CALL = (AGENT, OUTCOME)
_LLM = ("gen_ai.provider.name", "gen_ai.request.model")
COUNTERS: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "aixgo.calls": ("{call}", "Calls that agents of this process ended, by agent and outcome.", _CALL),
    "aixgo.calls.refused": ("{call}", "Calls and messages that no agent saw, by reason and agent.", (REASON, AGENT)),
    "aixgo.remote.attempts": ("{attempt}", "Attempts of calls to other processes, by agent and outcome.", _CALL),
    "aixgo.remote.retries": ("{attempt}", "Attempts after which another one followed, by agent and outcome.", _CALL),
    "aixgo.llm.tokens": ("{token}", "Tokens of LLM calls, by model and kind.", (*_LLM, "gen_ai.token.type")),
    "aixgo.llm.cost.usd": ("{USD}", "USD of LLM calls whose price is known, by model.", _LLM),
    "aixgo.llm.unpriced_calls": ("{call}", "LLM calls whose price is not known, by model.", _LLM),
}
"""Unit, meaning, and the attributes that tell one count from another."""
HISTOGRAMS = {
    durations.NAME: (durations.UNIT, durations.MEANING, durations.SECONDS),
    "gen_ai.client.operation.duration": ("s", "How long LLM calls took.", GENAI_SECONDS),
    "gen_ai.client.token.usage": ("{token}", "Tokens of single LLM calls.", GENAI_TOKENS),
}
GAUGES = {
    "aixgo.calls.active": ("{call}", "Calls that agents of this process are at."),
    "aixgo.server.calls.active": ("{call}", "Calls that came from other processes and have not ended."),
    "aixgo.server.calls.limit": ("{call}", "How many of those there may be."),
    "aixgo.queue.depth": ("{call}", "Calls that wait for their turn, by agent."),
    "aixgo.loop.lag": ("s", "How late the event loop was at the most since the last look."),
    "aixgo.agents": ("{agent}", "Agents of this process."),
    "aixgo.mailbox.depth": ("{message}", "Messages that wait in a mailbox or are out for delivery."),
    "aixgo.mailbox.dead_letters": ("{message}", "Messages that were given up."),
    "aixgo.instances": ("{instance}", "Instances of other processes that are known, by state."),
    "aixgo.channels": ("{channel}", "Connections to other processes that are kept."),
    "aixgo.registry.instances": ("{instance}", "Instances that this control plane lists, by state."),
    "aixgo.registry.watchers": ("{watch}", "Processes that follow the list of this control plane."),
}
TOTALS = {
    "aixgo.registry.registrations": ("{instance}", "Instances that came onto the list of this control plane."),
    "aixgo.registry.expirations": ("{instance}", "Instances whose lease ended because nobody renewed it."),
}
"""What only grows, and is counted by the sources themselves."""

_TRIES = 3
_PENDING = 256
"""Measurements that wait at most. Recording them together takes half as long as one by one, between other work."""


class Source(Protocol):
    """Something that has gauges and totals. It is asked from a thread of the exporter's."""

    def readings(self) -> Iterable[Reading]:
        """The values now."""
        ...


def enabled() -> bool:
    """Whether a real meter provider is set in this process."""
    return _instruments() is not None


def observe(source: Source) -> None:
    """Show the gauges of `source` for as long as it lives; nothing while nobody asks for metrics."""
    instruments = _instruments()
    if instruments is not None:
        instruments.observe(source)


def keep(own: Durations | None) -> Durations | None:
    """Count the durations of calls in `own`, which readers then tell of, and no longer in OpenTelemetry's histogram.

    For who makes the meter provider, before it is set. Returns what they were counted in before.
    """
    before, _Door.durations = _Door.durations, own
    return before


def running() -> Instruments | None:
    """Where the calls of this process's agents are counted, with `began` and `ended`; None while nobody asks.

    Asked for once a call: finding out takes as long as counting.
    """
    return _instruments()


def call_refused(reason: str, agent: str = "") -> None:
    """A call or message was refused. `agent` is whose limit it was, "" for the process's: callers invent names."""
    instruments = _instruments()
    if instruments is not None:
        instruments.count("aixgo.calls.refused", (reason, agent), 1)


def attempt_ended(agent: str, error: BaseException | None, *, retried: bool = False) -> None:
    """An attempt of a call to another process has ended; `retried`: another one follows."""
    instruments = _instruments()
    if instruments is not None:
        told = agent, outcome(error)
        instruments.count("aixgo.remote.attempts", told, 1)
        if retried:
            instruments.count("aixgo.remote.retries", told, 1)


def llm_ended(
    attributes: Mapping[str, Any], tokens: Mapping[str, int], cost: float | None, seconds: float, error: str = ""
) -> None:
    """An LLM call has ended, with so many tokens of each kind (`input`, `output`); `cost` None is an unknown one.

    `attributes` are those of its span, of which the conventions' few are kept: each of their values is a time series.
    """
    instruments = _instruments()
    if instruments is None:
        return
    model = {key: attributes[key] for key in _OF_LLM if attributes.get(key) is not None}
    asked = tuple(str(attributes.get(key, "")) for key in _LLM)
    failed = {"error.type": error} if error else {}
    instruments.record("gen_ai.client.operation.duration", seconds, model | failed)
    for kind, count in tokens.items():
        if count:
            instruments.record("gen_ai.client.token.usage", count, model | {"gen_ai.token.type": kind})
            instruments.count("aixgo.llm.tokens", (*asked, kind), count)
    if cost is None:
        instruments.count("aixgo.llm.unpriced_calls", asked, 1)
    elif cost:
        instruments.count("aixgo.llm.cost.usd", asked, cost)


def outcome(error: BaseException | None) -> str:
    """`ok`, or the type of a typed error: of a cancellation that which the caller of the current call sees."""
    if error is None:
        return "ok"
    error = ending(error)
    return type(error).__name__ if isinstance(error, AixgoError) else CallCancelled.__name__


_OF_LLM = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model")


class Instruments:
    """The instruments of one meter provider, and who is asked for gauges. `running` hands it out, for calls only."""

    def __init__(self, meter: Meter, own: Durations | None) -> None:
        self.active = 0
        self._durations = own
        self._sources: list[weakref.ref[Source]] = []
        self._counts: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in COUNTERS}
        self._context = _current_context()
        self._pending: deque[tuple[Histogram, float, Mapping[str, str], Context]] = deque()
        for name, (unit, description, _) in COUNTERS.items():
            meter.create_observable_counter(name, [self._callback(self._counted, name)], unit, description)
        self._histograms = {
            name: meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=list(bounds))
            for name, (unit, description, bounds) in HISTOGRAMS.items()
        }
        for name, (unit, description) in GAUGES.items():
            meter.create_observable_gauge(name, [self._callback(self._values, name)], unit, description)
        for name, (unit, description) in TOTALS.items():
            meter.create_observable_counter(name, [self._callback(self._values, name)], unit, description)

    def began(self) -> None:
        """An agent of this process began a call; `ended` must follow."""
        self.active += 1

    def ended(self, agent: str, error: BaseException | None, seconds: float) -> None:
        """A call of an agent of this process has ended."""
        self.active -= 1
        self.count("aixgo.calls", (agent, outcome(error)), 1)
        if self._durations is not None:
            self._durations.add(agent, seconds)
        else:
            self.record(durations.NAME, seconds, {AGENT: agent})

    def count(self, name: str, key: tuple[str, ...], more: float) -> None:
        counts = self._counts[name]  # counters of OpenTelemetry's, which are asked for instead, take ten times as long
        counts[key] = counts.get(key, 0) + more

    def record(self, name: str, value: float, attributes: Mapping[str, str]) -> None:
        """Note a measurement. It reaches OpenTelemetry with others, at the latest when somebody collects them."""
        self._pending.append((self._histograms[name], value, attributes, self._context()))
        if len(self._pending) >= _PENDING:
            self._record_pending()

    def _record_pending(self) -> None:
        try:
            while True:  # one at a time: a collecting thread may be at it, too
                histogram, value, attributes, context = self._pending.popleft()
                histogram.record(value, attributes, context)
        except IndexError:
            return

    def observe(self, source: Source) -> None:
        self._sources = [*(ref for ref in self._sources if ref() is not None), weakref.ref(source)]

    def _callback(self, values: Callable[[str], Iterable[tuple[float, Mapping[str, str]]]], name: str) -> Any:
        from opentelemetry.metrics import Observation

        def observed(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, attributes) for value, attributes in values(name)]

        return observed

    def _counted(self, name: str) -> Iterator[tuple[float, Mapping[str, str]]]:
        self._record_pending()  # counters are asked before histograms are read
        keys = COUNTERS[name][2]
        for values, total in list(self._counts[name].items()):
            yield total, dict(zip(keys, values, strict=True))

    def _values(self, name: str) -> Iterator[tuple[float, Mapping[str, str]]]:
        if name == "aixgo.calls.active":
            yield self.active, {}
        totals: dict[tuple[tuple[str, str], ...], float] = {}  # two runtimes of a process may know the same
        for source in [ref() for ref in self._sources]:
            for told, value, attributes in () if source is None else _readings(source):
                if told == name:
                    key = tuple(sorted(attributes.items()))
                    totals[key] = totals.get(key, 0) + value
        yield from ((value, dict(key)) for key, value in totals.items())


def _readings(source: Source) -> Sequence[Reading]:
    for _ in range(_TRIES):
        try:
            return list(source.readings())
        except RuntimeError:  # what it reads changed size meanwhile: the event loop goes on in its own thread
            continue
    return []


def _current_context() -> Callable[[], Context]:
    from opentelemetry.context import get_current

    return get_current


class _Door:
    """The provider that was seen last, and its instruments: OpenTelemetry has one meter provider for a process."""

    provider: object = None
    instruments: Instruments | None = None
    durations: Durations | None = None


def _instruments() -> Instruments | None:
    module = sys.modules.get("opentelemetry.metrics._internal")
    # The private name, because get_meter_provider() asks the environment every time, and makes a provider of it.
    provider: Any = None if module is None else getattr(module, "_METER_PROVIDER", None)
    if provider is not _Door.provider:
        _Door.instruments = None if provider is None else Instruments(provider.get_meter(SCOPE), _Door.durations)
        _Door.provider = provider
    return _Door.instruments
