"""Who may call an agent: said in YAML or Python, asked once for every transport, before the agent is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aixgo import Agent, LocalRuntime, Message, agent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.errors import CallCancelled, ConfigError, PermissionDenied, Unauthenticated
from aixgo.orchestration.sequential import Sequential
from aixgo.security.identity import ANONYMOUS, Caller, from_certificate
from aixgo.security.rules import Rules
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo.server.callees import IncomingCall, OwnAgents
from aixgo.server.calls import CallServer

KEEPER, STRANGER = Caller(("spiffe://a.b/agent/keeper",)), Caller(("stranger",))
BOUND = 20.0


class Vault(Agent):
    """Counts how often it was opened; a text `hold` keeps it open."""

    name = "vault"
    allow_callers = ("spiffe://*/agent/keeper",)

    def __init__(self) -> None:
        self.opened = 0
        self.held = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        self.opened += 1
        if message.text == "hold":
            self.held.set()
            await asyncio.Event().wait()
        return message


@agent
async def public(message: Message) -> Message:
    return message


@pytest.fixture
def secured(tmp_path: Path) -> Security:
    """A process that knows its callers, by tokens."""
    (tmp_path / "tokens").write_text("keeper: a-token-of-this-test-only\n")
    return Security(SecuritySettings(tokens_file=tmp_path / "tokens"))


@pytest.fixture
async def vault() -> Vault:
    return Vault()


@pytest.fixture
async def calls(vault: Vault, secured: Security) -> AsyncGenerator[CallServer]:
    runtime = LocalRuntime()
    for each in (vault, public, Sequential("line", [Sequential("", ["public", "public"]), "public"])):
        runtime.register(each)
    runtime.own_agents["line"].allow_callers = ()
    async with runtime:
        yield CallServer(OwnAgents(runtime), security=secured)


def call(name: str, caller: Caller, text: str = "x", call_id: str = "") -> IncomingCall:
    return IncomingCall(name, Message.of(text), call_id, BOUND, caller=caller)


async def test_who_is_named_gets_in_and_nobody_else(calls: CallServer, vault: Vault):
    assert (await calls.serve(call("vault", KEEPER))).text == "x"
    with pytest.raises(PermissionDenied, match="stranger may not call agent 'vault'"):
        await calls.serve(call("vault", STRANGER))
    with pytest.raises(PermissionDenied):
        _ = [event async for event in calls.serve_stream(call("vault", STRANGER))]
    with pytest.raises(Unauthenticated):
        await calls.serve(call("vault", ANONYMOUS))
    assert vault.opened == 1


async def test_an_agent_that_names_nobody_takes_all_who_say_who_they_are(calls: CallServer):
    assert (await calls.serve(call("public", STRANGER))).text == "x"
    with pytest.raises(Unauthenticated):
        await calls.serve(call("public", ANONYMOUS))


async def test_an_empty_list_lets_nobody_in_not_even_to_unnamed_members(calls: CallServer):
    for name in ("line", "line/0"):
        with pytest.raises(PermissionDenied):
            await calls.serve(call(name, KEEPER))


async def test_a_refusal_is_one_line_of_the_log_however_often_it_is_tried(
    calls: CallServer, caplog: pytest.LogCaptureFixture
):
    for _ in range(3):
        with pytest.raises(PermissionDenied):
            await calls.serve(call("vault", STRANGER))
    assert [record.getMessage() for record in caplog.records] == [
        "refused: stranger may not call agent 'vault'; its allow_callers says who may"
    ]


async def test_letters_are_calls_in_this_respect(calls: CallServer):
    letter: Any = object()
    with pytest.raises(PermissionDenied):
        await calls.deliver("vault", letter, STRANGER)


async def test_nobody_cancels_the_call_of_another(calls: CallServer, vault: Vault):
    held = asyncio.ensure_future(calls.serve(call("vault", KEEPER, "hold", "id-1")))
    await vault.held.wait()
    assert await calls.cancel("id-1", STRANGER) is None
    assert not held.done()
    assert await calls.cancel("id-1", KEEPER) is not None
    with pytest.raises(CallCancelled):
        await held


async def test_rules_of_the_process_come_on_top(vault: Vault, tmp_path: Path):
    (tmp_path / "tokens").write_text("")
    told = SecuritySettings(tokens_file=tmp_path / "tokens", allow_callers=Rules.parse("*keeper=public"))
    runtime = LocalRuntime()
    runtime.register(vault)
    runtime.register(public.renamed("public"))
    async with runtime:
        server = CallServer(OwnAgents(runtime), security=Security(told))
        assert (await server.serve(call("public", KEEPER))).text == "x"
        for refused in (call("vault", KEEPER), call("public", STRANGER)):
            with pytest.raises(PermissionDenied, match="AIXGO_ALLOW_CALLERS"):
                await server.serve(refused)


YAML = """
version: 2
agents:
  - {name: open, role: logger}
  - {name: shut, role: logger, allow_callers: ["spiffe://a.b/*", desk]}
orchestration: {name: line, pattern: sequential, agents: [open, shut], allow_callers: []}
"""


def test_yaml_says_it_of_agents_and_of_orchestrations(tmp_path: Path):
    (tmp_path / "mesh.yaml").write_text(YAML)
    made = {each.name: each.allow_callers for each in build_agents(load(tmp_path / "mesh.yaml", {}))}
    assert made == {"open": None, "shut": ("spiffe://a.b/*", "desk"), "line": ()}


@pytest.mark.parametrize("identity", ["a b", "", "desk=x"])
def test_an_identity_that_nobody_can_have_is_refused_with_its_line(identity: str, tmp_path: Path):
    (tmp_path / "mesh.yaml").write_text(YAML.replace("desk", f"'{identity}'"))
    with pytest.raises(ConfigError, match=r"mesh\.yaml:5.*is no identity"):
        load(tmp_path / "mesh.yaml", {})


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        ({}, ()),
        ({"transport_security_type": [b"ssl"]}, ()),
        ({"x509_common_name": [b"desk"], "peer_dns": [b"desk.example.org", b"desk"]}, ("desk.example.org", "desk")),
        (
            {"peer_spiffe_id": [b"spiffe://a.b/x"], "peer_dns": [b"mesh"], "x509_common_name": [b"y"]},
            ("spiffe://a.b/x",),
        ),
        ({"x509_common_name": [b"", b" "]}, ()),
    ],
)
def test_a_spiffe_id_is_all_of_an_identity_and_else_the_names_count(
    shown: dict[str, list[bytes]], names: tuple[str, ...]
):
    assert from_certificate(shown).names == names
