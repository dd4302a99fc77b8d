"""A v1 file comes out as v2: what it says is kept, what needs a hand is told, secrets stay unread."""

from __future__ import annotations

import json

import pytest
import yaml
from aixgo import errors
from aixgo.config.build import build_agents
from aixgo.config.load import load, loads
from aixgo.config.version1 import _dumped, _unfilled, migrate
from aixgo_services.cli.main import execute
from hypothesis import example, given
from hypothesis import strategies as st

OLD = """\
supervisor:
  name: coordinator
  model: gpt-4-turbo
  max_rounds: 10
agents:
  - {name: analyst, role: llm, model: grok-4, prompt: Look at it.}
  - {name: writer, role: llm, model: gpt-4o}
"""


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(OLD)
    return path


def migrated(path, text):
    path.write_text(text)
    return migrate(path)


def test_a_supervisor_becomes_an_orchestration_of_all_agents_and_an_agent_that_supervises_them(old):
    made = migrate(old)
    new = yaml.safe_load(made.text)
    assert new["version"] == 2
    assert new["orchestration"] == {
        "name": "coordinator", "pattern": "supervisor", "agents": ["analyst", "writer"],
        "config": {"supervisor": "coordinator-supervisor", "max_rounds": 10},
    }  # fmt: skip
    assert new["agents"][2] == {"name": "coordinator-supervisor", "role": "llm", "model": "openai/gpt-4-turbo"}
    assert "supervisor" not in new
    assert made.notes == ()


def test_what_a_supervisor_was_told_goes_to_the_agent_that_supervises(old):
    text = "supervisor: {model: gpt-4o, prompt: Lead., temperature: 0}\nagents: [{name: main-supervisor, role: llm}]"
    made = migrated(old, text)
    new = yaml.safe_load(made.text)
    assert new["agents"][1] == {
        "name": "main-supervisor-2", "role": "llm", "model": "openai/gpt-4o", "prompt": "Lead.",
        "config": {"temperature": 0},
    }  # fmt: skip
    assert new["orchestration"]["config"] == {"supervisor": "main-supervisor-2"}
    assert made.notes == ("agent main-supervisor-2: temperature went to `config`; see whether its role knows them.",)


def test_a_supervisor_without_a_model_lets_the_agents_take_turns_and_that_is_told(old):
    made = migrated(old, "supervisor: {name: s, style: calm}\nagents: [{name: a, role: llm}, {name: b, role: llm}]")
    new = yaml.safe_load(made.text)
    assert new["orchestration"]["config"] == {"select": "round_robin", "style": "calm"}
    assert [agent["name"] for agent in new["agents"]] == ["a", "b"]
    assert made.notes == (
        "the supervisor has no model to choose workers with, so they take turns, in order.",
        "style of the supervisor stands in `config`, which knows no such key.",
    )


@pytest.mark.parametrize(
    ("settings", "count", "limits"),
    [
        ("model: gpt-4o, max_rounds: 25", 1, {"max_iterations": 25}),
        ("model: gpt-4o, max_rounds: 10", 1, None),
        ("max_rounds: 12", 1, {"max_iterations": 12}),
        ("name: s", 11, {"max_iterations": 11}),
        ("model: gpt-4o", 11, None),
    ],
)
def test_more_rounds_than_the_limit_raise_the_limit(old, settings, count, limits):
    agents = ", ".join(f"{{name: a{at}, role: llm}}" for at in range(count))
    new = yaml.safe_load(migrated(old, f"supervisor: {{{settings}}}\nagents: [{agents}]").text)
    assert new["orchestration"].get("limits") == limits


@pytest.mark.parametrize("agents", ["", "agents: []", "agents:"])
def test_a_supervisor_without_agents_still_has_its_model(old, agents):
    new = yaml.safe_load(migrated(old, f"supervisor: {{model: gpt-4o}}\n{agents}").text)
    assert new["agents"] == [{"name": "main-supervisor", "role": "llm", "model": "openai/gpt-4o"}]


def test_a_migrated_supervisor_is_built(old):
    text = migrated(old, OLD.replace("gpt-4-turbo", "test/echo").replace("grok-4", "test/echo"))
    agents = build_agents(loads(text.text.replace("openai/gpt-4o", "test/echo")))
    assert [agent.name for agent in agents] == ["analyst", "writer", "coordinator-supervisor", "coordinator"]


