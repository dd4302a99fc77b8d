"""A channel whose calls show the newest certificate and the newest token of this process.

grpc.aio's channels keep the certificate that they were opened with. This one opens another below itself when the files
have changed: new calls use that, and the one before is closed when its last call has ended. Streams that stay open for
long stay where they are, and come over when they are opened again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import grpc
import grpc.aio

Open = Callable[[], grpc.aio.Channel]


class _Inner:
    """One channel below, and how many of its calls are out."""

    __slots__ = ("calls", "channel", "generation", "made", "retired")

    def __init__(self, channel: grpc.aio.Channel, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.calls = 0
        self.retired = False
        self.made: dict[_Method, Any] = {}


class SecureChannel(grpc.aio.Channel):
    """A channel that `open_inner` opens, again when `generation` grows; `header` is metadata of each call."""

    def __init__(
        self,
        open_inner: Open,
        generation: Callable[[], int] = lambda: 0,
        header: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        self._open_inner = open_inner
        self._generation = generation
        self._header = header
        before = generation()  # asked first: files that change meanwhile are then noticed by the next call
        self._inner = _Inner(open_inner(), before)
        self._retired: set[_Inner] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _Method(self, "unary_unary", method, args, options)

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _Method(self, "unary_stream", method, args, options)

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        return _Method(self, "stream_unary", method, args, options)

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        return _Method(self, "stream_stream", method, args, options)

    async def close(self, grace: float | None = None) -> None:
        """Close every channel below; calls that are out are cancelled after `grace` seconds."""
        for inner in (self._inner, *self._retired):
            await inner.channel.close(grace)
        await asyncio.gather(*self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def begin(self, method: _Method, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Begin a call on the newest channel below; for the methods."""
        if self._header is not None:
            options["metadata"] = (*(options.get("metadata") or ()), self._header())
        inner = self._newest()
        made = inner.made.get(method)
        if made is None:
            made = inner.made[method] = method.on(inner.channel)
        call = made(*args, **options)
        inner.calls += 1
        call.add_done_callback(partial(self._ended, inner))
        return call

    def _newest(self) -> _Inner:
        generation = self._generation()
        if generation != self._inner.generation:
            before, self._inner = self._inner, _Inner(self._open_inner(), generation)
            before.retired = True
            self._retired.add(before)
            self._close_if_idle(before)
        return self._inner

    def _ended(self, inner: _Inner, _: object) -> None:
        inner.calls -= 1
        if inner.retired:
            self._close_if_idle(inner)

    def _close_if_idle(self, inner: _Inner) -> None:
        if inner.calls == 0 and inner in self._retired:
            self._retired.discard(inner)
            task = asyncio.get_running_loop().create_task(inner.channel.close(), name="close a rotated channel")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class _Method:
    """One RPC of a SecureChannel, called like one of grpc.aio's."""

    __slots__ = ("_args", "_channel", "_kind", "_options", "_path")

    def __init__(
        self, channel: SecureChannel, kind: str, path: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._path = path
        self._args = args
        self._options = options

    def on(self, channel: grpc.aio.Channel) -> Any:
        """The same RPC of a channel of grpc.aio's."""
        return getattr(channel, self._kind)(self._path, *self._args, **self._options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._channel.begin(self, args, options)
