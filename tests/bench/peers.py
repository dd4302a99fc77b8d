"""The servers that the bench calls: `raw` is grpc.aio alone, `agent COUNT FIRST PAUSE` an AgentServer whose agents
echo, after so many seconds. Each prints its address.
"""

from __future__ import annotations

import asyncio
import sys

import grpc.aio
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server


class RawEcho(AgentServiceServicer):
    """Echoes the same messages as the agent below, with nothing between grpc.aio and the reply."""

    async def Execute(self, request, context):  # noqa: N802  # gRPC names it
        return pb.ExecuteResponse(message=request.message)


async def raw() -> None:
    server = grpc.aio.server()
    add_AgentServiceServicer_to_server(RawEcho(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def agents(count: int, first: int = 0, pause: float = 0.0) -> None:
    from aixgo import Agent, AgentServer, DistributedRuntime, Message
    from telemetry import begin_telemetry

    class Echo(Agent):
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self, message: Message) -> Message:
            if pause:
                await asyncio.sleep(pause)
            return message

    begin_telemetry()
    async with DistributedRuntime() as runtime:
        for index in range(first, first + count):
            runtime.register(Echo(f"echo{index}"))
        async with AgentServer(runtime) as server:
            print(server.address, flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    kind, *given = sys.argv[1:]
    asyncio.run(raw() if kind == "raw" else agents(*map(int, given[:2]), *map(float, given[2:])))