@pytest.mark.parametrize(
    ("old_name", "new_name"),
    [
        ("gpt-4-turbo", "openai/gpt-4-turbo"),
        ("o3-mini", "openai/o3-mini"),
        ("claude-3-opus", "anthropic/claude-3-opus"),
        ("gemini-1.5-pro", "gemini/gemini-1.5-pro"),
        ("grok-4", "xai/grok-4"),
        ("deepseek-chat", "deepseek/deepseek-chat"),
        ("ollama/llama3", "ollama/llama3"),
    ],
)
def test_a_model_gets_its_vendor(old, old_name, new_name):
    new = migrated(old, f"agents: [{{name: a, role: llm, model: {old_name}}}]")
    assert yaml.safe_load(new.text)["agents"][0]["model"] == new_name
    assert new.notes == ()


def test_a_model_of_an_unknown_family_is_kept_and_needs_a_hand(old):
    new = migrated(old, "agents: [{name: a, role: llm, model: mistral}]")
    assert yaml.safe_load(new.text)["agents"][0]["model"] == "mistral"
    assert new.notes == ("agent a: write the model mistral with its vendor, for example ollama/mistral.",)


def test_keys_that_v2_does_not_know_become_the_roles_configuration(old):
    new = migrated(old, "agents: [{name: a, role: 'my.pkg:A', interval: 500ms, config: {size: 1}}]")
    assert yaml.safe_load(new.text)["agents"] == [
        {"name": "a", "role": "my.pkg:A", "config": {"size": 1, "interval": "500ms"}}
    ]
    assert new.notes == ("agent a: interval went to `config`; see whether its role knows them.",)


def test_a_role_written_in_go_needs_a_hand_and_a_ready_one_does_not(old):
    new = migrated(old, "agents: [{name: a, role: scraper}, {name: b, role: planner}]")
    assert new.notes == (
        "agent a: role scraper was Go code; write it as a Python class and name it my_pkg.agents:Class.",
    )


def test_mcp_servers_are_kept_and_need_to_be_described(old):
    new = migrated(
        old, "tools: [{name: web, mcp: {url: x}}]\nagents: [{name: a, role: react, mcp_servers: [files, web]}]"
    )
    assert yaml.safe_load(new.text)["agents"][0]["mcp_servers"] == ["files", "web"]
    assert new.notes == ("agent a: add to `tools:` how to reach files: {name: ..., mcp: {command: [...]}}.",)


def test_mcp_servers_of_a_role_that_uses_none_are_told(old):
    new = migrated(old, "tools: [{name: web, mcp: {url: x}}]\nagents: [{name: a, role: llm, mcp_servers: [web]}]")
    assert new.notes == ("agent a: role llm uses no tools; role react does.",)


def test_what_needs_a_hand_stands_as_a_comment_above_its_place(old):
    lines = migrated(old, "agents: [{name: a, role: llm}, {name: b, role: scraper}]").text.splitlines()
    comment = next(number for number, line in enumerate(lines) if "By hand: agent b" in line)
    entry = lines.index("  - name: b")
    assert lines.index("  - name: a") < comment < entry
    assert all(line.startswith("  #") for line in lines[comment:entry])


def test_a_section_that_v2_does_not_know_is_kept_and_needs_a_hand(old):
    new = migrated(old, "version: 1\nagents: [{name: a, role: llm}]\ncluster: {size: 3}")
    assert yaml.safe_load(new.text)["cluster"] == {"size": 3}
    assert "v2 knows no section `cluster`" in new.notes[0]


def test_a_supervisor_beside_an_orchestration_is_left_out_and_told(old):
    new = migrated(old, "supervisor: {name: x}\norchestration: {pattern: parallel, agents: [a]}\nagents: []")
    assert yaml.safe_load(new.text)["orchestration"] == {"pattern": "parallel", "agents": ["a"]}
    assert "`supervisor` is left out" in new.notes[0]


