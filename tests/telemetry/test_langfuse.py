"""Langfuse, as a local one receives it: observations, usage, cost, sessions, users, scores, and what stays here."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from aixgo import Agent, AgentSpec, DistributedRuntime, LocalRuntime, Message, Sequential, agent
from aixgo import record_score as score
from aixgo.agents.llm import LLMAgent
from aixgo.config.load import loads
from aixgo.errors import AixgoError, ConfigError, DeadlineExceeded, InvalidInput
from aixgo.launch import opened
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price
from aixgo.llm.scripted import Reply, ScriptedModel
from aixgo.telemetry.langfuse import LangfuseSettings
from aixgo.telemetry.observations import observation
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import Telemetry, set_up
from aixgo.usage import Usage
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from pydantic import SecretStr

from tests.integration.serving import served
from tests.support import STOP, seconds_of, start_registry
from tests.telemetry.fleets import listed
from tests.telemetry.langfuse_server import LangfuseServer, Observation, langfuse_server

MESH = """\
version: 2
observability: {langfuse: true}
pricing:
  test/upper: {prompt: 0.0031, completion: 0.0107}
  test/echo: {prompt: 0.00017, completion: 0.0013}
agents:
  - {name: upper, role: llm, model: test/upper}
  - {name: echo, role: llm, model: test/echo}
  - {name: never, role: llm, model: test/slow}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
orchestrations:
  - {name: race, pattern: parallel, agents: [never, fails, upper], config: {require: 1, early_stop: true}}
  - {name: pair, pattern: parallel, agents: [upper, fails, echo]}
  - {name: chain, pattern: sequential, agents: [pair, echo, upper]}
  - {name: waits, pattern: sequential, agents: [upper, never]}
  - {name: broken, pattern: sequential, agents: [upper, fails]}
"""
SECRET = "sk-lf-0123456789abcdef"
NOWHERE = "http://127.0.0.1:9"
"""Nobody listens there: the port of the discard service."""
SAID = "who knows of the tea in the cellar"
JUDGING = """\
from aixgo import Agent, record_score


class Judge(Agent):
    def __init__(self, spec):
        self.name, self.role = spec.name, "judge"

    async def execute(self, message):
        record_score("brevity", 1.0)
        return message
"""
BOUND = 9.0
"""Seconds that an end may take: FLUSH_TIMEOUT, and a busy machine's share. Left alone the SDK tries for 15 or more."""


@pytest.fixture
def server() -> Generator[LangfuseServer]:
    """A Langfuse."""
    with langfuse_server() as server:
        yield server


def keys(host: str) -> dict[str, str]:
    return {"LANGFUSE_PUBLIC_KEY": "pk-lf-test", "LANGFUSE_SECRET_KEY": SECRET, "LANGFUSE_HOST": host}


def begin(server: LangfuseServer, **given: Any) -> Telemetry:
    """Telemetry that goes to a Langfuse."""
    langfuse = LangfuseSettings("pk-lf-test", SecretStr(SECRET), server.url)
    return set_up(TelemetrySettings(langfuse=langfuse, **given))


@asynccontextmanager
async def local(*agents: Agent) -> AsyncGenerator[LocalRuntime]:
    runtime = LocalRuntime()
    for each in agents:
        runtime.register(each)
    async with runtime:
        yield runtime


def asking(**metadata: Any) -> Message:
    return Message(SAID, {"user_id": "ann", **metadata}, session_id="s-1")


def check_sums(observations: Sequence[Observation], usage: Usage) -> None:
    """What Langfuse adds up is what the reply says, to the token and the cent, however it adds."""
    spending = [each for each in observations if each.usage or each.cost is not None]
    assert {each.type for each in spending} == {"generation"}
    assert len(spending) == usage.llm_calls
    assert sum(each.usage["total"] for each in spending) == usage.total_tokens
    assert sum_of(spending, "input") == usage.prompt_tokens
    assert sum_of(spending, "output") == usage.completion_tokens
    costs = [each.cost for each in spending if each.cost is not None]
    assert sum(costs, Decimal()) == usage.cost_usd
    others = [each for each in observations if each.type != "generation"]
    assert not [key for each in others for key in each.attributes if "usage" in key or "cost" in key or "tokens" in key]


def sum_of(observations: Sequence[Observation], side: str) -> int:
    """The tokens of all kinds that Langfuse counts for one side."""
    return sum(tokens for each in observations for kind, tokens in each.usage.items() if kind.startswith(side))


