"""docker-compose.nats.yml by the commands of docs/DEPLOYMENT.md: messages outlive who keeps and who takes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aixgo import DistributedRuntime

from tests.containers.docker import Compose, documented
from tests.support import POLL

BOUND = 60.0
"""Seconds that a call may take."""
WAIT = 120.0
"""Seconds in which what is waiting is delivered, on a busy machine."""
AGENT = "ticket"
Told = list[dict[str, Any]]


@pytest.fixture(scope="module")
def lasting(nats_image: str) -> Iterator[Compose]:
    """The fleet, with agents that need no model, up by the commands of the page."""
    export, *commands = documented("Messages that last")[0].splitlines()
    base, *overrides = export.removeprefix("export COMPOSE_FILE=").split(":")
    assert base == "docker-compose.yml"
    files = (*overrides, "tests/containers/fleet/compose.yaml")
    compose = Compose("aixgo-test-nats", files, tag="test-nats", variables={"AIXGO_NATS_IMAGE": nats_image})
    compose.down()
    try:
        compose.type("\n".join(commands))
        yield compose
    finally:
        compose.down()


@pytest.fixture
async def sender(lasting: Compose) -> AsyncIterator[DistributedRuntime]:
    """Who sends through the gateway from outside."""
    await asyncio.to_thread(lasting.up, "--no-recreate")
    gateway = await asyncio.to_thread(lasting.gateway)
    async with DistributedRuntime(connect=dict.fromkeys((AGENT, "analyst"), gateway)) as runtime:
        yield runtime


async def test_what_was_accepted_outlives_broker_and_receiver(lasting: Compose, sender: DistributedRuntime) -> None:
    texts = {f"letter {number}" for number in range(20)}
    await sender.send(AGENT, "hold")
    await told(lasting, lambda lines: any(line.get("held") == "hold" for line in lines))
    await asyncio.to_thread(lasting, "kill", AGENT)
    for text in sorted(texts):
        await sender.send(AGENT, text)
    await asyncio.to_thread(lasting, "kill", "nats")
    assert (await sender.call("analyst", "x", timeout=BOUND)).text == "x", "calls need no mailboxes"
    await asyncio.to_thread(lasting.up, "--no-recreate")
    lines = await told(lasting, lambda lines: filed(lines).keys() >= texts | {"hold"})
    assert filed(lines)["hold"], "it is not said that the receiver that was killed had begun with it"


async def test_dead_letters_outlive_them_too_and_are_listed_shown_and_replayed(
    lasting: Compose, sender: DistributedRuntime
) -> None:
    await sender.send(AGENT, "unreadable")
    async with asyncio.timeout(WAIT):
        # Of processes in containers nobody sets an event.
        while not (dead := json.loads(await mailbox(lasting, "list", AGENT, "--json"))):  # noqa: ASYNC110
            await asyncio.sleep(POLL)
    assert [(each["agent"], each["attempts"], each["reason"]) for each in dead] == [
        (AGENT, 3, "ValueError: cannot read this")
    ]
    await asyncio.to_thread(lasting, "kill", "nats", AGENT)
    await asyncio.to_thread(lasting.up, "--no-recreate")
    assert json.loads(await mailbox(lasting, "list", "--json")) == dead
    assert json.loads(await mailbox(lasting, "show", AGENT, dead[0]["id"], "--json")) == dead[0]
    assert await mailbox(lasting, "replay", AGENT, "--all") == f"replayed {dead[0]['id']}"
    lines = await told(lasting, lambda lines: "unreadable" in filed(lines))
    assert filed(lines)["unreadable"], "it is not said that it was delivered before"
    assert json.loads(await mailbox(lasting, "list", "--json")) == []


async def mailbox(lasting: Compose, *words: str) -> str:
    """What `aixgo mailbox dead ...` says in the gateway's container."""
    command = ("exec", "--no-TTY", "gateway", "aixgo", "mailbox", "dead", *words)
    return await asyncio.to_thread(lasting, *command)


async def told(lasting: Compose, enough: Callable[[Told], bool]) -> Told:
    """What the receiver has said of its mailbox, once that is enough; its log outlives it."""
    lines: Told = []
    async with asyncio.timeout(WAIT):
        while not enough(lines):
            log = await asyncio.to_thread(lasting, "logs", "--no-color", "--no-log-prefix", AGENT)
            lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"')]
            await asyncio.sleep(POLL)
    return lines


def filed(lines: Told) -> dict[str, bool]:
    """The messages that were filed, and whether that was a redelivery."""
    return {line["filed"]: line["redelivered"] for line in lines if "filed" in line}
