"""Hostile input on every port of real processes, under load, counted and judged.

    python -m tests.chaos.hostile --minutes 10 --seed 1

Two fleets, one in plain text and one with mTLS, serve good callers, in processes of their own, all the while. Each
round makes every attack on every port it fits, over connections of their own. Ends with 1 when a promise broke: a
process ended, an answer was untyped or leaked, something hung, a good caller failed, or memory grew by the round.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import grpc.aio
from aixgo.runtime.channels import channel_options
from aixgo.security.security import Security

from tests.chaos.good_callers import GoodCallers, Served
from tests.chaos.outcomes import Book, Outcomes
from tests.chaos.raw_attacks import RAW, IdleConnections, raw_attack, slow_reader
from tests.chaos.registry_attacks import CONTROL_PLANE
from tests.chaos.rpc_attacks import AGENT, AGENTS, HEALTH_CHECKS, REGISTRY, Attack, call, unary
from tests.chaos.tls_attacks import Forger, impostures
from tests.chaos.victims import Usage, Victim, Victims
from tests.integration.secured import security

LARGEST = 64 * 1024 * 1024
"""Bytes that an attacker's channel sends: more than any port takes."""
RAW_TRIES, RPC_TRIES = 3, 4
"""Tries of each attack on each port in one round."""
RAW_PAUSE = 0.5
"""Seconds between two raw connections to one port; there are 18 ports, and this program shares their machine."""
IDLE = 1_000
"""Idle connections of a round, on each of the ports in turn."""
GROWTH = 64 * 1024 * 1024
"""Bytes by which a process may be larger after the last round than after the first."""
CEILING = 1024 * 1024 * 1024
"""Bytes that no process may ever hold."""
DEFECTS = ("in aixgo", "never retrieved", "MemoryError", "RecursionError")
"""What only defects write into a log."""


@dataclass
class Watched:
    """What a process held: before, at most, and after each round."""

    before: Usage
    most: Usage
    rounds: list[Usage] = field(default_factory=list[Usage])