def check_tree(observations: Sequence[Observation]) -> None:
    """One trace with one root, and every parent there."""
    ids = {each.id for each in observations}
    assert len(ids) == len(observations)
    assert len({each.trace_id for each in observations}) == 1
    assert [each.name for each in observations if each.parent_id not in ids] == ["invoke_agent chain"]
    parents = {each.id: each for each in observations}
    for each in observations:
        if each.type == "generation":
            above = parents[each.parent_id]
            assert above.type == "agent"
            assert above.attributes["gen_ai.agent.name"] == each.attributes["gen_ai.agent.name"]


async def test_a_nested_run_arrives_as_one_tree_whose_sums_are_the_replys(server: LangfuseServer):
    async with opened(loads(MESH), variables=keys(server.url)) as runtime:
        reply = await runtime.call("chain", asking(trace_tags=["night"]))
    check_tree(server.observations)
    check_sums(server.observations, reply.usage)
    assert reply.usage.llm_calls == 5
    assert [each.name for each in server.of_type("chain")] == ["orchestration.parallel", "orchestration.sequential"]
    assert len(server.of_type("agent")) == 7
    assert {each.attributes["session.id"] for each in server.observations} == {"s-1"}
    assert {each.attributes["user.id"] for each in server.observations} == {"ann"}
    root = next(each for each in server.observations if not each.parent_id)
    assert root.attributes["langfuse.trace.name"] == "chain"
    assert root.attributes["langfuse.trace.tags"] == ["night"]
    generation = next(each for each in server.of_type("generation") if each.name == "chat upper")
    assert generation.attributes["langfuse.observation.model.name"] == "upper"
    assert json.loads(generation.attributes["langfuse.observation.model.parameters"])["max_tokens"] == 1024
    failed = {each.name for each in server.observations if each.attributes.get("langfuse.observation.level") == "ERROR"}
    assert failed == {"invoke_agent fails", "chat fail:RateLimited"}
    assert server.authorizations == {"Basic cGstbGYtdGVzdDpzay1sZi0wMTIzNDU2Nzg5YWJjZGVm"}


@pytest.mark.parametrize("name", ["race", "broken"])
async def test_what_failed_and_was_cancelled_is_counted_too(name: str, server: LangfuseServer):
    async with opened(loads(MESH), variables=keys(server.url)) as runtime:
        try:
            usage = (await runtime.call(name, asking())).usage
        except AixgoError as error:
            usage = error.usage
    assert usage.llm_calls >= 2
    check_sums(server.observations, usage)


async def test_a_fleet_of_processes_sends_one_tree_whose_sums_are_the_replys(server: LangfuseServer, tmp_path: Path):
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    given = keys(server.url)
    with ExitStack() as stack:
        plane = stack.enter_context(start_registry()).wait_ready().address
        for names in (["upper"], ["echo", "fails", "never"], ["pair", "waits"], ["chain"]):
            stack.enter_context(served(file, names, AIXGO_CONTROL_PLANE=plane, **given))
        await listed(plane, ["upper", "echo", "fails", "never", "pair", "waits", "chain"])
        async with DistributedRuntime(control_plane=(plane,)) as runtime:
            reply = await runtime.call("chain", asking())
            with pytest.raises(DeadlineExceeded) as late:
                await runtime.call("waits", asking(), timeout=4.0)
    traces = {each.trace_id for each in server.observations}  # the processes have ended, and sent what they had
    assert len(traces) == 2
    chain, waits = sorted(([o for o in server.observations if o.trace_id == each] for each in traces), key=len)[::-1]
    check_tree(chain)
    check_sums(chain, reply.usage)
    check_sums(waits, late.value.usage)
    assert (reply.usage.llm_calls, late.value.usage.llm_calls) == (5, 2)
    assert {each.attributes["session.id"] for each in server.observations} == {"s-1"}
    assert {each.attributes["user.id"] for each in server.observations} == {"ann"}
    assert len({each.resource["service.instance.id"] for each in chain}) == 4


async def test_a_score_belongs_to_the_agents_observation(server: LangfuseServer):
    @agent
    async def judge(message: Message) -> str:
        score("relevance", 0.75, "names the cellar")
        score("brevity", 1)
        return message.text

    async with begin(server), local(judge, Sequential("top", ["judge"])) as runtime:
        await runtime.call("top", SAID)
    judged = next(each for each in server.of_type("agent") if each.name == "invoke_agent judge")
    assert judged.attributes["quality.relevance"] == 0.75
    told = {each["name"]: each for each in server.scores}
    assert set(told) == {"relevance", "brevity"}
    assert told["relevance"]["value"] == 0.75
    assert told["relevance"]["comment"] == "names the cellar"
    assert told["brevity"]["value"] == 1
    assert {(each["traceId"], each["observationId"]) for each in server.scores} == {(judged.trace_id, judged.id)}


