"""A whole file: what is read, and what each kind of bad use gets."""

# ruff: noqa: E501, ISC004  # messages are quoted whole

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from aixgo.config.json_schema import json_schema
from aixgo.config.load import load, loads
from aixgo.config.schema import Config, PatternSpec
from aixgo.errors import ConfigError
from aixgo.orchestration.catalog import PATTERNS
from hypothesis import given, settings
from hypothesis import strategies as st

GOOD = """\
version: 2
pricing:
  my-model: {prompt: 0.001, completion: 0.002}
agents:
  - {name: sentiment, role: classifier, model: [local/smollm2-135m, test/backup], config: {categories: {good: g}}}
  - {name: urgency, role: llm, model: test/x, prompt: "How urgent?", outputs: [{target: sentiment}]}
orchestrations:
  - name: triage
    pattern: parallel
    agents: [sentiment, urgency, {pattern: sequential, agents: [urgency, remote]}]
    config: {aggregator: merge}
    limits: {timeout: 5m, max_cost_usd: 1.5}
  - name: desk
    pattern: router
    config:
      classifier: sentiment
      routes: {good: triage, bad: {pattern: sequential, agents: [urgency]}}
      fallback: urgency
deployment:
  mode: distributed
  control_plane: localhost:50050
  connect: {remote: "far-host:50051"}
  agents: {sentiment: {replicas: 2, port: 7000}, triage: {}}
observability: {langfuse: false}
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "mesh.yaml")
    return str(caught.value).splitlines()


def config_or_error(text: str) -> Config | ConfigError:
    try:
        return loads(text)
    except ConfigError as error:
        return error


def test_a_whole_file_is_read():
    config = loads(GOOD)
    assert config.names == ("sentiment", "urgency", "triage", "desk")
    assert config.agents[0].model == ("local/smollm2-135m", "test/backup")
    assert config.pricing["my-model"].completion == Decimal("0.002")
    triage = config.patterns[0]
    assert triage.limits.timeout == 300
    assert triage.limits.max_cost_usd == Decimal("1.5")
    assert triage.limits.max_agents == 100
    assert isinstance(triage.agents[2], PatternSpec)
    assert config.deployment.control_plane == ("localhost:50050",)
    assert config.deployment.agents["sentiment"].replicas == 2


def test_a_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        loads(GOOD).version = 2  # type: ignore[misc]


def test_a_value_knows_its_file_and_line(tmp_path: Path):
    file = tmp_path / "mesh.yaml"
    file.write_text(GOOD)
    assert load(file).where("orchestrations", 1, "config", "classifier") == f"{file}:16"
    made = Config(version=2)
    assert made.where("agents", 0, "role") == "agents[0].role"


def test_a_dotenv_file_beside_the_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FROM_BOTH", "environment")
    (tmp_path / ".env").write_text("FROM_FILE=file\nFROM_BOTH=file\n")
    file = tmp_path / "mesh.yaml"
    file.write_text('version: 2\nagents: [{name: a, role: llm, prompt: "${FROM_FILE} ${FROM_BOTH}"}]\n')
    assert load(file).agents[0].prompt == "file environment"


HEAD = "version: 2\nagents: [{name: a, role: llm}, {name: b, role: llm}]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: 2\nagents:\n  - name: a\n    rol: llm\n    role: llm\n",
         "mesh.yaml:4: unknown key 'agents[0].rol'; did you mean 'role'?"),
        (HEAD + "deploymnt: {}\n", "mesh.yaml:3: unknown key 'deploymnt'; did you mean 'deployment'?"),
        (HEAD + "deployment: {agents: {a: {replica: 2}}}\n",
         "mesh.yaml:3: unknown key 'deployment.agents.a.replica'; did you mean 'replicas'?"),
        (HEAD + "orchestration: {pattern: parallel, agents: [{pattern: parallel, agent: [a]}]}\n",
         "mesh.yaml:3: unknown key 'orchestration.agents[0].agent'; did you mean 'agents'?"),
        (HEAD + "orchestration: {pattern: parallel, agents: [a], limits: {zzz: 1}}\n",
         "mesh.yaml:3: unknown key 'orchestration.limits.zzz'; known are: max_agents, max_cost_usd, max_depth,"
         " max_iterations, max_tokens, timeout"),
        ("version: 2\nagents: [{role: llm}]\n", "mesh.yaml:2: agents[0].name is missing; add `name:`"),
        ("agents: [{name: a, role: llm}]\n", "mesh.yaml:1: version is missing; add `version: 2`"),
        ("version: 3\nagents: [{name: a, role: llm}]\n",
         "mesh.yaml:1: version is 3, and this aixgo reads version 2; write `version: 2`"),
        ("version: 2\nagents:\n  - name: 5\n    role: llm\n", "mesh.yaml:3: agents[0].name: must be text, and is a number"),
        ("version: 2\nagents: yes\n", "mesh.yaml:2: agents: must be a list, and is text"),
        ("version: 2\nagents: [a]\n", "mesh.yaml:2: agents[0]: must be a mapping (`key: value`), and is text"),
        ("version: 2\nagents:\n", "mesh.yaml:2: agents: must be a list, and is empty"),
        ("version: 2\n", "mesh.yaml:1: there is nothing to run; add `agents:` with at least one agent"),
        ("- a\n", "mesh.yaml:1: the file must hold keys and values; begin with `version: 2`"),
        (HEAD + "deployment: {mode: remote}\n", "mesh.yaml:3: deployment.mode: must be 'local' or 'distributed'"),
        (HEAD + "deployment: {control_plane: [nowhere]}\n",
         "mesh.yaml:3: deployment.control_plane[0]: an address is written host:port, for example localhost:50050"),
        (HEAD + "deployment: {agents: {a: {replicas: 0}}}\n",
         "mesh.yaml:3: deployment.agents.a.replicas: must be greater than or equal to 1"),
        (HEAD + "deployment: {agents: {a: {replicas: true}}}\n",
         "mesh.yaml:3: deployment.agents.a.replicas: must be a whole number, and is true or false"),
        (HEAD + "deployment: {agents: {a: {replicas: 9, port: 65530}}}\n",
         "mesh.yaml:3: the replicas' ports would go over 65535; choose a lower port"),
        (HEAD + "orchestration: {pattern: parallel, agents: [a], limits: {timeout: soon}}\n",
         "mesh.yaml:3: orchestration.limits.timeout: a duration is needed: seconds, or text like 250ms, 30s, 5m, 1h"),
        (HEAD + "orchestration: {pattern: parallel, agents: [a], limits: {timeout: 0}}\n",
         "mesh.yaml:3: orchestration.limits.timeout: a duration must be more than 0"),
        ("version: 2\nagents:\n  - {name: a, role: llm}\n  - {name: a, role: llm}\n",
         "mesh.yaml:4: the name 'a' is taken (line 3); rename one of them"),
        (HEAD + "orchestration: {name: a, pattern: parallel, agents: [b]}\n",
         "mesh.yaml:3: the name 'a' is taken (line 2); rename one of them"),
        (HEAD + "orchestration: {pattern: parallel, agents: [a, aa]}\n",
         "mesh.yaml:3: orchestration.agents[1]: 'aa' is neither an agent nor an orchestration; did you mean 'a'?"),
        (HEAD + "orchestration: {pattern: router, config: {classifier: a, routes: {x: zz}}}\n",
         "mesh.yaml:3: orchestration.config.routes.x: 'zz' is neither an agent nor an orchestration; known are: a, b, main"),
        (HEAD + "orchestration: {pattern: router, config: {classifier: a, routes: {x: {pattern: parallel, agnts: []}}}}\n",
         "mesh.yaml:3: unknown key 'orchestration.config.routes.x.agnts'; did you mean 'agents'?"),
        (HEAD + "orchestration: {pattern: paralel, agents: [a]}\n",
         "mesh.yaml:3: unknown pattern 'paralel'; did you mean 'parallel'?"),
        (HEAD + "deployment: {agents: {c: {}}}\n",
         "mesh.yaml:3: deployment.agents names 'c', which is no agent of this file; known are: a, b"),
        (HEAD + "deployment: {connect: {x: 'h:1'}}\n",
         "mesh.yaml:3: deployment.connect is for other processes; add `mode: distributed`"),
        ("version: 2\nagents: [{name: a, role: llm, outputs: [{target: lg}]}]\n",
         "mesh.yaml:2: agents[0].outputs[0].target: 'lg' is neither an agent nor an orchestration; known are: a"),
    ],
)  # fmt: skip
def test_bad_use_is_told_with_line_and_fix(text: str, told: str):
    assert refusal(text) == [told]


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/0", "x" * 129])
def test_an_unusable_name_is_refused(name: str):
    (told,) = refusal(f"version: 2\nagents: [{{name: '{name}', role: llm}}]\n")
    assert told.startswith("mesh.yaml:2: agents[0].name:")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (HEAD + "observability: {otlp: 'collector:4317'}\n", "no URL of a collector; write http://host:4317"),
        (HEAD + "observability: {sample: 2}\n", "observability.sample"),
        (HEAD + "observability: {prometheus: '9464'}\n", "an address is written host:port"),
        (HEAD + "observability: {redact: 'a:b'}\n", "add `capture_content: true`"),
    ],
)  # fmt: skip
def test_telemetry_that_cannot_be_meant_is_refused(text: str, what: str):
    (told,) = refusal(text)
    assert what in told
    assert told.startswith("mesh.yaml:")


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    text = "version: 2\nagnts: []\nagents:\n  - {name: 1, role: llm}\n  - {name: b}\ndeployment: {mode: x}\n"
    assert [line.partition(": ")[0] for line in refusal(text)] == [f"mesh.yaml:{n}" for n in (2, 4, 5, 6)]


def test_more_problems_than_a_person_reads_are_counted():
    told = refusal("version: 2\nagents:\n" + "  - {}\n" * 30)
    assert len(told) == 21
    assert told[-1] == "... and 40 more"


def test_problems_are_there_for_programs_too():
    with pytest.raises(ConfigError) as caught:
        loads("version: 2\nagnts: []\nagents: [{name: a, role: llm}]\n", "mesh.yaml")
    (problem,) = caught.value.fields["problems"]
    assert problem["line"] == 2
    assert caught.value.fields["file"] == "mesh.yaml"


def test_a_circle_of_orchestrations_is_printed():
    text = HEAD + (
        "orchestrations:\n"
        "  - {name: one, pattern: sequential, agents: [a, {pattern: parallel, agents: [two]}]}\n"
        "  - {name: two, pattern: router, config: {classifier: a, routes: {x: three}}}\n"
        "  - {name: three, pattern: parallel, agents: [b], config: {aggregator: one}}\n"
        "  - {name: self, pattern: sequential, agents: [self]}\n"
        "  - {name: fine, pattern: sequential, agents: [one, one]}\n"
    )
    assert refusal(text) == [
        "mesh.yaml:4: orchestrations call each other in a circle: one > two > three > one; take one out of the other",
        "mesh.yaml:7: orchestrations call each other in a circle: self > self; take one out of the other",
    ]


def test_a_long_chain_of_orchestrations_is_no_circle():
    links = "".join(f"  - {{name: o{n}, pattern: sequential, agents: [o{n + 1}]}}\n" for n in range(2000))
    text = HEAD + "orchestrations:\n" + links + "  - {name: o2000, pattern: sequential, agents: [a]}\n"
    assert len(loads(text).patterns) == 2001


def test_a_v1_file_is_refused_with_the_v2_text_to_write():
    old = "supervisor:\n  name: boss\n  max_rounds: 10\nagents:\n  - {name: a, role: llm}\n  - {name: b, role: llm}\n"
    with pytest.raises(ConfigError) as caught:
        loads(old, "old.yaml")
    first, _, text = caught.value.message.partition("\n\n")
    assert first == "old.yaml:1: this file is of aixgo v1 (it has a `supervisor:` section); write it as v2:"
    new = yaml.safe_load(text)
    assert new["version"] == 2
    assert new["orchestration"] == {
        "name": "boss", "pattern": "supervisor", "agents": ["a", "b"],
        "config": {"select": "round_robin", "max_rounds": 10},
    }  # fmt: skip
    assert loads(text).names == ("a", "b", "boss")


def test_a_file_that_says_version_1_is_refused_with_a_file_that_is_read():
    with pytest.raises(ConfigError) as caught:
        loads("version: 1\nagents: [{name: a, role: llm}]\n")
    assert loads(caught.value.message.partition("\n\n")[2]).names == ("a",)


def test_the_json_schema_describes_the_keys_and_is_json():
    schema = json.loads(json.dumps(json_schema()))
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["PatternSpec"]["properties"]["pattern"]["anyOf"][0] == {"enum": list(PATTERNS)}
    assert {"type": "string"} in schema["$defs"]["AgentSpec"]["properties"]["model"]["anyOf"]


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["a", "main"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["name", "role", "pattern", "agents", "config", "classifier", "routes", "aggregator", "x"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
SECTIONS = st.fixed_dictionaries(
    {"version": st.just(2)}, optional=dict.fromkeys(set(Config.model_fields) - {"version"}, VALUES)
)


@settings(max_examples=300, deadline=None)
@given(SECTIONS)
def test_any_values_under_the_right_keys_are_a_config_or_a_config_error(data: dict[str, Any]):
    found = config_or_error(yaml.safe_dump(data))
    assert isinstance(found, Config) or found.message.startswith("<text>")
