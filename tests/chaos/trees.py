"""A tree of 20 agents over 8 processes, cancelled at random moments: what still runs, for how long, and what is told.

Owns the counting and its table. Below: `tree_cast.py` (the tree), `vendor.py` (the language model); above: the command
line and the short form in CI.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from aixgo import DistributedRuntime, Usage
from aixgo import call as ambient

from tests.chaos.lag import LoopLag
from tests.chaos.tree_cast import AGENTS, JOURNAL, PROCESSES, above, place
from tests.chaos.vendor import TOKENS, Request, SlowVendor
from tests.support import Process, start_registry

CAST = "tests.chaos.tree_cast:new_agents"
MOMENTS = (0.0, 1.2)
"""Seconds, from and to, after which a tree is cancelled; left alone it takes about as long."""
TIMEOUT = 60.0
STOPPED = 10.0
"""Seconds after which what still runs will not stop."""
LATE = 0.2
"""Seconds, net of lag, within which the 99th percentile of all that is to stop has stopped."""
LOOK = 0.05


@dataclass(frozen=True)
class Lags:
    """When event loops could not act: by process, the stretches of time, in seconds of the machine's clock."""

    stretches: dict[int, list[tuple[float, float]]]

    def within(self, processes: set[int], begin: float, end: float) -> float:
        """Seconds between `begin` and `end` at which at least one of these processes could not act."""
        found = sorted(
            (max(begin, since), min(end, until))
            for process in processes
            for since, until in self.stretches.get(process, ())
            if until > begin and since < end
        )
        total, covered = 0.0, begin
        for since, until in found:
            total += max(0.0, until - max(since, covered))
            covered = max(covered, until)
        return total


@dataclass
class Told:
    """What the caller of a cancelled tree was told, and what was really asked of the vendor."""

    usage: Usage
    begun: int
    answered: int

    @property
    def exact(self) -> bool:
        """Whether every request is in the usage."""
        return self.usage.llm_calls >= self.begun and self.usage.total_tokens >= self.answered * sum(TOKENS)

    @property
    def silent(self) -> bool:
        """Whether something is missing without a word."""
        return not self.exact and not self.usage.incomplete