@pytest.mark.parametrize(("dimension", "value"), [("", 1.0), ("x" * 101, 1.0), ("a\nb", 1.0), ("ok", float("nan"))])
def test_a_score_that_says_nothing_is_refused(dimension: str, value: float):
    with pytest.raises(InvalidInput):
        score(dimension, value)


def test_a_score_is_at_no_cost_while_nobody_collects_spans():
    score("relevance", 0.5)


def writer() -> LLMAgent:
    """An agent whose model reads from a cache and reasons."""
    usage = Usage(prompt_tokens=100, completion_tokens=30, cached_tokens=60, reasoning_tokens=20)
    model = ScriptedModel(lambda _: Reply("by the door", usage=usage))
    prices = {"test/writer": Price(Decimal("0.001"), Decimal("0.002"))}
    models = Models(ModelSettings(), scripted={"writer": model}, prices=prices)
    return LLMAgent(AgentSpec(name="writer", role="llm", model=("test/writer",)), models=models)


async def test_each_token_is_of_one_kind(server: LangfuseServer):
    async with begin(server), local(writer()) as runtime:
        reply = await runtime.call("writer", SAID)
    (generation,) = server.of_type("generation")
    assert generation.usage == {
        "input": 40, "input_cached_tokens": 60, "output": 10, "output_reasoning_tokens": 20, "total": 130,
    }  # fmt: skip
    check_sums(server.observations, reply.usage)


@pytest.mark.parametrize(
    ("name", "operation", "kind"),
    [
        ("chat m", "chat", "generation"),
        ("embeddings m", "embeddings", "embedding"),
        ("invoke_agent a", "invoke_agent", "agent"),
        ("execute_tool t", "execute_tool", "tool"),
        ("orchestration.router", None, "chain"),
        ("retrieve", None, "retriever"),
        ("step.1.a", None, "span"),
    ],
)
def test_each_kind_of_span_has_its_type_and_only_calls_of_vendors_spend(name: str, operation: str | None, kind: str):
    attributes = {"gen_ai.operation.name": operation, "gen_ai.usage.input_tokens": 7, "cost.usd": 0.5}
    span = ReadableSpan(name, attributes={key: value for key, value in attributes.items() if value is not None})
    told = observation(span)
    assert told["langfuse.observation.type"] == kind
    spending = kind in ("generation", "embedding")
    assert (json.loads(told.get("langfuse.observation.cost_details", "{}")) == {"total": 0.5}) is spending
    assert ("langfuse.observation.usage_details" in told) is spending
    assert "gen_ai.usage.input_tokens" not in told


async def test_a_stream_says_when_its_first_token_came(server: LangfuseServer):
    async with begin(server), local(writer()) as runtime, runtime.stream("writer", SAID) as events:
        async for _ in events:
            pass
    (generation,) = server.of_type("generation")
    came = json.loads(generation.attributes["langfuse.observation.completion_start_time"])
    assert came.endswith("+00:00")


async def test_what_is_said_stays_here_unless_content_is_captured(server: LangfuseServer):
    async with begin(server), local(writer()) as runtime:
        await runtime.call("writer", SAID)
    told = json.dumps([each.attributes for each in server.observations])
    assert "cellar" not in told
    assert "by the door" not in told


async def test_captured_content_is_redacted_before_it_leaves(server: LangfuseServer):
    def redact(text: str) -> str:
        return text.replace("cellar", "#")

    async with begin(server, capture_content=True, redact=redact), local(writer()) as runtime:
        await runtime.call("writer", SAID)
    (generation,) = server.of_type("generation")
    assert "the tea in the #" in generation.attributes["langfuse.observation.input"]
    assert "by the door" in generation.attributes["langfuse.observation.output"]
    assert "cellar" not in json.dumps([each.attributes for each in server.observations])
    (asked,) = server.of_type("agent")
    assert "the tea in the #" in asked.attributes["langfuse.observation.input"]


