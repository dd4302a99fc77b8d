"""What the installed grpcio must not do: some of its versions end the process where others only end a call."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import grpc.aio

ROUNDS = 3_000
"""Enough for grpcio 1.78 to fail in most runs: it does so about once in 500."""


def test_calls_cancelled_while_their_channel_connects_end_no_process() -> None:
    ended = subprocess.run([sys.executable, str(Path(__file__))], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, f"{ROUNDS} cancelled\n"), ended.stderr


async def cancel_while_connecting(turns: int) -> None:
    """Cancel a call after `turns` turns of the loop, and close both sides at once."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])

    async def ask() -> None:
        await channel.unary_unary("/nobody/there")(b"", timeout=30, wait_for_ready=True)

    asked = asyncio.create_task(ask())
    for _ in range(turns):
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    await channel.close()
    await server.stop(None)


async def main() -> None:
    for number in range(ROUNDS):
        await cancel_while_connecting(2 + number % 2)
    print(f"{ROUNDS} cancelled")


if __name__ == "__main__":
    asyncio.run(main())