@dataclass
class Cancelled:
    """What became of so many trees. `stops` has how long each task and request went on, in seconds net of lag."""

    transport: str
    seed: int
    trees: int = 0
    ended_before: int = 0
    requests_cut: int = 0
    stops: list[float] = field(default_factory=list[float])
    gross: list[float] = field(default_factory=list[float])
    still_running: int = 0
    told: list[Told] = field(default_factory=list[Told])
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every promise was kept that does not depend on how busy the machine is."""
        return not self.still_running and not any(told.silent for told in self.told)

    def table(self) -> str:
        """The table."""
        exact, silent = sum(told.exact for told in self.told), sum(told.silent for told in self.told)
        rows = [
            (
                "trees of 20 agents over 8 processes, cancelled",
                f"{self.trees}; {self.ended_before} more ended too soon",
            ),
            ("requests to the model that ran then", self.requests_cut),
            ("tasks and requests that had to stop", len(self.stops)),
            ("of these, still running", self.still_running),
            ("stopped within, p50", f"{_percentile(self.stops, 50) * 1000:.0f} ms net of lag"),
            ("stopped within, p99", _late(self.stops)),
            ("p99, lag and all", f"{_percentile(self.gross, 99) * 1000:.0f} ms"),
            ("usage told: to the last request", exact),
            ("usage told: marked as incomplete", len(self.told) - exact - silent),
            ("usage missing without a word", silent),
            ("transport, seed, seconds", f"{self.transport}, {self.seed}, {self.seconds:.0f}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


async def run(
    *, times: int, seed: int, transport: str = "plain", say: Callable[[str], None] = lambda _: None
) -> Cancelled:
    """Cancel so many trees; `say` hears of each."""
    rng, began, ended = random.Random(seed), monotonic(), Cancelled(transport, seed)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        journal = Path(folder) / "journal"
        journal.touch()
        own = list[tuple[float, float]]()
        async with SlowVendor(rng) as vendor, LoopLag(lambda at, late: own.append((at - late, at))):
            registry = await asyncio.to_thread(stack.enter_context(start_registry()).wait_ready)
            hosts = [stack.enter_context(_host(n, registry, transport, journal, vendor.url)) for n in range(PROCESSES)]
            for host in hosts:
                await asyncio.to_thread(host.wait_ready)
            places = [host.pid for host in hosts]
            async with DistributedRuntime(control_plane=[registry.address], transport=transport) as runtime:
                await _call(runtime, "tree-0", streamed=True)  # everything is loaded and connected
                while ended.trees < times:
                    tree = f"tree-{ended.trees + ended.ended_before + 1}"
                    if await _cancel_one(runtime, tree, rng, vendor, journal, places, own, ended):
                        say(f"{ended.trees}/{times} trees, p99 {_late(ended.stops)}, {ended.still_running} still run")
            for host in hosts:
                host.terminate()
    ended.seconds = monotonic() - began
    return ended


async def _cancel_one(
    runtime: DistributedRuntime,
    tree: str,
    rng: random.Random,
    vendor: SlowVendor,
    journal: Path,
    places: Sequence[int],
    own: list[tuple[float, float]],
    ended: Cancelled,
) -> bool:
    """Cancel a tree, and count; False when it had ended before."""
    state = ambient.root(TIMEOUT)
    with ambient.entered(state):
        call = asyncio.create_task(_call(runtime, tree, streamed=rng.random() < 0.5))
    await asyncio.wait({call}, timeout=rng.uniform(*MOMENTS))
    cancelled = monotonic()
    if call.done():
        await call
        ended.ended_before += 1
        return False
    ended.trees += 1
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    told = state.ledger.usage
    until = monotonic() + STOPPED
    while _running(vendor.requests, journal, tree) and monotonic() < until:  # noqa: ASYNC110  # nobody sets an event
        await asyncio.sleep(LOOK)
    requests = [request for request in vendor.requests if request.tree == tree]
    ended.told.append(Told(told, len(requests), sum(request.answered for request in requests)))
    ended.still_running += _running(vendor.requests, journal, tree)
    ended.requests_cut += sum(request.ended is None or request.ended > cancelled for request in requests)
    lags = _lags(journal, own)
    stops = [(request.ended, AGENTS) for request in requests if request.ended is not None]
    stops += [(at, above(name)) for name, at in _ends(journal, tree)]
    for at, through in stops:
        if at > cancelled:
            on_the_way = {os.getpid(), *(places[place(name)] for name in through)}
            ended.gross.append(at - cancelled)
            ended.stops.append(at - cancelled - lags.within(on_the_way, cancelled, at))
    return True


async def _call(runtime: DistributedRuntime, tree: str, *, streamed: bool) -> None:
    if not streamed:
        await runtime.call("root", tree, timeout=TIMEOUT)
        return
    async with runtime.stream("root", tree, timeout=TIMEOUT) as events:
        async for _ in events:
            pass


def _running(requests: Sequence[Request], journal: Path, tree: str) -> int:
    """Tasks and requests of a tree that have not ended."""
    lines = _lines(journal, tree)
    tasks = sum(words[0] == "begin" for words in lines) - sum(words[0] == "end" for words in lines)
    return tasks + sum(request.tree == tree and request.ended is None for request in requests)


def _ends(journal: Path, tree: str) -> list[tuple[str, float]]:
    """The agents whose tasks for a tree have ended, and when."""
    return [(words[2], float(words[4])) for words in _lines(journal, tree) if words[0] == "end"]


def _lines(journal: Path, word: str) -> list[list[str]]:
    """The whole lines of the journal with this word."""
    text = journal.read_text()
    lines = (line.split() for line in text[: text.rfind("\n") + 1].splitlines() if word in line)
    return [words for words in lines if word in words]


def _lags(journal: Path, own: list[tuple[float, float]]) -> Lags:
    """What is known of the lag of all processes."""
    stretches = {os.getpid(): own}
    for _, process, at, late in _lines(journal, "late"):
        stretches.setdefault(int(process), []).append((float(at) - float(late), float(at)))
    return Lags(stretches)


def _host(number: int, registry: Process, transport: str, journal: Path, url: str) -> Process:
    names = [name for name in AGENTS if place(name) == number]
    return Process(
        "agents",
        *names,
        f"--control-plane={registry.address}",
        f"--cast={CAST}",
        f"--transport={transport}",
        environment={JOURNAL: str(journal), "OPENAI_BASE_URL": url},
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100] if values else 0.0


def _late(stops: Sequence[float]) -> str:
    p99 = _percentile(stops, 99)
    return f"{p99 * 1000:.0f} ms net of lag" + ("" if p99 < LATE else f", more than {LATE * 1000:.0f}")
