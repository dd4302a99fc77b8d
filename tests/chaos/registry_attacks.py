"""Attacks by RPCs on a control plane: instances that nobody runs, too large, too many, or gone before they came.

Below: `rpc_attacks.py`; above: `hostile.py`.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import grpc.aio
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import registry_pb2 as registry

from tests.chaos.outcomes import Outcomes
from tests.chaos.rpc_attacks import HANG, REGISTRY, Attack, invented, on, unary, undecodable


def _instance(rng: random.Random, **fields: Any) -> bytes:
    fields.setdefault("instance_id", f"forged-{rng.randrange(40)}")
    fields.setdefault("address", "127.0.0.1:9")
    fields.setdefault("seq", rng.randrange(1, 2**32))
    fields.setdefault("agents", [pb.AgentDescriptor(name=f"forged-{rng.randrange(50)}")])
    return registry.RegisterRequest(instance=registry.Instance(**fields), lease_ms=1_000).SerializeToString()


def _large_instance(rng: random.Random) -> bytes:
    members = ["m" * 250] * 900
    agents = [pb.AgentDescriptor(name=f"large-{number}", agents=members) for number in range(16)]
    return _instance(rng, instance_id="large", seq=rng.randrange(2**40), agents=agents)


def _largest_instance(rng: random.Random) -> bytes:
    agents = [pb.AgentDescriptor(name="forged-large", agents=["m" * 250] * 1_000)]
    return _instance(rng, agents=agents)


async def _come_and_go(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
    """Instances of a thousand agents that end at once, under ids that nobody has had: what is kept of those?"""
    for _ in range(10):
        key = f"gone-{rng.randrange(10**12)}"
        agents = [pb.AgentDescriptor(name=f"{key}-{number}") for number in range(1_000)]
        await unary(channel, outcomes, REGISTRY + "Register", _instance(rng, instance_id=key, agents=agents))
        ended = registry.DeregisterRequest(instance_id=key, seq=2**40)
        await unary(channel, outcomes, REGISTRY + "Deregister", _bytes_of(ended))


async def _renewals(channel: grpc.aio.Channel, rng: random.Random, outcomes: Outcomes) -> None:
    made: Any = channel
    stream = made.stream_stream(REGISTRY + "Renew")()
    try:
        async with asyncio.timeout(HANG):
            await stream.write(undecodable(rng))
            await stream.read()
        outcomes.note("ended" if stream.done() else "answered")
        code = await stream.code()
        if code is not grpc.StatusCode.OK:
            outcomes.tries -= 1
            await stream
    except grpc.aio.AioRpcError as error:
        outcomes.refused(error)
    except TimeoutError:
        outcomes.wrong("hangs")
    finally:
        stream.cancel()


def _bytes_of(message: Any) -> bytes:
    return bytes(message.SerializeToString())


CONTROL_PLANE: dict[str, Attack] = {
    "undecodable registration": on(REGISTRY + "Register", undecodable),
    "undecodable watch": on(REGISTRY + "Watch", undecodable),
    "undecodable renewal": _renewals,
    "id of 1 MiB": on(REGISTRY + "Register", lambda rng: _instance(rng, instance_id="i" * (1 << 20))),
    "address of nobody": on(REGISTRY + "Register", lambda rng: _instance(rng, address=rng.choice(["", "x", "[::]:1"]))),
    "seq of 0": on(REGISTRY + "Register", lambda rng: _instance(rng, seq=0)),
    "5,000 agents": on(
        REGISTRY + "Register",
        lambda rng: _instance(rng, agents=[pb.AgentDescriptor(name=f"a{number}") for number in range(5_000)]),
    ),
    "1,000 labels": on(
        REGISTRY + "Register", lambda rng: _instance(rng, labels={f"l{number}": "v" for number in range(1_000)})
    ),
    "forged instances": on(REGISTRY + "Register", _instance),
    "instance of 3.6 MB, again and again": on(REGISTRY + "Register", _large_instance),
    "labels of 190 KB": on(
        REGISTRY + "Register", lambda rng: _instance(rng, labels={f"l{n}": "€" * 1_000 for n in range(64)})
    ),
    "instances of 250 KB": on(REGISTRY + "Register", _largest_instance),
    "instances that come and go": _come_and_go,
    "end of an id of 1 MiB": on(
        REGISTRY + "Deregister",
        lambda rng: _bytes_of(registry.DeregisterRequest(instance_id=f"{rng.random()}" + "i" * (1 << 20), seq=1)),
    ),
    "ends of nobody": on(
        REGISTRY + "Deregister",
        lambda rng: _bytes_of(registry.DeregisterRequest(instance_id=invented(rng), seq=2**64 - 1)),
    ),
    "watch of 5,000 names": on(
        REGISTRY + "Watch", lambda _: _bytes_of(registry.WatchRequest(agents=[f"a{n}" for n in range(5_000)]))
    ),
    "watch of names of 4 KB": on(
        REGISTRY + "Watch", lambda _: _bytes_of(registry.WatchRequest(agents=["n" * 4_000] * 900))
    ),
    "watch, unread": on(REGISTRY + "Watch", lambda _: _bytes_of(registry.WatchRequest()), reads=False),
    "name of 1 MiB": on(REGISTRY + "Resolve", lambda _: _bytes_of(registry.ResolveRequest(agent="n" * (1 << 20)))),
    "method that nobody serves": on(REGISTRY + "Explode", undecodable),
}
