"""How many calls an agent takes at once: the others wait their turn, or are refused."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import Message, Result
from aixgo.errors import Overloaded

from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise


async def asked(mesh: Mesh, text: str, *, stream: bool) -> Message:
    """The reply of `narrow` to a text, over a call or a stream."""
    if not stream:
        return await mesh.runtime.call("narrow", f"{mesh.key} {text}", timeout=BOUND)
    async with mesh.runtime.stream("narrow", f"{mesh.key} {text}", timeout=BOUND) as events:
        async for event in events:
            if isinstance(event, Result):
                return event.message
    raise AssertionError("the stream had no Result")


@promise("limits.queue")
@pytest.mark.parametrize("stream", [False, True])
async def test_one_call_runs_one_waits_and_the_rest_is_refused_at_once(mesh: Mesh, stream: bool) -> None:
    first = asyncio.create_task(asked(mesh, "first", stream=stream))
    assert await mesh.noted(1) == ["first"]
    others = [asyncio.create_task(asked(mesh, text, stream=stream)) for text in ("second", "third")]
    done, waiting = await asyncio.wait(others, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 1)
    with pytest.raises(Overloaded, match="max_concurrent_calls") as caught:
        await done.pop()
    error = caught.value
    assert (error.agent_path, error.fields["limit"], error.fields["queue"]) == (("narrow",), 1, 1)
    assert await mesh.noted(1) == ["first"]
    await mesh.note(f"release {mesh.key}", "go")
    replies = await asyncio.gather(first, waiting.pop())
    assert await mesh.noted(2) == [reply.payload for reply in replies]
