"""The first call of a name after every control plane is gone: its process has asked for the instances beforehand."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import Message
from aixgo.message import new_id

from tests.contract.replicas import BOUND, CAST, TRANSPORTS, looking_into, straight_to
from tests.contract.requirements import promise
from tests.support import POLL, fleet

CALLERS = ("pipeline", "relay", "concierge", "acquainted")
CALLEES = (("reverse", "upper"), ("echo",), ("collector", "journal"))
"""Apart, because who hears of an instance hears of all its agents."""


@promise("fleet.first_call")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_members_outputs_and_callees_are_found_without_any_control_plane(transport: str) -> None:
    with fleet(CALLERS, *CALLEES, cast=CAST, transport=transport) as running:
        callers, *_, collecting = running.hosts
        expected = sorted(name for names in CALLEES for name in names)
        async with straight_to(callers, CALLERS, transport) as runtime, looking_into(collecting) as seen:
            async with asyncio.timeout(BOUND):
                while (await runtime.call("acquainted", "")).payload != expected:  # noqa: ASYNC110  # of another process
                    await asyncio.sleep(POLL)
            running.registry.kill()
            assert (await runtime.call("pipeline", "ab", timeout=BOUND)).payload == "BA"
            assert (await runtime.call("concierge", "hello", timeout=BOUND)).payload == "hello"
            session = new_id()
            await runtime.send("relay", Message("hello", session_id=session))
            (delivery,) = await seen.noted(session, 1)
            assert delivery["payload"] == "HELLO"
