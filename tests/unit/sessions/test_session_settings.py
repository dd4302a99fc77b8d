"""`sessions:` in the YAML and AIXGO_SESSION_STORE: which store agents get, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.load import load, loads
from aixgo.config.schema import Config
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError
from aixgo.launch import make_resources, opened
from aixgo.message import Message
from aixgo.sessions.contract import SessionLimits
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.sessions.postgres import PostgresSessions
from aixgo.sessions.sqlite import SQLiteSessions
from aixgo.sessions.stores import make_store
from pydantic import SecretStr

AGENT = "version: 2\nagents:\n  - {name: a, role: llm, model: test/echo}\n"
WITH_PASSWORD = "postgresql://anna:hunter2@db/sessions"


async def test_sessions_are_kept_in_memory_when_nobody_says_otherwise():
    resources = make_resources(loads(AGENT), {})
    assert isinstance(resources.sessions, InMemorySessions)
    assert resources.sessions.limits == SessionLimits()
    await resources.close()


async def test_the_file_names_the_store_and_its_limits():
    text = AGENT + "sessions: {store: 'postgres://db/x', ttl: 1d, max_turns: 20, max_turn_bytes: 99, max_sessions: 5}\n"
    resources = make_resources(loads(text), {})
    assert isinstance(resources.sessions, PostgresSessions)
    assert resources.sessions.limits == SessionLimits(86_400.0, 20, 99, 5)
    await resources.close()


async def test_the_environment_wins_over_the_file():
    config = loads(AGENT + f"sessions: {{store: '{WITH_PASSWORD}'}}\n")
    resources = make_resources(config, {"AIXGO_SESSION_STORE": "sqlite:///here.db"})
    assert isinstance(resources.sessions, SQLiteSessions)
    await resources.close()


async def test_agents_of_a_file_remember_beyond_the_process(tmp_path: Path):
    """The file of the sessions lies beside the YAML, wherever the process was started."""
    yaml = tmp_path / "mesh.yaml"
    yaml.write_text(AGENT + "sessions: {store: 'sqlite:///kept/sessions.db'}\n")
    spent = list[int]()
    for _ in range(2):
        async with opened(load(yaml, {}), variables={}) as runtime:
            reply = await runtime.call("a", Message("two words", session_id="s"))
            spent.append(reply.usage.prompt_tokens)
    assert spent == [2, 6]
    assert (tmp_path / "kept" / "sessions.db").exists()


@pytest.mark.parametrize(
    ("sessions", "told"),
    [
        ("store: redis://u:hunter2@h", "there is no session store 'redis'"),
        ("store: sqlite:///", "this names no session store; write memory, sqlite:///path"),
        ("store: ':hunter2'", "there is no session store ''"),
        ("store: hunter2", "this names no session store"),
        ("stores: memory", "did you mean 'store'"),
        ("ttl: soon", "sessions.ttl: a duration is needed"),
        ("max_turns: 1", "sessions.max_turns: "),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line_and_without_secrets(sessions: str, told: str):
    with pytest.raises(ConfigError) as caught:
        loads(f"{AGENT}sessions:\n  {sessions}\n", "mesh.yaml")
    assert told in caught.value.message
    assert caught.value.message.startswith("mesh.yaml:5: ")
    assert "hunter2" not in caught.value.message


def test_a_setting_that_names_no_store_is_told_without_secrets():
    with pytest.raises(ConfigError, match="AIXGO_SESSION_STORE: there is no session store 'mysql'") as caught:
        Settings.read({"AIXGO_SESSION_STORE": "mysql://u:hunter2@h/x"})
    assert "hunter2" not in caught.value.message


def test_a_stores_password_is_shown_nowhere():
    config = loads(AGENT + f"sessions: {{store: '{WITH_PASSWORD}'}}\n")
    settings = Settings.read({"AIXGO_SESSION_STORE": WITH_PASSWORD})
    for text in (repr(config), config.model_dump_json(), repr(settings), settings.model_dump_json()):
        assert "hunter2" not in text


def test_a_store_can_be_made_of_a_text():
    assert isinstance(make_store(SecretStr("memory"), SessionLimits()), InMemorySessions)
    with pytest.raises(ConfigError, match=r"sessions\.store: this names no session store"):
        make_store(SecretStr("nonsense"), SessionLimits())


def test_editors_learn_of_sessions_from_the_schema():
    schema = Config.model_json_schema()
    assert set(schema["$defs"]["SessionsSpec"]["properties"]) == {
        "store", "ttl", "max_turns", "max_turn_bytes", "max_sessions",
    }  # fmt: skip