class Siege:
    """Both fleets, their good callers, and all that is noted. `idle` is how many idle connections a round has."""

    def __init__(self, plain: Victims, secured: Victims, forger: Forger, *, seed: int, idle: int = IDLE) -> None:
        self.book = Book()
        self.served = {"plain": Served(), "mTLS": Served()}
        self.rounds = 0
        self._attacks = Counter[str]()
        self._fleets = {"plain": plain, "mTLS": secured}
        self._forger = forger
        self._idle = idle
        self._rng = random.Random(seed)
        self.watched = {one: Watched(one.usage(), one.usage()) for fleet in self._fleets.values() for one in fleet.all}

    def names(self) -> dict[Victim, str]:
        """What each process is called in the tables."""
        return {one: f"{kind} {one.name}" for kind, fleet in self._fleets.items() for one in fleet.all}

    async def run(self, minutes: float) -> None:
        """Rounds of all attacks, for so long, and one at least."""
        end = monotonic() + minutes * 60
        async with AsyncExitStack() as stack:
            for kind in self._fleets:
                await stack.enter_async_context(self._good(kind))
            measuring = asyncio.create_task(self._measure())
            while not self.rounds or monotonic() < end:
                await self._round()
                self.rounds += 1
                for one, watched in self.watched.items():
                    if one.alive:
                        watched.rounds.append(one.usage())
            measuring.cancel()

    def _good(self, kind: str) -> GoodCallers:
        fleet = self._fleets[kind]
        ports = fleet.of("control-plane").ports["main"], fleet.of("gateway").ports["main"]
        certificates = (str(fleet.certificates),) if fleet.certificates else ()
        return GoodCallers(self.served[kind], self._attacks, *ports, *certificates)

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            for one, watched in self.watched.items():
                if one.alive:
                    now, most = one.usage(), watched.most
                    watched.most = Usage(max(now.rss, most.rss), max(now.fds, most.fds), max(now.threads, most.threads))

    async def _round(self) -> None:
        """Raw connections to everybody at once, since most of them are waits; all else meanwhile, one after another."""
        raw = [
            self._raw(kind, one, port)
            for kind, fleet in self._fleets.items()
            for one in fleet.all
            for port in one.ports
        ]
        await asyncio.gather(*raw, self._one_after_another())

    async def _one_after_another(self) -> None:
        for kind, fleet in self._fleets.items():
            for victim in fleet.all:
                await self._rpcs(kind, fleet, victim)
        await self._impostors()
        await self._idlers()

    async def _raw(self, kind: str, victim: Victim, port: str) -> None:
        address, where = victim.ports[port], f"{kind} {victim.name} {port}"
        tries: list[Coroutine[Any, Any, None]] = []
        for name, make in RAW.items():
            tries += [raw_attack(self.book.of(name, where), address, make, self._rng) for _ in range(RAW_TRIES)]
        if port == "metrics":
            tries += [slow_reader(self.book.of("slow reader", where), address) for _ in range(RAW_TRIES)]
        async with asyncio.TaskGroup() as group:
            for one in tries:
                group.create_task(one)
                await asyncio.sleep(RAW_PAUSE)

    async def _rpcs(self, kind: str, fleet: Victims, victim: Victim) -> None:
        trusted = security(fleet.certificates, "keeper") if fleet.certificates else Security()
        attacks = CONTROL_PLANE if victim.name == "control-plane" else AGENTS
        await self._attack(attacks, trusted, victim.ports["main"], f"{kind} {victim.name}")
        await self._attack(HEALTH_CHECKS, Security(), victim.ports["health"], f"{kind} {victim.name} health")

    async def _attack(self, attacks: dict[str, Attack], trusted: Security, address: str, where: str) -> None:
        options = [option for option in channel_options(LARGEST) if option[0] != "grpc.max_metadata_size"]
        for name, attack in attacks.items():
            async with trusted.dial(address, options) as channel:
                outcomes = self.book.of(name, where)
                self._attacks[f"{name} ({where})"] += 1
                await asyncio.gather(*(attack(channel, self._rng, outcomes) for _ in range(RPC_TRIES)))
                self._attacks[f"{name} ({where})"] -= 1

    async def _impostors(self) -> None:
        fleet = self._fleets["mTLS"]
        agents, control = fleet.of("agents"), fleet.of("control-plane")
        ports = {AGENT: [agents, fleet.of("gateway")], REGISTRY: [control]}
        plain = grpc.aio.insecure_channel
        for victim in fleet.all:
            method, request = (REGISTRY + "List", b"") if victim is control else (AGENT + "Execute", call())
            where, address = f"mTLS {victim.name}", victim.ports["main"]
            for name in self._forger.names:
                await self._forger.attack(name, method, request, self._forbidden(name, where), address)
            async with plain(address) as channel:
                await unary(channel, self._forbidden("plain text", where), method, request, timeout=20)
        for name, (method, request) in impostures(agents.ready["instance_id"]).items():
            service = method.rpartition("/")[0] + "/"
            for victim in ports[service]:
                outcomes = self._forbidden(name, f"mTLS {victim.name}")
                assert fleet.certificates is not None
                async with security(fleet.certificates, "mallory").dial(victim.ports["main"], ()) as channel:
                    await unary(channel, outcomes, method, request)

    def _forbidden(self, name: str, where: str) -> Outcomes:
        outcomes = self.book.of(name, where)
        outcomes.forbidden = True
        return outcomes

    async def _idlers(self) -> None:
        """Idle connections to all ports at once, held while everybody goes on."""
        ports = [(kind, one, port) for kind, fleet in self._fleets.items() for one in fleet.all for port in one.ports]
        mains = [one for one in ports if one[2] == "main"]
        for kind, victim, port in {ports[self.rounds % len(ports)], mains[self.rounds % len(mains)]}:
            outcomes = self.book.of("idle connections", f"{kind} {victim.name} {port}")
            before = sum(served.ok for served in self.served.values())
            self._attacks["idle connections"] += 1
            async with IdleConnections(outcomes, victim.ports[port], self._idle):
                await asyncio.sleep(2.0)
            self._attacks["idle connections"] -= 1
            if sum(served.ok for served in self.served.values()) == before:
                outcomes.wrong("no good caller was served meanwhile")


