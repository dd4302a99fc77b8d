"""One gRPC channel for each address, shared by all calls, closed when it has been idle.

Owns channels and their options. Below it lies grpc.aio; above it `plain.py`, discovery's health probes and the tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import grpc.aio

from aixgo.security.security import Security
from aixgo.v1.agent_pb2_grpc import AgentServiceStub

IDLE_AFTER = 60.0
"""Seconds without a call after which a channel is closed."""
MAX_METADATA = 32 * 1024
"""Bytes of headers: error details travel in trailers, and the default of 8 KiB loses them."""


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of every channel of aixgo. With this keepalive a frozen or cut-off peer is noticed within 10 s."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 4_000),
        ("grpc.http2.ping_timeout_ms", 4_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.enable_retries", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]


class PooledChannel:
    """A channel to one address, with the stub that calls go through. `before_close` ends what lives longer than calls.

    gRPC does not end a stream with its channel unless it finds a task that waits in it.
    """

    __slots__ = ("before_close", "calls", "channel", "stub", "used_at")

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = AgentServiceStub(channel)
        self.calls = 0
        self.used_at = 0.0
        self.before_close: Callable[[], Awaitable[None]] | None = None

    async def close(self) -> None:
        """Close the channel."""
        if self.before_close is not None:
            await self.before_close()
        await self.channel.close()


class ChannelPool:
    """Channels by address. `borrow` and `give_back` bracket each call; idle channels are closed by a sweep."""

    def __init__(
        self, *, max_message_bytes: int, security: Security | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._security = security or Security()
        self._options = channel_options(max_message_bytes)
        self._clock = clock
        self._channels: dict[str, PooledChannel] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def rotates(self) -> bool:
        """Whether `generation` can ever change."""
        return self._security.rotates

    @property
    def generation(self) -> int:
        """How often what calls show to others has changed: what outlives calls is then to be opened anew."""
        return self._security.generation

    def borrow(self, address: str) -> PooledChannel:
        """The channel to `address`, connecting when there is none yet."""
        pooled = self._channels.get(address)
        if pooled is None:
            pooled = self._channels[address] = PooledChannel(self._security.dial(address, self._options))
            if self._sweeper is None:
                self._sweeper = asyncio.get_running_loop().create_task(self._sweep(), name="channel sweep")
        pooled.calls += 1
        return pooled

    def give_back(self, pooled: PooledChannel) -> None:
        """A call over the channel has ended."""
        pooled.calls -= 1
        pooled.used_at = self._clock()

    async def close_idle(self) -> None:
        """Close the channels that nobody has used for IDLE_AFTER seconds."""
        before = self._clock() - IDLE_AFTER
        idle = [address for address, c in self._channels.items() if c.calls == 0 and c.used_at <= before]
        for pooled in [self._channels.pop(address) for address in idle]:
            await pooled.close()

    async def drop(self, address: str) -> None:
        """Close the channel to `address` when no call uses it; the next call connects anew."""
        pooled = self._channels.get(address)
        if pooled is not None and pooled.calls == 0:
            del self._channels[address]
            await pooled.close()

    async def close(self) -> None:
        """Close all channels; calls that are out are cancelled."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        channels, self._channels = self._channels, {}
        for pooled in channels.values():
            await pooled.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(IDLE_AFTER / 2)
            await self.close_idle()
