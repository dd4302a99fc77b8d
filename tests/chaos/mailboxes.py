"""Messages under SIGKILL: a sender, two receivers and a NATS server, one after the other killed and restarted.

    python -m tests.chaos.mailboxes --messages 10000 --kills 60 --seed 1

Prints a table of what became of every message, and ends with 1 when a promise was broken: an accepted message is worked
on or a dead letter; every delivery after a message's first says that it is one; sessions keep their order. What the
processes saw lies in files to which each line is one write, so that it outlives them too. Kills are triggered by
progress, not by time.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep, time_ns

from aixgo import Agent, DistributedRuntime, Message
from aixgo.errors import AgentNotFound, MailboxFull, Unavailable
from aixgo.mailboxes.contract import MailboxPolicy
from aixgo.mailboxes.nats import NatsMailboxes
from pydantic import SecretStr

from tests.nats_server import NatsServer, find_servers

ROOT = Path(__file__).resolve().parents[2]
POLICY = MailboxPolicy(max_messages=500, max_deliveries=5, backoff=(0.05, 0.1, 0.2), ack_wait=2.0)
SESSIONS, WORKERS, RECEIVERS = 40, 8, 2
POISON, FLAKY = (500, 7), (50, 3)
"""Of so many messages one fails always, and one at its first delivery."""
PATIENCE = 120.0
"""Seconds without any progress after which a run is given up as hanging."""
LOOK = 0.02


def is_poison(number: int) -> bool:
    """Whether the message of that number always fails."""
    return number % POISON[0] == POISON[1]


class Log:
    """A file to which each line is one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def write(self, *words: object) -> None:
        """Add a line; it begins with the time in ns, by which lines of several files have an order."""
        os.write(self._file, (" ".join(map(str, (time_ns(), *words))) + "\n").encode())


class Sink(Agent):
    """Notes each delivery when it begins, and each that it has worked on."""

    name = "sink"

    def __init__(self, log: Log) -> None:
        self._log = log

    async def execute(self, message: Message) -> Message:
        return message

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            try:
                async with delivery as message:
                    number = int(message.text)
                    marked = "again" if delivery.redelivered else "first"
                    self._log.write("begun", number, marked, delivery.attempt)
                    if is_poison(number) or (number % FLAKY[0] == FLAKY[1] and delivery.attempt == 1):
                        raise ValueError(f"message {number} fails")
                    self._log.write("done", number)
            except ValueError:
                pass


async def receive(url: str, folder: Path) -> None:
    """Be a receiver, until killed."""
    runtime = DistributedRuntime(mailboxes=NatsMailboxes(SecretStr(url), POLICY))
    runtime.register(Sink(Log(folder / f"received-{os.getpid()}.log")))
    async with runtime:
        await asyncio.Event().wait()


async def send(url: str, folder: Path, messages: int) -> None:
    """Send what no sender before is known to have sent."""
    log = Log(folder / "sent.log")
    sent = {int(words[1]) for words in lines(folder, "sent.log") if words[0] == "accepted"}
    async with DistributedRuntime(mailboxes=NatsMailboxes(SecretStr(url), POLICY)) as runtime:

        async def work(worker: int) -> None:
            for number in range(worker, messages, WORKERS):
                if number not in sent:
                    message = Message(str(number), session_id=f"session {number % SESSIONS}", id=f"message-{number}")
                    await send_one(runtime, message, log)
                    log.write("accepted", number)

        await asyncio.gather(*(work(worker) for worker in range(WORKERS)))
    log.write("finished")


async def send_one(runtime: DistributedRuntime, message: Message, log: Log) -> None:
    """Send a message until it is accepted."""
    while True:
        try:
            await runtime.send(Sink.name, message)
        except MailboxFull:
            log.write("full")
        except (Unavailable, AgentNotFound):  # not found: no receiver has ever run, so there is no mailbox yet
            log.write("unavailable")
        else:
            return
        await asyncio.sleep(0.05)


