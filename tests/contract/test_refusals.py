"""What is refused, at once and typed: calls that could not end in time, and those of a caller who calls too often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aixgo import DistributedRuntime, LocalRuntime
from aixgo.errors import Overloaded
from aixgo.message import new_id
from aixgo.runtime.base import BaseRuntime
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from pydantic import SecretStr

from tests.contract.replicas import BOUND, TRANSPORTS, Seen, asked, new_agents, start_again, straight_to
from tests.contract.requirements import promise
from tests.contract.served import refused, serving, write_file
from tests.integration.secured import Running, aixgo

TAKES = 1.5
"""Seconds that the first call of `timed` takes; the time of a call is known from then on."""
NEVER = "0.0001"
"""Calls a second, so few that none is added while a test runs."""


@asynccontextmanager
async def one_process(where: str) -> AsyncGenerator[tuple[BaseRuntime, Seen]]:
    """A runtime that calls `timed`, in this process or in another one, and what happens there."""
    names = ("timed", "journal")
    if where == "local":
        runtime = LocalRuntime()
        for agent in new_agents():
            if agent.name in names:
                runtime.register(agent)
        async with runtime:
            yield runtime, Seen(runtime)
        return
    with start_again(names) as host:
        await asyncio.to_thread(host.wait_ready)
        async with straight_to(host, names, where) as runtime:
            yield runtime, Seen(runtime)


@promise("limits.deadline", "limits.queue")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["local", *TRANSPORTS])
async def test_a_call_that_could_not_end_in_time_is_refused_at_once_and_one_that_can_waits(
    where: str, stream: bool
) -> None:
    key = new_id()
    async with one_process(where) as (runtime, seen):
        await asked(runtime, "timed", f"{key} {TAKES}", stream=stream)
        running = asyncio.create_task(asked(runtime, "timed", f"{key} {10 * BOUND}", stream=stream))
        assert await seen.noted(key, 2) == ["started"] * 2
        with pytest.raises(Overloaded, match="would not suffice") as caught:
            await runtime.call("timed", f"{key} 0", timeout=1.8 * TAKES)  # its turn and itself would take 2
        error = caught.value
        assert (error.accepted, error.agent_path) == (False, ("timed",))
        assert error.retry_after is not None
        assert error.retry_after >= 0.9 * TAKES
        patient = asyncio.create_task(asked(runtime, "timed", f"{key} 0", stream=stream))
        running.cancel()
        assert (await patient).payload == f"{key} 0"
        await asyncio.gather(running, return_exceptions=True)


def rated(process: Running, transport: str, *, token: str = "") -> DistributedRuntime:
    """A runtime of a caller, with or without a token."""
    shown = SecuritySettings(token=SecretStr(token), allow_insecure=True) if token else None
    connect = {"who": process.ready["address"], "desk": process.ready["address"]}
    return DistributedRuntime(connect=connect, transport=transport, security=Security(shown) if shown else None)


async def let_through(runtime: DistributedRuntime, calls: int) -> Sequence[str]:
    """Who answered so many calls, one after the other and every second one a stream."""
    return [(await asked(runtime, "who", "", stream=number % 2 == 1)).text for number in range(calls)]


@promise("limits.rate")
@pytest.mark.parametrize("by", ["file", "environment"])
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_caller_who_calls_too_often_is_refused_typed(transport: str, by: str, tmp_path: Path) -> None:
    write_file(tmp_path, f"{{rate_limit: {{per_second: {NEVER}, burst: {6 if by == 'file' else 1}}}}}")
    environment = {} if by == "file" else {"AIXGO_RATE_LIMIT": f"{NEVER}:6"}
    with serving(tmp_path, **environment) as process:
        async with rated(process, transport) as runtime:
            await let_through(runtime, 6)
            for stream in (False, True):
                with pytest.raises(Overloaded, match="rate_limit") as caught:
                    await asked(runtime, "who", "", stream=stream)
                error = caught.value
                assert (error.accepted, error.fields) == (False, {"per_second": float(NEVER), "burst": 6})
                assert error.retry_after is not None
                assert error.retry_after > BOUND
            with pytest.raises(Overloaded, match="rate_limit"):
                await runtime.send("who", "a message")
        assert await refused(process, "rate") == 3


@promise("limits.rate")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_callers_are_told_apart_by_their_tokens(transport: str, tmp_path: Path) -> None:
    write_file(tmp_path)
    (tmp_path / "tokens").write_text("spiffe://a.example/one: first-token-0123456789\n"
                                     "spiffe://a.example/two: second-token-0123456789\n")  # fmt: skip
    (tmp_path / "tokens").chmod(0o600)
    environment = {"AIXGO_RATE_LIMIT": f"{NEVER}:3", "AIXGO_TOKENS_FILE": str(tmp_path / "tokens")}
    with serving(tmp_path, **environment) as process:
        async with (
            rated(process, transport, token="first-token-0123456789") as one,
            rated(process, transport, token="second-token-0123456789") as two,
        ):
            await let_through(one, 3)
            with pytest.raises(Overloaded, match="rate_limit"):
                await asked(one, "who", "")
            await let_through(two, 3)
            with pytest.raises(Overloaded, match="rate_limit"):
                await asked(two, "who", "")


@promise("limits.rate")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_gateway_holds_its_callers_to_a_rate(transport: str, tmp_path: Path) -> None:
    write_file(tmp_path)
    with ExitStack() as processes:
        process = processes.enter_context(serving(tmp_path))
        to_process = f"--connect=who={process.ready['address']}"
        gateway = processes.enter_context(aixgo(tmp_path, "gateway", to_process, AIXGO_RATE_LIMIT=f"{NEVER}:4"))
        async with DistributedRuntime(connect={"*": gateway.ready["gateway"]}, transport=transport) as runtime:
            await let_through(runtime, 4)
            with pytest.raises(Overloaded, match="rate_limit") as caught:
                await asked(runtime, "who", "")
            assert not caught.value.accepted


@promise("limits.rate", "limits.elsewhere")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_is_too_much_for_one_instance_is_called_at_another(transport: str, tmp_path: Path) -> None:
    """Of an agent that is not idempotent, too: what was refused was not accepted."""
    write_file(tmp_path)
    with ExitStack() as processes:
        pair = [processes.enter_context(serving(tmp_path, AIXGO_RATE_LIMIT=f"{NEVER}:5")) for _ in range(2)]

        async def resolve(host: str, port: int) -> Sequence[str]:
            return [process.ready["address"] for process in pair]

        runtime = DistributedRuntime(connect={"desk": "dns:///desk.test:1"}, resolve=resolve, transport=transport)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(runtime)
            pids = [(await asked(runtime, "desk", "0")).text for _ in range(10)]
            assert sorted(pids.count(pid) for pid in set(pids)) == [5, 5]
            with pytest.raises(Overloaded, match="rate_limit"):
                await asked(runtime, "desk", "0")
