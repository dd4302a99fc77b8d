"""Faults in real processes, counted: `make chaos` in full, tests/chaos/test_chaos.py in short.

    python -m tests.chaos --times 20 --seed 1 --transport session
    python -m tests.chaos --fault "SIGSTOP one" --fault "network cut" --times 2
    python -m tests.chaos --only trees --trees 200

Ends with 1 when a promise was broken. Needs root for cuts of the network; without it that row says that it was skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from datetime import UTC, datetime

from tests.chaos import report, trees
from tests.chaos.faults import FAULTS


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="how often each fault is injected")
    parser.add_argument("--trees", type=int, default=200, help="how many trees are cancelled")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=report.IN_FLIGHT)
    parser.add_argument("--fault", action="append", choices=[fault.name for fault in FAULTS])
    parser.add_argument("--only", choices=["faults", "trees"])
    parser.add_argument("--transport", action="append", choices=["plain", "session"])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    held = [asyncio.run(_one(arguments, transport)) for transport in arguments.transport or ["session", "plain"]]
    sys.exit(not all(held))


async def _one(arguments: argparse.Namespace, transport: str) -> bool:
    """Run what was asked for over one transport."""
    held = True
    if arguments.only != "trees":
        chosen = [fault for fault in FAULTS if fault.name in (arguments.fault or [each.name for each in FAULTS])]
        ended = await report.run(
            chosen,
            times=arguments.times,
            seed=arguments.seed,
            transport=transport,
            in_flight=arguments.in_flight,
            say=_say,
        )
        print(ended.table(), flush=True)
        held = ended.held
    if arguments.only != "faults":
        cancelled = await trees.run(times=arguments.trees, seed=arguments.seed, transport=transport, say=_say)
        print(cancelled.table(), flush=True)
        held = held and cancelled.held
    return held


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


if __name__ == "__main__":
    main()