def verdict(siege: Siege) -> list[str]:
    """Which promises broke; none is what is hoped for."""
    broken = [
        f"{one.port}: {one.attack}: {what} ({n}x)" for one in siege.book.all for what, n in one.unexpected.items()
    ]
    for victim, name in siege.names().items():
        watched = siege.watched[victim]
        if not victim.alive:
            broken.append(f"{name} has ended:\n{victim.log()[-2000:]}")
        if watched.most.rss > CEILING:
            broken.append(f"{name} held {_mb(watched.most.rss)} MB")
        if len(watched.rounds) > 2 and watched.rounds[-1].rss - watched.rounds[1].rss > GROWTH:
            broken.append(f"{name} grows: {[_mb(each.rss) for each in watched.rounds]} MB after each round")
        broken += [f"{name} logged: {line}" for line in _defects(victim.log())]
    for kind, served in siege.served.items():
        broken += [f"good callers ({kind}): {what} ({n}x)" for what, n in served.failed.items()]
    return broken


def table(siege: Siege) -> str:
    """What was tried and how it ended, the processes, and the good callers."""
    lines = ["| attack | ports | tries | how they ended | unexpected |", "| --- | ---: | ---: | --- | ---: |"]
    for attack in sorted({one.attack for one in siege.book.all}):
        rows = [one for one in siege.book.all if one.attack == attack]
        answers = Counter[str]()
        for one in rows:
            answers += one.answers
        ended = ", ".join(f"{count} {answer}" for answer, count in answers.most_common())
        wrong = sum(one.unexpected.total() for one in rows)
        lines.append(f"| {attack} | {len(rows)} | {sum(one.tries for one in rows)} | {ended} | {wrong} |")
    lines += ["", "| process | MB before, most, after rounds | fds | threads |", "| --- | --- | --- | --- |"]
    for victim, name in siege.names().items():
        seen = siege.watched[victim]
        after = " ".join(_mb(each.rss) for each in seen.rounds)
        last = seen.rounds[-1] if seen.rounds else seen.most
        fds = f"{seen.before.fds}, {seen.most.fds}, {last.fds}"
        threads = f"{seen.before.threads}, {seen.most.threads}, {last.threads}"
        lines.append(f"| {name} | {_mb(seen.before.rss)}, {_mb(seen.most.rss)}, {after} | {fds} | {threads} |")
    for kind, served in siege.served.items():
        lines.append(
            f"\ngood callers ({kind}): {served.ok} served, {served.failed.total()} failed,"
            f" {served.stood_still.total()} while they stood still themselves, slowest {served.slowest:.1f} s,"
            f" worst lag of their event loop {served.lag:.1f} s"
        )
        lines += [f"    stood still: {what} ({n}x)" for what, n in served.stood_still.items()]
    return "\n".join(lines)


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f}"


def _defects(log: str) -> list[str]:
    """Lines of a log that tell of a defect. What grpc.aio itself logs of callers who leave is none."""
    return [line[:300] for line in log.splitlines() if any(sign in line for sign in DEFECTS)][:5]


async def besiege(
    *, minutes: float, seed: int, idle: int = IDLE, say: Callable[[str], None] = print
) -> tuple[Siege, Sequence[str]]:
    """Start everything, attack it for so long, and judge."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with Victims(folder / "plain", secured=False) as plain, Victims(folder / "mtls", secured=True) as secured:
            assert secured.certificates is not None
            forger = Forger(secured.certificates, folder / "forged")
            siege = Siege(plain, secured, forger, seed=seed, idle=idle)
            await siege.run(minutes)
            say(table(siege))
            broken = verdict(siege)
    return siege, broken


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hostile", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    siege, broken = asyncio.run(besiege(minutes=arguments.minutes, seed=arguments.seed))
    print(f"\n{siege.rounds} rounds; " + ("every promise held" if not broken else "BROKEN:\n" + "\n".join(broken)))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
