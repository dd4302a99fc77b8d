"""Agents of which several processes run, and looking into each of these processes.

Owns what tests of replicas need beyond `agents.py` (below): agents that say which process answers and wait to be let go
there, and a look at the journal of one process, whichever instance a call would go to.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any, cast

from aixgo import Agent, CallOptions, DistributedRuntime, Message, Result, Sequential
from aixgo.runtime.base import BaseRuntime

from tests.contract.agents import all_agents
from tests.contract.witnesses import Journal, Witness
from tests.support import POLL, Fleet, Process

CAST = "tests.contract.replicas:new_agents"
BOUND = 60.0
"""Seconds that anything may take that should happen at once; machines are busy."""
TRANSPORTS = ("plain", "session")


class Racer(Witness):
    """Notes `started`, waits in this process until it is released, and answers with the process's id.

    The text is the key. A call that is stopped before notes `cancelled`, one that ends `answered`.
    """

    name = "racer"
    idempotent = True

    async def execute(self, message: Message) -> Message:
        key, end = message.text, "cancelled"
        self.journal.note(key, "started")
        try:
            await self.journal.wait(f"release {key}", 1)
            end = "answered"
        finally:
            self.journal.note(key, end)
        return Message(str(os.getpid()))


class Plodder(Racer):
    """The same, but nobody may call it twice."""

    name = "plodder"
    idempotent = False


class Single(Racer):
    """Takes one call at a time, and lets none wait; nobody may call it twice."""

    name = "single"
    idempotent = False
    max_concurrent_calls = 1
    max_queue = 0


class Timed(Witness):
    """Takes so many seconds, one call at a time, and the others wait; the text is a key and the seconds."""

    name = "timed"
    max_concurrent_calls = 1

    async def execute(self, message: Message) -> Message:
        key, seconds = message.text.split()
        self.journal.note(key, "started")
        await asyncio.sleep(float(seconds))
        return message


class Concierge(Agent):
    """Calls `echo`, and says so beforehand."""

    name = "concierge"

    def callees(self) -> Sequence[str]:
        return ("echo",)

    async def execute(self, message: Message) -> Message:
        return await self.runtime.call("echo", message)


class Acquainted(Agent):
    """Answers with the names of the agents of which its process knows where they are."""

    name = "acquainted"

    async def execute(self, message: Message) -> Message:
        instances = cast("DistributedRuntime", self.runtime).instances()
        return Message(sorted({name for instance in instances for name in instance.by_name}))


def new_agents() -> list[Agent]:
    """The agents of `agents.py`, and those of this file, with a journal of their own."""
    journal = Journal()
    witnesses: list[Agent] = [kind(journal) for kind in (Racer, Plodder, Single, Timed)]
    others: list[Agent] = [Concierge(), Acquainted(), Sequential("paid-racer", ["writer", "racer"])]
    return [*all_agents(journal), *witnesses, *others]


class Seen:
    """What the agents of one process do."""

    def __init__(self, runtime: BaseRuntime) -> None:
        self._runtime = runtime

    async def noted(self, key: str, count: int) -> list[Any]:
        """What they have noted under a key, once there are `count` entries."""
        reply = await self._runtime.call("journal", {"key": key, "count": count}, timeout=BOUND)
        return cast("list[Any]", reply.payload)

    async def release(self, key: str) -> None:
        """Let the calls of a key go on."""
        await self._runtime.call("journal", {"key": f"release {key}", "note": "go"}, timeout=BOUND)


@asynccontextmanager
async def looking_into(host: Process) -> AsyncGenerator[Seen]:
    """What happens in a process; it must serve `journal`."""
    async with straight_to(host, ["journal"]) as runtime:
        yield Seen(runtime)


def straight_to(host: Process, names: Iterable[str], transport: str = "plain") -> DistributedRuntime:
    """A runtime that calls these agents in one process."""
    return DistributedRuntime(connect=dict.fromkeys(names, host.address), transport=transport)


def calling(fleet: Fleet) -> DistributedRuntime:
    """A runtime that calls all instances of a fleet."""
    return DistributedRuntime(control_plane=[fleet.control_plane], transport=fleet.transport)


@contextmanager
def two_hosts(names: Sequence[str]) -> Generator[tuple[Process, Process]]:
    """Two processes with the same agents, that no control plane lists: nobody but their callers watches over them."""
    with ExitStack() as stack:
        one, other = (stack.enter_context(start_again(names)) for _ in range(2))
        yield one.wait_ready(), other.wait_ready()


def start_again(names: Sequence[str], address: str = "127.0.0.1:0") -> Process:
    """Start a process that serves these agents at an address, as one did before."""
    return Process("agents", *names, f"--cast={CAST}", f"--listen={address}")


@asynccontextmanager
async def by_host_name(
    hosts: Sequence[Process], name: str, transport: str, *, idempotent: bool = True
) -> AsyncGenerator[DistributedRuntime]:
    """A runtime that finds the instances of an agent under a host name, and knows that it is idempotent, if it is."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [each.address for each in hosts]

    connect = {name: f"dns:///{name}.test:1"}
    async with DistributedRuntime(connect=connect, resolve=resolve, transport=transport) as runtime:
        await runtime.remote.replicas.resolver.find(name, BOUND)
        async with asyncio.timeout(BOUND):
            while not all(each.by_name[name].idempotent is idempotent for each in runtime.instances()):  # noqa: ASYNC110
                await asyncio.sleep(POLL)
        yield runtime


async def asked(
    runtime: BaseRuntime, name: str, text: str, *, stream: bool = False, options: CallOptions | None = None
) -> Message:
    """The reply of an agent, over a call or a stream."""
    options = options or CallOptions(timeout=BOUND)
    if not stream:
        return await runtime.call(name, text, options=options)
    async with runtime.stream(name, text, options=options) as events:
        async for event in events:
            if isinstance(event, Result):
                return event.message
    raise AssertionError("the stream had no Result")
