"""The servers that the bench calls: `raw PAUSE` is grpc.aio alone, `guarded` that inside the boundary that aixgo puts
around every RPC, `agent COUNT FIRST PAUSE LIMIT` an AgentServer whose agents echo, after so many seconds, so many calls
of each at once. Those that are streamed from give TOKENS first. Each server prints its address.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import grpc.aio
from aixgo.server.boundary import GuardedServer
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from measuring import TOKENS


class RawEcho(AgentServiceServicer):
    """Echoes the same messages as the agent below, with nothing between grpc.aio and the reply."""

    def __init__(self, pause: float) -> None:
        self._pause = pause

    async def Execute(self, request, context):  # noqa: N802  # gRPC names it
        if self._pause:
            await asyncio.sleep(self._pause)
        return pb.ExecuteResponse(message=request.message)

    async def ExecuteStream(self, request, context):  # noqa: N802  # gRPC names it
        for number in range(TOKENS):
            event = types_pb2.Event(agent_path=["echo0"], delta=types_pb2.Delta(text=f"token {number}"))
            yield pb.ExecuteStreamResponse(event=event)
        yield pb.ExecuteStreamResponse(event=types_pb2.Event(result=types_pb2.Result(message=request.message)))


async def raw(pause: float = 0.0, *, guarded: bool = False) -> None:
    server = GuardedServer(grpc.aio.server()) if guarded else grpc.aio.server()
    add_AgentServiceServicer_to_server(RawEcho(pause), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def agents(count: int, first: int = 0, pause: float = 0.0, limit: int | None = None) -> None:
    from aixgo import Agent, AgentServer, Delta, DistributedRuntime, Event, Message, Result
    from telemetry import begin_telemetry

    class Echo(Agent):
        idempotent = True
        max_concurrent_calls = limit

        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self, message: Message) -> Message:
            if pause:
                await asyncio.sleep(pause)
            return message

        async def stream(self, message: Message) -> AsyncIterator[Event]:
            for number in range(TOKENS):
                yield Delta(f"token {number}")
            yield Result(message)

    begin_telemetry()
    async with DistributedRuntime() as runtime:
        for index in range(first, first + count):
            runtime.register(Echo(f"echo{index}"))
        async with AgentServer(runtime) as server:
            print(server.address, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["raw", *pause]:
            asyncio.run(raw(*map(float, pause)))
        case ["guarded"]:
            asyncio.run(raw(guarded=True))
        case [_, *given]:
            asyncio.run(agents(*map(int, given[:2]), *map(float, given[2:3]), *map(int, given[3:])))
