"""Channels that take up new certificates: new calls on a new channel, old ones end where they began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo.security.channel import SecureChannel

from tests.support import eventually

BOUND = 20.0


class Service:
    """Answers with the authorization it was shown; holds calls that say so."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.entered = asyncio.Event()

    async def unary(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        if request == b"hold":
            self.entered.set()
            await self.held.wait()
        return _authorization(context)

    async def stream(self, requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncGenerator[bytes]:
        async for request in requests:
            yield request + _authorization(context)


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    metadata: Any = context.invocation_metadata() or ()
    return ";".join(value for key, value in metadata if key == "authorization").encode()


@asynccontextmanager
async def served(service: Service) -> AsyncGenerator[Callable[[], grpc.aio.Channel]]:
    """A way to open channels to the service."""
    untyped: Any = grpc
    handlers = {
        "Unary": untyped.unary_unary_rpc_method_handler(service.unary),
        "Stream": untyped.stream_stream_rpc_method_handler(service.stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((untyped.method_handlers_generic_handler("t.T", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    finally:
        await server.stop(None)


async def test_each_call_shows_the_token_that_is_newest():
    tokens = iter(["one", "two", "three"])
    async with (
        served(Service()) as dial,
        SecureChannel(dial, header=lambda: ("authorization", next(tokens))) as channel,
    ):
        unary, stream = channel.unary_unary("/t.T/Unary"), channel.stream_stream("/t.T/Stream")
        assert await unary(b"", timeout=BOUND) == b"one"
        assert await unary(b"", timeout=BOUND, metadata=(("x", "y"),)) == b"two"
        call = stream(timeout=BOUND)
        await call.write(b"said by ")
        assert await call.read() == b"said by three"
        call.cancel()


async def test_a_new_generation_opens_a_new_channel_and_the_old_one_closes_after_its_last_call():
    service, opened, generation = Service(), list[grpc.aio.Channel](), [0]
    async with served(service) as dial:

        def open_one() -> grpc.aio.Channel:
            opened.append(dial())
            return opened[-1]

        async with SecureChannel(open_one, lambda: generation[0]) as channel:
            unary = channel.unary_unary("/t.T/Unary")
            held = asyncio.ensure_future(unary(b"hold", timeout=BOUND))
            await service.entered.wait()
            generation[0] = 1
            assert await unary(b"", timeout=BOUND) == b""
            assert len(opened) == 2
            assert opened[0].get_state() is grpc.ChannelConnectivity.READY
            service.held.set()
            assert await held == b""
            await eventually(lambda: opened[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN, BOUND)
            assert await unary(b"", timeout=BOUND) == b""
            assert len(opened) == 2


async def test_a_cancelled_call_is_cancelled_below_and_counts_no_more():
    service = Service()
    async with served(service) as dial, SecureChannel(dial) as channel:
        call = channel.unary_unary("/t.T/Unary")(b"hold", timeout=BOUND)
        await service.entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