def test_a_file_that_needs_no_hand_is_read_as_it_comes_out(old):
    text = migrated(old, "version: 1\nagents: [{name: a, role: llm, model: gpt-4o}]").text
    assert loads(text).names == ("a",)


def test_variables_stay_variables(old, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    new = migrated(old, 'agents: [{name: "${A:-x}", role: llm, prompt: "${MY_KEY} and $${literal}"}]')
    assert yaml.safe_load(new.text)["agents"][0]["prompt"] == "${MY_KEY} and $${literal}"
    assert loads(new.text, variables={"MY_KEY": "k"}).agents[0].prompt == "k and ${literal}"


def test_a_refused_v1_file_does_not_show_what_a_variable_held(old, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-value")
    old.write_text("supervisor: {name: s, api_key: '${MY_KEY}'}\nagents: []")
    with pytest.raises(errors.ConfigError) as caught:
        load(old)
    assert "secret-value" not in str(caught.value)
    assert "${MY_KEY}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version: 2\nagents: [{name: a, role: llm}]", "says `version: 2`; only files of v1"),
        ("version: 7", "says `version: 7`"),
        ("- a\n- b", "nothing to migrate"),
        ("{", "this is not YAML"),
        ("", "the file is empty"),
    ],
)
def test_what_is_no_v1_file_is_refused(old, content, says):
    with pytest.raises(errors.ConfigError, match=says):
        migrated(old, content)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(errors.ConfigError, match="cannot be read: No such file"):
        migrate(tmp_path / "none.yaml")


PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-(10**17), 10**17), st.text(max_size=12))
VALUES = st.recursive(
    PLAIN,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda key: key != "<<"), below, max_size=3)
    ),
    max_leaves=8,
)
AGENTS = st.lists(
    st.dictionaries(st.sampled_from(["name", "role", "model", "prompt", "config", "mcp_servers", "x"]), VALUES),
    max_size=3,
)


@given(agents=AGENTS, supervisor=VALUES)
@example(agents=[{"name": {"\x85": None}}, {"prompt": "a\x85b\u2028c\n\nd"}], supervisor=None)
@example(agents=[{"name": ["a"]}], supervisor={"name": ["x"], "model": "m", "max_rounds": "many"})
@example(agents=[{"name": "0E0", "role": "1", "prompt": "1e5"}, {"name": "yes", "role": "null"}], supervisor=None)
def test_whatever_stands_in_a_v1_file_its_agents_come_out_with_all_they_said(tmp_path_factory, agents, supervisor):
    path = tmp_path_factory.getbasetemp() / "wild.yaml"
    path.write_text(_dumped({"supervisor": supervisor, "agents": agents}, allow_unicode=False))
    new = _unfilled(path, migrate(path).text.encode())
    lead = isinstance(supervisor, dict) and bool(supervisor.get("model"))
    assert len(new["agents"]) == len(agents) + lead
    for before, after in zip(agents, new["agents"], strict=False):
        assert all(after.get(key) == before[key] for key in ("name", "role", "prompt") if key in before)


def test_the_command_prints_the_text_and_tells_what_needs_a_hand(old, capsys):
    assert execute(["config", "migrate", str(old)]) == 0
    told = capsys.readouterr()
    assert yaml.safe_load(told.out)["orchestration"]["name"] == "coordinator"
    assert told.err.splitlines() == [f"by hand: {note}" for note in migrate(old).notes]


def test_the_command_writes_a_new_file_and_never_over_one(old, tmp_path, capsys):
    new = tmp_path / "new.yaml"
    assert execute(["config", "migrate", str(old), "-o", str(new)]) == 0
    assert new.read_text() == migrate(old).text
    assert old.read_text() == OLD
    assert execute(["config", "migrate", str(old), "-o", str(old)]) == 2
    assert "there is such a file" in capsys.readouterr().err
    assert old.read_text() == OLD


def test_a_place_that_cannot_be_written_is_told(old, tmp_path, capsys):
    assert execute(["config", "migrate", str(old), "-o", str(tmp_path / "no" / "new.yaml")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_answers_scripts_with_json(old, capsys):
    assert execute(["config", "migrate", str(old), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(old)
    assert told["output"] is None
    assert told["text"] == migrate(old).text
    assert told["by_hand"] == list(migrate(old).notes)
