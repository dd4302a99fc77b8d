"""Attacks by RPCs: requests that no honest caller sends, written with raw serializers where the stubs would refuse.

Each is one try on an open channel. What it may end with is a typed status, or an answer where the input was harmless
after all. Below: `outcomes.py`; above: `registry_attacks.py`, with those on control planes, and `hostile.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2 as types

from tests.chaos.outcomes import Outcomes

AGENT, REGISTRY, HEALTH = "/aixgo.v1.AgentService/", "/aixgo.v1.RegistryService/", "/grpc.health.v1.Health/"
HANG = 60.0
"""Seconds after which an RPC that has not ended hangs."""
ANSWERED = 4.0
"""Seconds within which a session answers what it has to answer; some input needs none."""
HELD = 1.0
"""Seconds that a stream is left unread."""

Attack = Callable[[grpc.aio.Channel, random.Random, Outcomes], Awaitable[None]]
Metadata = Sequence[tuple[str, str | bytes]]


def call(agent: str = "shout", **fields: Any) -> bytes:
    """An ExecuteRequest with a text, and these fields."""
    fields.setdefault("message", types.Message(text="x"))
    return pb.ExecuteRequest(agent=agent, **fields).SerializeToString()


def context(**fields: Any) -> types.CallContext:
    """What a call claims to inherit."""
    return types.CallContext(**fields)


async def unary(
    channel: grpc.aio.Channel,
    outcomes: Outcomes,
    method: str,
    request: bytes,
    *,
    metadata: Metadata = (),
    timeout: float | None = HANG,
) -> None:
    """Send one request, and note how its RPC ends."""
    made: Any = channel
    try:
        async with asyncio.timeout(HANG + 10):
            await made.unary_unary(method)(request, timeout=timeout, metadata=metadata)
        outcomes.note("answered")
    except grpc.aio.AioRpcError as error:
        outcomes.refused(error)
    except TimeoutError:
        outcomes.wrong("hangs")


async def unread(channel: grpc.aio.Channel, outcomes: Outcomes, method: str, request: bytes) -> None:
    """Ask for a stream, read nothing of it for a while, and go."""
    made: Any = channel
    stream = made.unary_stream(method)(request, timeout=HANG)
    await asyncio.sleep(HELD)
    stream.cancel()
    outcomes.note("left unread")


async def frames(
    channel: grpc.aio.Channel,
    outcomes: Outcomes,
    *requests: bytes,
    metadata: Metadata = (),
    reads: bool = True,
) -> None:
    """Open a session, send these requests, and note how the session ends, or that it goes on."""
    made: Any = channel
    stream = made.stream_stream(AGENT + "Session", None, pb.SessionResponse.FromString)(metadata=metadata)
    try:
        async with asyncio.timeout(ANSWERED if reads else HELD):
            for request in requests:
                await stream.write(request)
            while reads:
                answer = await stream.read()
                if answer is grpc.aio.EOF:
                    outcomes.note("ended")
                    return
                if any(frame.call == 0 and frame.HasField("error") for frame in answer.frames):
                    outcomes.note("session ended with an error frame")
                    return
                if reads and all(frame.HasField("error") for frame in answer.frames):
                    outcomes.note("calls ended with error frames")
                    return
            await asyncio.Event().wait()
    except grpc.aio.AioRpcError as error:
        outcomes.refused(error)
    except asyncio.InvalidStateError:
        outcomes.note("ended")
    except TimeoutError:
        outcomes.note("goes on" if reads else "left unread")
    finally:
        stream.cancel()


def session(*sent: pb.Frame) -> bytes:
    """Frames of one message."""
    return pb.SessionRequest(frames=sent).SerializeToString()


def opening(number: int, agent: str = "shout", **fields: Any) -> pb.Frame:
    """A frame that opens a call."""
    return pb.Frame(call=number, open=pb.OpenFrame(agent=agent, message=types.Message(text="x"), **fields))


def on_execute(make: Callable[[random.Random], bytes]) -> Attack:
    """An attack that sends one request to Execute."""

    async def attack(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
        await unary(channel, outcomes, AGENT + "Execute", make(rng))

    return attack


def on_session(make: Callable[[random.Random], Sequence[bytes]], **options: Any) -> Attack:
    """An attack that sends messages over one session."""

    async def attack(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
        await frames(channel, outcomes, *make(rng), **options)

    return attack


def on(method: str, make: Callable[[random.Random], bytes], *, reads: bool = True) -> Attack:
    """An attack that sends one request to any method."""

    async def attack(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
        await (unary if reads else unread)(channel, outcomes, method, make(rng))

    return attack


def undecodable(rng: random.Random) -> bytes:
    return b"\xff" + rng.randbytes(rng.randrange(1, 2_000))


def _mutated(rng: random.Random) -> bytes:
    whole = bytearray(call(context=context(call_id="c", depth=1, agent_path=["a"], timeout_ms=5_000)))
    for _ in range(rng.randrange(1, 6)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def _metadata(size: int, count: int) -> Attack:
    async def attack(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
        flood = [(f"x-{number}-{rng.randrange(10**6)}", "v" * size) for number in range(count)]
        await unary(channel, outcomes, AGENT + "Execute", call(), metadata=flood)

    return attack


async def _deadline_in_the_past(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
    await unary(channel, outcomes, AGENT + "Execute", call("slow"), timeout=-rng.random())


async def _no_bytes_taken(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
    least = (("aixgo-max-message-bytes", str(rng.choice([0, 1, 100]))),)
    await frames(channel, outcomes, session(opening(1)), metadata=least)


def invented(rng: random.Random) -> str:
    return f"nobody-{rng.randrange(10**12)}"


def _json(data: bytes) -> types.Message:
    return types.Message(json=data)


def _metadata_of(entries: dict[str, object]) -> types.Message:
    return types.Message(text="x", metadata=json.dumps(entries).encode())


def _opened(message: types.Message) -> pb.Frame:
    return pb.Frame(call=1, open=pb.OpenFrame(agent="shout", message=message))


AGENTS: dict[str, Attack] = {
    "undecodable request": on_execute(undecodable),
    "undecodable stream request": on(AGENT + "ExecuteStream", undecodable),
    "undecodable letter": on(AGENT + "Deliver", undecodable),
    "undecodable cancel": on(AGENT + "Cancel", undecodable),
    "mutated request": on_execute(_mutated),
    "invalid UTF-8 name": on_execute(lambda _: b"\x0a\x03\xff\xfe\xfd"),
    "message of 6 MiB": on_execute(lambda _: call(message=types.Message(data=b"x" * (6 << 20)))),
    "100,000 brackets of JSON": on_execute(lambda _: call(message=_json(b"[" * 100_000 + b"]" * 100_000))),
    "1,000 brackets of JSON": on_execute(lambda _: call(message=_json(b"[" * 1_000 + b"]" * 1_000))),
    "broken JSON": on_execute(lambda rng: call(message=_json(rng.randbytes(500)))),
    "metadata no object": on_execute(lambda _: call(message=types.Message(text="x", metadata=b"[1]"))),
    "300 brackets of metadata": on_execute(
        lambda _: call(message=types.Message(text="x", metadata=b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"))
    ),
    "metadata of 5,000 entries": on_execute(
        lambda _: call(message=_metadata_of({f"k{number}": number for number in range(5_000)}))
    ),
    "metadata of 3 MiB": on_execute(lambda _: call(message=_metadata_of({"k": "v" * (3 << 20)}))),
    "1,000 headers": _metadata(10, 1_000),
    "headers of 200 KiB": _metadata(10_000, 20),
    "deadline of 292 million years": on_execute(lambda _: call(context=context(timeout_ms=2**63 - 1))),
    "negative timeout": on_execute(lambda _: call(context=context(timeout_ms=-(2**63)))),
    "deadline in the past": _deadline_in_the_past,
    "depth of 2**32 - 1": on_execute(lambda _: call(context=context(depth=2**32 - 1))),
    "path of 10,000 names": on_execute(lambda _: call(context=context(agent_path=["a" * 50] * 10_000))),
    "path of 2,000,000 names": on_execute(lambda _: call(context=context(agent_path=[""] * 2_000_000))),
    "call id of 1 MiB": on_execute(lambda rng: call(context=context(call_id=f"{rng.random()}" + "i" * (1 << 20)))),
    "session id of 1 MiB": on_execute(
        lambda rng: call(context=context(session_id=f"{rng.random()}" + "i" * (1 << 20)))
    ),
    "message id of 1 MiB": on_execute(lambda _: call(message=types.Message(text="x", id="i" * (1 << 20)))),
    "trace context of 1 MiB": on_execute(lambda _: call(context=context(traceparent="00-1", baggage="b" * (1 << 20)))),
    "name of 1 MiB": on_execute(lambda _: call("n" * (1 << 20))),
    "names that nobody has": on_execute(lambda rng: call(invented(rng))),
    "grant of 1e-999999 USD": on_execute(lambda _: call(context=context(grant=types.Grant(cost_usd="1e-999999")))),
    "grant of NaN USD": on_execute(lambda _: call(context=context(grant=types.Grant(cost_usd="NaN")))),
    "grant below nothing": on_execute(lambda _: call(context=context(grant=types.Grant(tokens=-5)))),
    "method that nobody serves": on(AGENT + "Explode", undecodable),
    "cancel of what is not mine": on(
        AGENT + "Cancel", lambda rng: pb.CancelRequest(call_id=invented(rng)).SerializeToString()
    ),
    "letters that nobody reads": on(
        AGENT + "Deliver",
        lambda rng: pb.DeliverRequest(
            agent="shout", message=types.Message(data=rng.randbytes(50_000))
        ).SerializeToString(),
    ),
    "endless stream, unread": on(
        AGENT + "ExecuteStream",
        lambda _: pb.ExecuteStreamRequest(agent="endless", message=types.Message(text="x")).SerializeToString(),
        reads=False,
    ),
    "session: undecodable": on_session(lambda rng: [undecodable(rng)]),
    "session: number used twice": on_session(lambda _: [session(opening(2)), session(opening(2), opening(1))]),
    "session: credit for nobody": on_session(
        lambda rng: [session(pb.Frame(call=rng.randrange(1, 2**64), credit=pb.CreditFrame(events=1)))]
    ),
    "session: credit flood": on_session(
        lambda _: [
            session(
                opening(1, "endless", stream=True, credit=1),
                *[pb.Frame(call=1, credit=pb.CreditFrame(events=2**20))] * 10,
            )
        ]
    ),
    "session: cancel for nobody": on_session(lambda _: [session(pb.Frame(call=7, cancel=pb.CancelFrame()))]),
    "session: a callee's frame": on_session(lambda _: [session(pb.Frame(call=1, event=types.Event()))]),
    "session: unknown frames": on_session(lambda _: [b"\x0a\x04\xfa\x01\x01x", b"\x7a\x01x", session(pb.Frame())]),
    "session: 2,000,000 empty frames": on_session(lambda _: [b"\x0a\x00" * 2_000_000]),
    "session: calls by the thousand": on_session(
        lambda _: [session(*[opening(number, "shout") for number in range(1, 3_001)])]
    ),
    "session: endless streams, unread": on_session(
        lambda _: [session(*[opening(n, "endless", stream=True, credit=2**20) for n in range(1, 21)])], reads=False
    ),
    "session: metadata of 5,000 entries": on_session(
        lambda _: [session(_opened(_metadata_of({f"k{number}": number for number in range(5_000)})))]
    ),
    "session: 300 brackets of JSON": on_session(lambda _: [session(_opened(_json(b"[" * 300 + b"]" * 300)))]),
    "session: takes no bytes": _no_bytes_taken,
}


HEALTH_CHECKS: dict[str, Attack] = {
    "undecodable check": on(HEALTH + "Check", undecodable),
    "check of nobody": on(HEALTH + "Check", lambda rng: b"\x0a\x0b" + f"nobody-{rng.randrange(1000, 9999)}".encode()),
    "watch, unread": on(HEALTH + "Watch", lambda _: b"", reads=False),
    "call at the health port": on_execute(lambda _: call()),
}
