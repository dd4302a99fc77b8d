"""Prometheus itself reads the rules, the metrics pages and the dashboard: what real processes offer is what they ask.

Without prometheus and promtool on the machine the tests are skipped; with AIXGO_REQUIRE_TOOLS=1, as in CI, they fail.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import yaml
from aixgo.errors import AixgoError
from aixgo.v1 import agent_pb2, registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub

from tests.telemetry.emitting import Running, running
from tests.telemetry.prometheus import Prometheus, prometheus
from tests.telemetry.receiver import Receiver
from tests.unit.llm.vendor_server import VendorServer, answers

REQUIRED = os.environ.get("AIXGO_REQUIRE_TOOLS") == "1"  # read here: the tests themselves see no setting of aixgo
FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
RULES, DASHBOARD, CASES = FOLDER / "rules.yml", FOLDER / "dashboard.json", Path(__file__).with_name("rules_test.yml")
LIMIT = re.compile(r" (?:>|==) [\d.]+\b")
"""What makes an alert of an expression."""
RAISED = ("AixgoAgentFails", "AixgoUnpricedCalls")
"""The alerts that the fleet below gives reason to."""
PROCESSES = 7
ENOUGH = 60
"""Rounds of calls after which everything was to be seen."""

FLEET = """
version: 2
pricing:
  test/upper: {prompt: 0.5, completion: 1}
agents:
  - {name: writer, role: llm, model: test/upper}
  - {name: guesser, role: llm, model: openai/a-model-of-nobody}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
  - {name: held, role: llm, model: test/slow, max_concurrent_calls: 1, max_queue: 0}
orchestrations:
  - {name: panel, pattern: parallel, agents: [writer, guesser]}
  - {name: main, pattern: sequential, agents: [panel, writer]}
observability: OBSERVABILITY
"""


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if missing and REQUIRED:
        pytest.fail(f"{missing} are missing, and AIXGO_REQUIRE_TOOLS=1 requires them")
    if missing:
        pytest.skip(f"{missing} are missing; tests/tools/install-prometheus installs them")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str, **given: Any) -> str:
    """What promtool says; fails where it finds fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_finds_no_fault_with_the_rules():
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint-fatal", str(RULES))


def test_prometheus_takes_the_configuration_of_compose_with_the_rules_beside_it():
    said = promtool("check", "config", "--lint-fatal", str(FOLDER / "prometheus.yml"))
    assert "1 rule files found" in said


def test_each_rule_does_what_its_cases_say():
    promtool("test", "rules", str(CASES))


def test_each_rule_has_cases_and_each_alert_one_that_is_quiet_and_one_that_is_not():
    tests = yaml.safe_load(CASES.read_text())["tests"]
    fired: dict[str, set[bool]] = {}
    for case in [case for test in tests for case in test.get("alert_rule_test", ())]:
        fired.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    asked = {case["expr"] for test in tests for case in test.get("promql_expr_test", ())}
    assert fired == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}
    assert asked == {rule["record"] for rule in rules() if "record" in rule}


@pytest.fixture
async def vendor() -> Any:
    """A vendor of a model that nobody knows the price of."""
    vendor = VendorServer([answers("guessed")] * 10 * ENOUGH)
    server = await asyncio.start_server(vendor.serve, "127.0.0.1", 0)
    vendor.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield vendor
    server.close()


async def test_all_that_rules_and_dashboard_ask_for_is_there_in_a_real_fleet(
    tmp_path: Path, receiver: Receiver, vendor: VendorServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", vendor.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    async with running(tmp_path, receiver, {"prometheus": "127.0.0.1:0"}, FLEET) as fleet:
        pages = list(fleet.page_urls().values())
        assert len(pages) == PROCESSES
        async with prometheus(tmp_path, pages, RULES) as asked:
            await everything_is_seen(fleet, asked)
            assert {rule["name"]: rule.get("lastError") for rule in await asked.rules()} == {
                rule.get("alert") or rule["record"]: None for rule in rules()
            }
            assert {target["health"] for target in await asked.targets()} == {"up"}
            alerts = {alert["metric"]["alertname"] for alert in await asked.query("ALERTS")}
            assert alerts <= {*RAISED, "AixgoRetries", "AixgoInstancesLost"}
        await fleet.read_pages()
    for page in fleet.emitted.pages.values():
        promtool("check", "metrics", input=page)


async def everything_is_seen(fleet: Running, asked: Prometheus) -> None:
    """Call the fleet until every query has data; raises AssertionError with those that never have."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    wanted = {target["expr"] for panel in panels for target in panel["targets"]}
    wanted |= {LIMIT.sub("", rule["expr"]) for rule in rules()}
    waiting = wanted | {f'ALERTS{{alertname="{alert}"}}' for alert in RAISED}
    for _ in range(ENOUGH):
        await register_dead(fleet.control_plane, "writer")
        await fleet.runtime.call("main", "hello")
        await fleet.runtime.send("writer", "hello")
        with pytest.raises(AixgoError):
            await fleet.runtime.call("fails", "hello")
        await fleet.runtime.call_parallel(["held", "held"], "hello", timeout=0.5)  # one of which is refused
        waiting -= {expression for expression in sorted(waiting) if await asked.query(expression)}
        if not waiting:
            return
        await asyncio.sleep(1)  # until the next scrape
    raise AssertionError(f"never anything of {sorted(waiting)}")


async def register_dead(control_plane: str, agent: str) -> None:
    """List an instance that refuses connections: the first call that goes to it is tried again elsewhere."""
    instance = registry_pb2.Instance(
        instance_id=uuid4().hex,
        address="127.0.0.1:1",
        seq=1,
        state=registry_pb2.INSTANCE_STATE_READY,
        agents=[agent_pb2.AgentDescriptor(name=agent, role="llm", ready=True)],
    )
    async with grpc.aio.insecure_channel(control_plane) as channel:
        await RegistryServiceStub(channel).Register(registry_pb2.RegisterRequest(instance=instance), timeout=10)
