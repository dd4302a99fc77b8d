"""What a process is told of its security, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError
from aixgo.security.security import Security, check_insecure, is_loopback
from aixgo.security.settings import SecuritySettings, TlsMode

OWN: dict[str, Any] = {"certificate": Path("cert.pem"), "key": Path("key.pem")}
CA: dict[str, Any] = {"ca": Path("ca.pem")}


@pytest.mark.parametrize(
    ("files", "mode"), [({}, TlsMode.OFF), (OWN, TlsMode.TLS), (CA, TlsMode.TLS), (OWN | CA, TlsMode.MTLS)]
)
def test_the_files_say_how_much_is_asked_of_callers(files: dict[str, Any], mode: TlsMode):
    assert SecuritySettings(**files).tls_mode is mode


def test_a_mode_that_is_said_wins():
    assert SecuritySettings(mode=TlsMode.TLS, **OWN, **CA).tls_mode is TlsMode.TLS
    assert not SecuritySettings(mode=TlsMode.OFF, **OWN, **CA).tls


@pytest.mark.parametrize(
    ("told", "fix"),
    [
        ({"certificate": Path("c")}, "AIXGO_TLS_KEY_FILE"),
        ({"key": Path("k")}, "AIXGO_TLS_CERT_FILE"),
        ({"mode": TlsMode.MTLS, **OWN}, "AIXGO_TLS_CA_FILE"),
        ({"token_file": Path("t")}, "plain text"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_fix(told: dict[str, Any], fix: str):
    with pytest.raises(ConfigError, match=fix):
        SecuritySettings(**told)


def test_the_environment_says_all_of_it():
    settings = Settings.read(
        {
            "AIXGO_TLS_MODE": "TLS",
            "AIXGO_TLS_CA_FILE": "ca.pem",
            "AIXGO_TLS_SERVER_NAME": "mesh",
            "AIXGO_TOKEN": "a-very-long-secret-token",
            "AIXGO_ALLOW_CALLERS": "desk=triage",
            "AIXGO_ALLOW_REGISTER": "desk=*",
            "AIXGO_HEALTH_PORT": "8081",
            "AIXGO_ALLOW_INSECURE": "1",
        }
    )
    told = settings.security()
    assert (told.tls_mode, told.ca, told.server_name) == (TlsMode.TLS, Path("ca.pem"), "mesh")
    assert (told.health_port, told.allow_insecure) == (8081, True)
    assert told.allow_register.allows(("desk",), "anything")
    assert told.allow_callers is not None
    assert not told.allow_callers.allows(("desk",), "vault")
    assert "a-very-long-secret-token" not in f"{settings!r} {told!r} {settings}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AIXGO_TLS_MODE", "yes"), ("AIXGO_HEALTH_PORT", "70000"), ("AIXGO_ALLOW_INSECURE", "perhaps")],
)
def test_a_variable_that_cannot_be_read_is_named(variable: str, value: str):
    with pytest.raises(ConfigError, match=variable):
        Settings.read({variable: value})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "[::1]"])
def test_loopback_needs_no_switch(host: str):
    assert is_loopback(host)
    check_insecure(f"{host}:1", allowed=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "example.org", "", "127.0.0.1.example.org"])
def test_everything_else_does(host: str):
    check_insecure(f"{host}:1", allowed=True)
    with pytest.raises(ConfigError, match="AIXGO_ALLOW_INSECURE=1"):
        check_insecure(f"{host}:1", allowed=False)


def test_allow_callers_where_nobody_can_be_known_is_refused_at_the_start():
    with pytest.raises(ConfigError, match=r"agents\.vault\.allow_callers"):
        Security().check_rules([("shout", None), ("vault", ())])
    Security().check_rules([("shout", None)])
