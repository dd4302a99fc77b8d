"""What the doctor says of documents, replicas, MCP servers and databases."""

from __future__ import annotations

import pytest
from aixgo.config.load import load, loads
from aixgo.config.settings import Settings
from aixgo_services.cli.main import execute
from aixgo_services.doctor import examination
from aixgo_services.doctor.dependencies import check_files, check_programs, check_servers, check_sharing
from aixgo_services.doctor.findings import Level
from aixgo_services.doctor.surroundings import Network
from aixgo_services.needs.beside import read_beside
from aixgo_services.needs.keeping import mailbox_place, session_place

SECRET = "hunter2"
FILE = """\
version: 2
tools:
  - {name: files, mcp: {command: [serve-files, ./data]}}
  - {name: far, mcp: {url: "http://user:hunter2@tools.example/mcp"}}
agents:
  - {name: helper, role: react, model: test/echo, mcp_servers: [files, far]}
  - {name: library, role: retriever, config: {documents: handbook, store: "https://qdrant.example:6333"}}
sessions: {store: "postgresql://user:hunter2@db.example/x"}
"""


def network(*listening):
    async def is_listening(address):
        return address in listening

    async def lists(address):
        return None

    return Network(is_listening, lists)


def place(config):
    return session_place(config, Settings())


def test_documents_that_are_not_there_are_a_problem(tmp_path):
    (tmp_path / "mesh.yaml").write_text(FILE)
    config = load(tmp_path / "mesh.yaml", {})
    (found,) = check_files(read_beside(config, tmp_path))
    assert (found.level, found.what) == (Level.PROBLEM, "there is no handbook, which agent library names")
    (tmp_path / "handbook").mkdir()
    assert check_files(read_beside(config, tmp_path)) == []


def test_a_program_that_cannot_be_started_is_a_problem():
    config = loads(FILE)
    assert check_programs(config, {"serve-files": "/bin/serve-files"}.get) == []
    (found,) = check_programs(config, {}.get)
    assert found.level is Level.PROBLEM
    assert found.what == "MCP server files is started by serve-files, and there is no such program"


async def test_servers_that_nobody_listens_as_are_problems_without_their_passwords():
    config = loads(FILE)
    found = await check_servers(config, place(config), network("tools.example:80"))
    assert [(each.check, each.level) for each in found] == [
        ("documents", Level.PROBLEM),
        ("sessions", Level.PROBLEM),
    ]
    assert "qdrant.example:6333" in found[0].what
    assert "db.example:5432" in found[1].what
    assert SECRET not in str(await check_servers(config, place(config), network()))


async def test_servers_that_listen_are_fine():
    config = loads(FILE)
    there = network("tools.example:80", "qdrant.example:6333", "db.example:5432")
    assert await check_servers(config, place(config), there) == []


@pytest.mark.parametrize(
    ("agent", "level", "what"),
    [
        ("role: llm, model: test/echo", Level.WARNING, "each remembers its own sessions"),
        ("role: llm, model: test/echo, config: {memory: false}", None, ""),
        ("role: retriever, config: {store: vectors}", Level.PROBLEM, "one process can open"),
        ("role: retriever, config: {documents: d}", None, ""),
        ('role: retriever, config: {store: "http://q:6333"}', None, ""),
        ("role: producer, config: {interval: 1m}, outputs: [{target: a}]", Level.WARNING, "sends every message"),
    ],
)
def test_replicas_that_do_not_get_on_are_told(agent, level, what):
    text = f"version: 2\nagents: [{{name: a, {agent}}}]\ndeployment: {{agents: {{a: {{replicas: 2}}}}}}\n"
    found = check_sharing(loads(text), place(loads(text)))
    assert [each.level for each in found] == ([] if level is None else [level])
    assert all(what in each.what and each.fix for each in found)
    alone = loads(text.replace("replicas: 2", "replicas: 1"))
    assert check_sharing(alone, place(alone)) == []


@pytest.mark.parametrize(("mode", "count"), [("local", 0), ("distributed", 1)])
def test_a_file_of_sessions_is_one_machines(mode, count):
    text = (
        "version: 2\nagents: [{name: a, role: llm, model: test/echo}]\nsessions: {store: 'sqlite:///s.db'}\n"
        f"deployment: {{mode: {mode}, control_plane: 'plane:50050'}}\n"
    )
    found = check_sharing(loads(text), place(loads(text)))
    assert [each.level for each in found] == [Level.WARNING] * count


@pytest.mark.parametrize(("mode", "count"), [("local", 0), ("distributed", 1)])
def test_a_file_of_mailboxes_is_one_machines(mode, count):
    config = loads(
        "version: 2\nagents: [{name: a, role: llm, model: test/echo}]\nmailbox: {url: 'sqlite:///m.db'}\n"
        f"deployment: {{mode: {mode}, control_plane: 'plane:50050'}}\n"
    )
    found = check_sharing(config, place(config), mailbox_place(config, Settings()))
    assert [each.level for each in found] == [Level.WARNING] * count


async def test_a_nats_server_that_nobody_listens_as_is_a_problem_without_its_password():
    config = loads(
        "version: 2\nagents: [{name: a, role: llm, model: test/echo}]\nmailbox: {url: 'nats://u:hunter2@mq'}"
    )
    mail = mailbox_place(config, Settings())
    assert await check_servers(config, place(config), network("mq:4222"), mail) == []
    (found,) = await check_servers(config, place(config), network(), mail)
    assert (found.check, found.level, SECRET in str(found)) == ("mailboxes", Level.PROBLEM, False)
    assert "mq:4222" in found.what


async def test_extras_are_asked_for_where_the_agents_cannot_even_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\nagents: [{name: a, role: 'no_such:Thing'}, {name: b, role: producer, config: {cron: x y}}]\n"
    )
    monkeypatch.setattr(examination, "_version_of", lambda name: None if name == "cronsim" else "1")
    found = await examination.examine(tmp_path / "mesh.yaml")
    told = next(each for each in found if each.check == "extra cron")
    assert "agent b sends by a cron expression" in told.what
    assert "aixgo[cron]" in told.fix


def test_all_of_it_is_in_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\ntools: [{name: files, mcp: {command: [serve-files]}}]\n"
        "agents: [{name: a, role: react, model: test/echo, mcp_servers: [files]},"
        " {name: r, role: retriever, config: {documents: handbook}}]\n"
    )
    assert execute(["doctor", str(tmp_path / "mesh.yaml")]) == 1
    told = capsys.readouterr().out
    assert "there is no handbook" in told
    assert "serve-files, and there is no such program" in told