def lines(folder: Path, pattern: str) -> list[list[str]]:
    """The whole lines of the files that fit, in words, in the order of their times."""
    texts = (path.read_text() for path in folder.glob(pattern))
    timed = [line.split() for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
    return [words[1:] for words in sorted(timed, key=lambda words: int(words[0]))]


class Actor:
    """A process of this program that is started again when it was killed."""

    def __init__(self, role: str, url: str, folder: Path, messages: int) -> None:
        self._command = [sys.executable, "-m", "tests.chaos.mailboxes", "--role", role, "--url", url]
        self._command += ["--folder", str(folder), "--messages", str(messages)]
        self._log = folder / f"{role}.err"
        self.start()

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stderr=log, stdout=log)

    def check(self) -> None:
        """Raise AssertionError with what it wrote when it failed by itself."""
        assert self._process.poll() in (None, 0), self._log.read_text()

    def kill(self) -> None:
        """SIGKILL it, and return when it is gone."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@dataclass
class Outcome:
    """What became of all messages."""

    messages: int
    accepted: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)
    begun: int = 0
    marked: int = 0
    unmarked: int = 0
    repeated: int = 0
    misordered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    hung: bool = False

    @property
    def lost(self) -> set[int]:
        """Accepted, and neither worked on nor dead."""
        return self.accepted - self.done - self.dead

    @property
    def unexplained(self) -> set[int]:
        """Dead letters that were worked on after all, and messages that always fail and are not dead."""
        return (self.dead & self.done) | {number for number in self.accepted - self.dead if is_poison(number)}

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        broken = self.hung or self.lost or self.unmarked or self.unexplained or self.misordered
        return len(self.accepted) == self.messages and not broken

    def table(self) -> str:
        """The table."""
        poison = sum(map(is_poison, self.accepted))
        rows = [
            ("messages accepted", f"{len(self.accepted)} of {self.messages}"),
            ("refused, and sent again", f"full {self.refused['full']}, unavailable {self.refused['unavailable']}"),
            ("killed", ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))),
            ("deliveries begun", self.begun),
            ("worked on", len(self.done)),
            ("lost", len(self.lost)),
            ("deliveries marked as repeated", self.marked),
            ("repeated without a mark", self.unmarked),
            ("worked on more than once (marked)", self.repeated),
            ("dead letters", f"{len(self.dead)}, of which {len(self.dead) - poison} by kills alone"),
            ("dead letters unaccounted for", len(self.unexplained)),
            ("out of order in their session", self.misordered),
            ("seconds", f"{self.seconds:.0f}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


class Run:
    """One run, in `folder`, with the server `binary`. `say` hears of every kill."""

    def __init__(self, folder: Path, binary: str, messages: int, victims: list[str], seed: int) -> None:
        self._folder, self._messages, self._victims = folder, messages, victims
        self._random = random.Random(seed)
        self._server = NatsServer(binary, folder)
        self.outcome = Outcome(messages)

    def run(self, say: Callable[[str], None] = lambda _: None) -> Outcome:
        """Send all messages, kill on the way, wait until all are worked on or dead, and count."""
        began = monotonic()
        self._server.start()
        url = self._server.url
        receivers = [Actor("receiver", url, self._folder, self._messages) for _ in range(RECEIVERS)]
        self._actors = {f"receiver {number}": receiver for number, receiver in enumerate(receivers)}
        self._actors["sender"] = Actor("sender", url, self._folder, self._messages)
        try:
            share = self._messages / (len(self._victims) + 1)
            for number, victim in enumerate(self._victims, 1):
                if not self._reached(int(number * share * 0.98)):
                    break
                say(f"{self._progress():6d} worked on, SIGKILL to the {victim}")
                self._strike(victim)
            self.outcome.hung = not self._reached(self._messages)
        finally:
            for actor in self._actors.values():
                actor.kill()
            self._count(url)
            self._server.kill()
        self.outcome.seconds = monotonic() - began
        return self.outcome

    def _strike(self, victim: str) -> None:
        self.outcome.kills[victim.split(maxsplit=1)[0]] += 1
        sleep(self._random.uniform(0, 0.1))  # at any moment of what it does
        if victim == "broker":
            self._server.kill()
            sleep(self._random.uniform(0, 0.5))
            self._server.start()
        else:
            self._actors[victim].kill()
            self._actors[victim].start()

    def _progress(self) -> int:
        """Messages that are worked on, or that always fail and have had all their deliveries."""
        begun: Counter[str] = Counter()
        ended: set[str] = set()
        for words in lines(self._folder, "received-*.log"):
            if words[0] == "done":
                ended.add(words[1])
            else:
                begun[words[1]] += 1
        worn = {number for number, count in begun.items() if count >= POLICY.max_deliveries}
        return len(ended | worn)

    def _reached(self, progress: int) -> bool:
        """Wait until so many have ended; False when nothing happens any more."""
        last, since = -1, monotonic()
        while (now := self._progress()) < progress:
            for actor in self._actors.values():
                actor.check()
            if now > last:
                last, since = now, monotonic()
            if monotonic() - since > PATIENCE / 4 and self._all_ended():
                return True
            if monotonic() - since > PATIENCE:
                return False
            sleep(max(LOOK, self._messages / 50_000))
        return progress < self._messages or self._all_ended()

    def _all_ended(self) -> bool:
        """Whether every message is worked on or a dead letter; waits a little for the last ones to be settled."""
        until = monotonic() + PATIENCE / 2
        while monotonic() < until:
            done = {int(words[1]) for words in lines(self._folder, "received-*.log") if words[0] == "done"}
            if len(done | self._dead_letters(self._server.url)) >= self._messages:
                return True
            sleep(0.5)
        return False

    def _dead_letters(self, url: str) -> set[int]:
        async def listed() -> set[int]:
            mailboxes = NatsMailboxes(SecretStr(url), POLICY)
            try:
                return {int(dead.letter.message.text) for dead in await mailboxes.dead_letters(limit=self._messages)}
            finally:
                await mailboxes.close()

        return asyncio.run(listed())

    def _count(self, url: str) -> None:
        outcome = self.outcome
        for words in lines(self._folder, "sent.log"):
            if words[0] == "accepted":
                outcome.accepted.add(int(words[1]))
            elif words[0] != "finished":
                outcome.refused[words[0]] += 1
        outcome.dead = self._dead_letters(url)
        firsts: Counter[int] = Counter()
        last: dict[int, int] = {}
        for words in lines(self._folder, "received-*.log"):
            number = int(words[1])
            if words[0] == "begun":
                outcome.begun += 1
                outcome.marked += words[2] == "again"
                firsts[number] += words[2] == "first"
            elif number in outcome.done:
                outcome.repeated += 1
            else:
                outcome.done.add(number)
                outcome.misordered += number < last.get(number % SESSIONS, -1)
                last[number % SESSIONS] = number
        outcome.unmarked = sum(count - 1 for count in firsts.values() if count > 1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", help="the nats-server to use [default: the first that is installed]")
    parser.add_argument("--role", choices=["sender", "receiver"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role == "sender":
        asyncio.run(send(given.url, given.folder, given.messages))
    elif given.role == "receiver":
        asyncio.run(receive(given.url, given.folder))
    else:
        sys.exit(rehearse(given.messages, given.kills, given.seed, given.server))


def rehearse(messages: int, kills: int, seed: int, server: str | None) -> int:
    """Run once and print the table; 0 when every promise was kept."""
    binary = server or next(iter(find_servers()), None)
    if binary is None:
        print("no nats-server is installed; see tests/tools/install-nats")
        return 2
    names = ["sender", "broker", *(f"receiver {number}" for number in range(RECEIVERS))]
    victims = random.Random(seed).choices(names, k=kills)
    with tempfile.TemporaryDirectory() as folder:
        outcome = Run(Path(folder), binary, messages, victims, seed).run(lambda line: print(line, flush=True))
        print(outcome.table())
        if not outcome.held:
            print(f"BROKEN; lost: {sorted(outcome.lost)[:20]}, unaccounted for: {sorted(outcome.unexplained)[:20]}")
        return 0 if outcome.held else 1


if __name__ == "__main__":
    main()
