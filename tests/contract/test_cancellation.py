"""Cancellation and deadlines: the work really stops, wherever it runs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aixgo.errors import DeadlineExceeded

from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise
from tests.support import seconds_of


async def remaining(mesh: Mesh, route: list[str], timeout: float | None, inner: float | None = None) -> float:
    """The seconds that the last agent of a route has left."""
    body = {"route": [*route[1:], "observer"], "timeout": inner}
    reply = await mesh.runtime.call(route[0], body, timeout=timeout)
    return cast("dict[str, Any]", reply.payload)["remaining"]


@promise("cancel.stops")
async def test_cancelling_a_call_stops_the_agent(mesh: Mesh) -> None:
    call = asyncio.create_task(mesh.runtime.call("slow", mesh.key, timeout=BOUND))
    await mesh.noted(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await mesh.noted(2) == ["started", "cancelled"]


@promise("cancel.alone")
async def test_cancelling_one_of_many_calls_leaves_the_others_alone(mesh: Mesh) -> None:
    other = asyncio.create_task(mesh.runtime.call("slow", f"other {mesh.key}", timeout=BOUND))
    call = asyncio.create_task(mesh.runtime.call("slow", mesh.key, timeout=BOUND))
    await mesh.noted(1)
    await mesh.noted(1, f"other {mesh.key}")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await mesh.noted(2) == ["started", "cancelled"]
    assert (await mesh.runtime.call("upper", "x", timeout=BOUND)).payload == "X"
    assert await mesh.noted(1, f"other {mesh.key}") == ["started"]
    assert not other.done()
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other


@promise("cancel.cascades")
async def test_cancelling_a_call_stops_the_whole_tree_below_it(mesh: Mesh) -> None:
    body = {"route": ["via-three", "slow"], "message": mesh.key}
    call = asyncio.create_task(mesh.runtime.call("via-one", body, timeout=BOUND))
    await mesh.noted(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await mesh.noted(2) == ["started", "cancelled"]


@promise("cancel.cascades")
async def test_cancelling_stops_all_parallel_calls(mesh: Mesh) -> None:
    body = {"targets": ["slow", "slow", "slow"], "message": mesh.key}
    call = asyncio.create_task(mesh.runtime.call("fan", body, timeout=BOUND))
    await mesh.noted(3)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await mesh.noted(6))[3:] == ["cancelled"] * 3


@promise("cancel.cascades", "stream.leave")
async def test_leaving_a_stream_stops_the_tree_below_it(mesh: Mesh) -> None:
    body = {"route": ["via-three", "slow"], "message": mesh.key}
    async with mesh.runtime.stream("via-one", body, timeout=BOUND):
        await mesh.noted(1)
    assert await mesh.noted(2) == ["started", "cancelled"]


@promise("deadline.stops")
async def test_a_passed_deadline_is_a_typed_error_and_stops_the_agent(mesh: Mesh) -> None:
    with seconds_of() as taken, pytest.raises(DeadlineExceeded):
        await mesh.runtime.call("slow", mesh.key, timeout=0.3)
    assert taken.seconds < BOUND
    assert (await mesh.noted(2))[-1] == "cancelled"


@promise("deadline.stops", "deadline.inherited")
async def test_a_deadline_that_passes_two_hops_below_stops_everything(mesh: Mesh) -> None:
    body = {"route": ["via-three", "slow"], "message": mesh.key}
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.runtime.call("via-one", body, timeout=0.5)
    assert caught.value.agent_path[0] == "via-one"
    assert (await mesh.noted(2))[-1] == "cancelled"


@promise("deadline.shortened", "deadline.stops")
async def test_a_shorter_deadline_below_ends_there_and_the_caller_goes_on(mesh: Mesh) -> None:
    body = {"route": ["slow"], "message": mesh.key, "timeout": 0.3}
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.runtime.call("via-one", body, timeout=BOUND)
    assert caught.value.agent_path == ("via-one", "slow")


@promise("deadline.stream")
async def test_a_stream_ends_at_its_deadline(mesh: Mesh) -> None:
    async with mesh.runtime.stream("endless", mesh.key, timeout=0.5) as events:
        with pytest.raises(DeadlineExceeded):  # the loop is what raises
            async for _ in events:
                pass
    assert await mesh.noted(1) == ["closed"]


@promise("deadline.stubborn")
async def test_an_agent_that_ignores_its_cancellation_does_not_hold_up_its_caller(mesh: Mesh) -> None:
    with seconds_of() as taken, pytest.raises(DeadlineExceeded):
        await mesh.runtime.call("stubborn", mesh.key, timeout=0.3)
    assert taken.seconds < BOUND
    assert await mesh.noted(1) == ["ignored"]
    await mesh.note(f"release {mesh.key}", "go")


@promise("deadline.inherited")
async def test_a_deadline_is_inherited_over_three_hops(mesh: Mesh) -> None:
    assert 20.0 < await remaining(mesh, ["via-one", "via-two", "via-three"], 40.0) < 40.0


@promise("deadline.shortened")
async def test_a_hop_cannot_lengthen_the_deadline(mesh: Mesh) -> None:
    assert await remaining(mesh, ["via-one", "via-two"], 40.0, inner=1_000.0) < 40.0


@promise("deadline.shortened")
async def test_a_hop_can_shorten_the_deadline(mesh: Mesh) -> None:
    assert await remaining(mesh, ["via-one", "via-two"], 200.0, inner=40.0) < 40.0


@promise("deadline.default")
async def test_a_call_that_inherits_no_deadline_has_five_minutes(mesh: Mesh) -> None:
    assert 250.0 < await remaining(mesh, ["via-one", "via-two"], None) <= 300.0
