"""A v1 file comes out as v2: what it says is kept, what needs a hand is told, secrets stay unread."""

from __future__ import annotations

import json

import pytest
import yaml
from aixgo import errors
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


def test_a_supervisor_becomes_an_orchestration_of_all_agents(old):
    new = yaml.safe_load(migrate(old).text)
    assert new["version"] == 2
    assert new["orchestration"] == {
        "name": "coordinator", "pattern": "supervisor", "agents": ["analyst", "writer"],
        "config": {"model": "openai/gpt-4-turbo", "max_rounds": 10},
    }  # fmt: skip
    assert "supervisor" not in new


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


def test_a_role_written_in_go_and_a_role_to_come_need_a_hand(old):
    new = migrated(old, "agents: [{name: a, role: scraper}, {name: b, role: planner}]")
    assert [note.partition(";")[0] for note in new.notes] == [
        "agent a: role scraper was Go code",
        "agent b: role planner is not built yet",
    ]


def test_mcp_servers_are_kept_and_need_a_hand(old):
    new = migrated(old, "agents: [{name: a, role: llm, mcp_servers: [files]}]")
    assert yaml.safe_load(new.text)["agents"][0]["mcp_servers"] == ["files"]
    assert new.notes == ("agent a: mcp_servers are not built yet; remove the key until they are.",)


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
    st.dictionaries(st.sampled_from(["name", "role", "model", "prompt", "config", "x"]), VALUES), max_size=3
)


@given(agents=AGENTS, supervisor=VALUES)
@example(agents=[{"name": {"\x85": None}}, {"prompt": "a\x85b\u2028c\n\nd"}], supervisor=None)
@example(agents=[{"name": "0E0", "role": "1", "prompt": "1e5"}, {"name": "yes", "role": "null"}], supervisor=None)
def test_whatever_stands_in_a_v1_file_its_agents_come_out_with_all_they_said(tmp_path_factory, agents, supervisor):
    path = tmp_path_factory.getbasetemp() / "wild.yaml"
    path.write_text(_dumped({"supervisor": supervisor, "agents": agents}, allow_unicode=False))
    new = _unfilled(path, migrate(path).text.encode())
    assert len(new["agents"]) == len(agents)
    for before, after in zip(agents, new["agents"], strict=True):
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
