"""Attacks with sockets alone: bytes that are no HTTP/2, and HTTP/2 that breaks its own rules.

Each try opens one connection, sends what it has, and waits for the other side to end it. Below: `outcomes.py`; above:
`hostile.py`.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Callable

from tests.chaos.outcomes import Outcomes

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
PATIENCE = 45.0
"""Seconds within which a connection that says nothing more is ended: handshakes have 10, keepalive 14 more."""

SLOW = 8.0
"""Seconds that a slow reader reads nothing: longer than the metrics page waits for one."""

Make = Callable[[random.Random], bytes]


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1); `length` may lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _begun(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0, b"") + b"".join(frames)


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 65_536))


def _truncated(rng: random.Random) -> bytes:
    whole = _begun(frame(HEADERS, 4, 1, b"\x82\x86\x84"), frame(DATA, 1, 1, rng.randbytes(64)))
    return whole[: rng.randint(1, len(whole) - 1)]


def _forged_frames(rng: random.Random) -> bytes:
    kinds = [rng.choice(range(12)) for _ in range(rng.randint(1, 200))]
    return _begun(
        *(frame(kind, rng.randrange(256), rng.randrange(2**31), rng.randbytes(rng.randrange(64))) for kind in kinds)
    )


RAW: dict[str, Make] = {
    "random bytes": _noise,
    "HTTP/1": lambda rng: b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % rng.randrange(10**6),
    "HTTP/1 body": lambda rng: b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + rng.randbytes(4096),
    "HTTP/1 long line": lambda _: b"GET /" + b"x" * 200_000,
    "TLS hello, cut": lambda rng: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(rng.randrange(200)),
    "truncated frames": _truncated,
    "frame of 16 MiB": lambda rng: _begun(frame(DATA, 0, 1, rng.randbytes(1000), length=2**24 - 1)),
    "forged frames": _forged_frames,
    "garbage HPACK": lambda rng: _begun(*(frame(HEADERS, 4, 2 * n + 1, rng.randbytes(500)) for n in range(50))),
    "endless headers": lambda rng: _begun(
        frame(HEADERS, 0, 1, b""), *(frame(CONTINUATION, 0, 1, rng.randbytes(16_000)) for _ in range(64))
    ),
    "ping flood": lambda rng: _begun(*(frame(PING, 0, 0, rng.randbytes(8)) for _ in range(10_000))),
    "settings flood": lambda _: _begun(*(frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff") for _ in range(10_000))),
    "reset flood": lambda _: _begun(
        *(frame(HEADERS, 4, 2 * n + 1, b"\x82") + frame(RST, 0, 2 * n + 1, b"\0\0\0\x08") for n in range(2_000))
    ),
    "nothing": lambda _: b"",
}


async def raw_attack(outcomes: Outcomes, address: str, make: Make, rng: random.Random) -> None:
    """Send what `make` makes, and wait until the other side ends the connection."""
    host, _, port = address.rpartition(":")
    sent = make(rng)
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(PATIENCE):
            writer.write(sent)
            await writer.drain()
            answer = await _until_the_end(reader)
        outcomes.note("closed, with an HTTP answer" if answer.startswith(b"HTTP/1") else "closed")
    except TimeoutError:
        outcomes.wrong(f"still open after {PATIENCE:g} s")
    except OSError:
        outcomes.note("closed")
    finally:
        if writer is not None:
            writer.transport.abort()


async def _until_the_end(reader: asyncio.StreamReader) -> bytes:
    first = b""
    while piece := await reader.read(65_536):
        first = first or piece[:16]
    return first


async def slow_reader(outcomes: Outcomes, address: str) -> None:
    """Ask for a page and read nothing of it for long; what then is read comes to an end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    try:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await asyncio.sleep(SLOW)
        async with asyncio.timeout(PATIENCE):
            await _until_the_end(reader)
        outcomes.note("closed")
    except TimeoutError:
        outcomes.wrong(f"still open after {PATIENCE:g} s")
    except OSError:
        outcomes.note("closed")
    finally:
        writer.transport.abort()


class IdleConnections:
    """So many connections that say nothing, for as long as the `async with` lasts."""

    def __init__(self, outcomes: Outcomes, address: str, count: int) -> None:
        self._outcomes, self._address, self._count = outcomes, address, count
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> None:
        host, _, port = self._address.rpartition(":")
        for number in range(self._count):
            try:
                async with asyncio.timeout(10):
                    _, writer = await asyncio.open_connection(host, int(port))
            except (OSError, TimeoutError) as error:
                self._outcomes.note(f"not taken ({type(error).__name__})")
                continue
            self._writers.append(writer)
            self._outcomes.note("taken")
            if number % 2:
                writer.write(_begun())

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.transport.abort()