async def test_an_unreachable_langfuse_costs_a_warning_and_nothing_else(caplog: pytest.LogCaptureFixture):
    @agent
    async def judge(message: Message) -> str:
        score("relevance", 0.75)
        return message.text

    langfuse = LangfuseSettings("pk-lf-test", SecretStr(SECRET), NOWHERE)
    telemetry = set_up(TelemetrySettings(langfuse=langfuse))
    async with local(judge) as runtime:
        assert (await runtime.call("judge", SAID)).text == SAID
    with seconds_of() as watch:
        await telemetry.aclose()
    assert watch.seconds < BOUND
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(warned) <= 2  # of spans, and of scores
    assert all(record.name.startswith("aixgo.") for record in warned)
    assert SECRET not in caplog.text


async def test_a_process_can_be_set_up_for_langfuse_again(server: LangfuseServer):
    for count in (1, 2):
        async with begin(server), local(writer()) as runtime:
            await runtime.call("writer", SAID)
        assert len(server.of_type("generation")) == count


async def test_it_shares_a_tracer_provider_that_was_there_and_leaves_it_as_it_was(server: LangfuseServer):
    @agent
    async def judge(message: Message) -> str:
        score("relevance", 0.75)
        return message.text

    with langfuse_server() as other:
        guest = TelemetrySettings(langfuse=LangfuseSettings("pk-lf-guest", SecretStr(SECRET), other.url))
        async with begin(server) as host, local(judge) as runtime:
            async with set_up(guest) as telemetry:
                assert telemetry.tracer_provider is host.tracer_provider
                await runtime.call("judge", SAID)
            await runtime.call("judge", SAID)
        assert (len(server.observations), len(server.scores)) == (2, 2)
        assert (len(other.observations), len(other.scores)) == (1, 1)


async def test_a_client_that_was_made_before_is_left_alone(server: LangfuseServer, caplog: pytest.LogCaptureFixture):
    langfuse = pytest.importorskip("langfuse")
    with httpx.Client() as http, langfuse_server() as theirs:
        client = langfuse.Langfuse(
            public_key="pk-lf-test",
            secret_key=SECRET,
            base_url=theirs.url,
            tracer_provider=TracerProvider(shutdown_on_exit=False),
            httpx_client=http,
        )
        async with begin(server), local(writer()) as runtime:
            await runtime.call("writer", SAID)
        client.shutdown()
    assert not server.observations
    assert "a Langfuse client with this public key was made before" in caplog.text


async def test_without_keys_it_is_off(server: LangfuseServer, caplog: pytest.LogCaptureFixture):
    given = keys(server.url)
    del given["LANGFUSE_SECRET_KEY"]
    async with opened(loads(MESH), variables=given) as runtime:
        await runtime.call("upper", SAID)
    assert not server.observations
    assert "Langfuse is asked for and off: set LANGFUSE_SECRET_KEY" in caplog.text


async def test_keys_alone_send_nothing(server: LangfuseServer):
    quiet = MESH.replace("observability: {langfuse: true}\n", "")
    async with opened(loads(quiet), variables=keys(server.url)) as runtime:
        await runtime.call("upper", SAID)
    assert not server.observations


def test_settings_are_read_from_langfuses_own_variables():
    given = keys("https://eu.example.org/") | {"LANGFUSE_TAGS": "a, b,", "LANGFUSE_TRACING_ENVIRONMENT": "prod"}
    settings = LangfuseSettings.read(given)
    assert settings is not None
    assert (settings.host, settings.tags, settings.environment) == ("https://eu.example.org", ("a", "b"), "prod")
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("host", ["localhost:3000", "ftp://host", "https://"])
def test_a_host_that_is_no_url_is_refused(host: str):
    with pytest.raises(ConfigError, match="LANGFUSE_HOST is"):
        LangfuseSettings.read(keys(host))


def test_a_langfuse_that_never_answers_does_not_keep_a_process_from_ending(tmp_path: Path):
    (tmp_path / "judging.py").write_text(JUDGING)
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\nobservability: {langfuse: true}\nagents: [{name: judge, role: 'judging:Judge'}]\n"
    )
    command = [sys.executable, "-m", "aixgo_services.cli.main", "run", "mesh.yaml", "-i", "hello"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = os.environ | keys(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                replied = process.stdout.readline()
                with seconds_of() as watch:
                    assert process.wait(STOP) == 0
                log = process.stderr.read()
            finally:
                process.kill()
    assert replied == "hello\n"
    assert watch.seconds < BOUND
    assert "Traceback" not in log
    assert SECRET not in log
