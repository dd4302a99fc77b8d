"""Running faults under load, and the table of what came of them.

Below: `faults.py`, `load.py`, `mesh.py`; above: the command line and the short form in CI.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from aixgo import DistributedRuntime

from tests.chaos.cast import ONCE, TELL_ONCE
from tests.chaos.faults import Fault, until_whole
from tests.chaos.lag import LoopLag
from tests.chaos.load import Load, Tally
from tests.chaos.mesh import Mesh
from tests.chaos.networks import available

IN_FLIGHT = 64
LATE = 0.1
"""Seconds, net of lag, that the 99th percentile of late ends stays below."""
COLUMNS = ("fault", "times", "calls ok", "idempotent failed", "hangs", "streams cut", "overrun p99", "other ends")


@dataclass
class Row:
    """What one fault, so many `times`, did to the calls. `skipped` says why it could not be injected."""

    fault: str
    times: int = 0
    tally: Tally = field(default_factory=Tally)
    not_whole: Counter[str] = field(default_factory=Counter[str])
    """What was missing when the mesh should have been whole again."""
    skipped: str = ""
    lag: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every promise was kept that does not depend on how busy the machine is."""
        tally = self.tally
        return not (tally.idempotent_failed or tally.hangs or tally.untyped or tally.wrong or self.not_whole)

    def cells(self) -> Sequence[str]:
        """The row of the table."""
        tally = self.tally
        if self.skipped:
            return (self.fault, "0", *("-" for _ in COLUMNS[3:]), f"skipped: {self.skipped}")
        others = ", ".join(f"{name} {count}" for name, count in sorted(tally.errors.items())) or "none"
        failed, late = sum(tally.idempotent_failed.values()), f"{tally.late_p99() * 1000:.0f} ms of {len(tally.late)}"
        cells = (self.fault, self.times, tally.ok, failed, tally.hangs, tally.streams_cut, late, others)
        return tuple(map(str, cells))

    def complaints(self) -> list[str]:
        """What must not have been, in words."""
        tally, said = self.tally, list[str]()
        for what in (tally.idempotent_failed, tally.untyped, tally.wrong, self.not_whole):
            said += [f"{self.fault}: {count} x {text}" for text, count in what.most_common(10)]
        if tally.late_p99() >= LATE:
            said.append(f"{self.fault}: deadlines were overrun")
        return said


@dataclass
class Report:
    """All rows of one run, and the calls to agents that are not idempotent which ran more than once."""

    transport: str
    seed: int
    rows: list[Row] = field(default_factory=list[Row])
    repeated: int = 0
    drains_failed: int = 0
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every promise was kept that does not depend on how busy the machine is."""
        return all(row.held for row in self.rows) and not self.repeated and not self.drains_failed

    def table(self) -> str:
        """The table, and below it what must not have been."""
        lines = [COLUMNS, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        texts = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines]
        lag = max((row.lag for row in self.rows), default=0.0)
        slowest = max((row.tally.slowest for row in self.rows), default=0.0)
        texts += [
            f"transport {self.transport}, seed {self.seed}, {self.seconds:.0f} s",
            f"slowest call {slowest:.1f} s, worst lag of the loop {lag * 1000:.0f} ms",
            f"calls to agents that are not idempotent which ran twice: {self.repeated}",
            f"drains that did not end well: {self.drains_failed}",
            *(complaint for row in self.rows for complaint in row.complaints()),
        ]
        return "\n".join(text.rstrip() for text in texts)


async def run(
    faults: Sequence[Fault],
    *,
    times: int,
    seed: int,
    transport: str = "plain",
    in_flight: int = IN_FLIGHT,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Inject each fault so many `times` under load; `say` hears of each."""
    rng, began = random.Random(seed), monotonic()
    report, no_networks = Report(transport, seed), available()
    with (
        tempfile.TemporaryDirectory() as folder,
        Mesh(networks=not no_networks, transport=transport) as mesh,
    ):
        journal = Path(folder) / "journal"
        async with (
            LoopLag() as lag,
            DistributedRuntime(control_plane=mesh.addresses, transport=transport) as runtime,
            Load(runtime, lag, str(journal), in_flight=in_flight, rng=random.Random(seed)) as load,
        ):
            await until_whole(mesh, runtime, load)
            for fault in faults:
                row = Row(fault.name, skipped=no_networks if fault.needs_networks else "")
                report.rows.append(row)
                load.tally, lag.worst = row.tally, 0.0
                for _ in range(0 if row.skipped else times):
                    await fault.inject(mesh, rng)
                    if missing := await until_whole(mesh, runtime, load):
                        row.not_whole[missing] += 1
                        say(f"{fault.name}: not whole: {missing}")
                    row.times += 1
                    say(f"{fault.name} {row.times}/{times}: {row.tally.ok} calls ok, {dict(row.tally.errors)}")
                row.lag = lag.worst
        report.repeated = _repeated(journal)
        report.drains_failed = mesh.drains_failed
    report.seconds = monotonic() - began
    return report


def _repeated(journal: Path) -> int:
    """Calls to agents that are not idempotent which began more than once."""
    begun = Counter(line for line in journal.read_text().splitlines() if line.split()[0] in (ONCE, TELL_ONCE))
    return sum(count > 1 for count in begun.values())
