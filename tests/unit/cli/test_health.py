"""`aixgo health` against servers that say what a test lets them say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.health import check, health
from aixgo_services.cli.main import execute
from click.testing import CliRunner
from grpc_health.v1 import health as grpc_health
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def served() -> Iterator[tuple[str, Any]]:
    """The port of a server, and its health for the test to set."""
    server = grpc.server(ThreadPoolExecutor(2))
    said = grpc_health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(said, server)  # pyright: ignore[reportUnknownMemberType]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield str(port), said
    server.stop(None).wait()


def test_a_server_that_serves_is_exit_code_0(served: tuple[str, Any], capsys: pytest.CaptureFixture[str]):
    assert execute(["health", f"127.0.0.1:{served[0]}"]) == Exit.OK
    assert capsys.readouterr().out == "SERVING\n"


def test_a_server_that_drains_is_exit_code_3(served: tuple[str, Any], capsys: pytest.CaptureFixture[str]):
    port, said = served
    said.enter_graceful_shutdown()
    assert execute(["health", f"127.0.0.1:{port}"]) == Exit.UNAVAILABLE
    assert capsys.readouterr().out == "NOT_SERVING\n"


def test_nobody_there_is_exit_code_3(capsys: pytest.CaptureFixture[str]):
    assert execute(["health", "127.0.0.1:1"]) == Exit.UNAVAILABLE
    assert capsys.readouterr().out == "UNAVAILABLE\n"


def test_one_agent_may_be_asked_for(served: tuple[str, Any]):
    port, said = served
    said.set("tired", NOT_SERVING)
    said.set("fit", SERVING)
    assert check(f"127.0.0.1:{port}", "fit", 5) == "SERVING"
    assert check(f"127.0.0.1:{port}", "tired", 5) == "NOT_SERVING"
    assert check(f"127.0.0.1:{port}", "stranger", 5) == "NOT_FOUND"


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", ""])
def test_what_listens_everywhere_is_asked_on_this_machine(served: tuple[str, Any], host: str):
    ran = CliRunner().invoke(health, [], env={"AIXGO_LISTEN": f"{host}:{served[0]}"}, standalone_mode=False)
    assert ran.output == "SERVING\n"


def test_an_address_without_a_port_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    assert execute(["health", "localhost"]) == Exit.USAGE
    assert "host:port" in capsys.readouterr().err
