"""Who the processes of a fleet on one machine are, which all have one certificate or one token.

Owns the rule by which such a fleet may register its agents where nobody has said who may. Above: `supervisor.py`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aixgo.errors import ConfigError
from aixgo.security.rules import ANY, DEFAULT_REGISTRATION, check_pattern
from aixgo.security.security import is_loopback
from aixgo.security.settings import TlsMode
from aixgo.security.tokens import KnownTokens, OwnToken

if TYPE_CHECKING:
    from aixgo.security.settings import SecuritySettings

VARIABLE = "AIXGO_ALLOW_REGISTER"
_SPIFFE = "spiffe://"
_FLIGHTS = 4
"""Turns of a handshake in memory; TLS 1.3 takes three."""


def registration(settings: SecuritySettings, names: Iterable[str], environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variable that lets this process's own identity register these agents, on top of what is usual.

    Nothing where `environment` says who may, or where nobody is asked. Raises ConfigError for a certificate that
    its own CA does not vouch for.
    """
    if environment.get(VARIABLE) or not settings.authenticates:
        return {}
    listed = ",".join(names)
    rules = [DEFAULT_REGISTRATION, *(f"{identity}={listed}" for identity in own_identities(settings))]
    return {VARIABLE: "; ".join(rules)}


def own_identities(settings: SecuritySettings) -> list[str]:
    """What others know this process by, as rules can name it: its certificate where that is asked for, else its token.

    Names of this machine, and those that stand for many, are left out. Raises ConfigError.
    """
    if settings.tls_mode is TlsMode.MTLS:
        found = _of_certificate(settings)
    elif settings.tokens_file is not None and settings.shows_token:
        _, shown = OwnToken(settings.token, settings.token_file).header()
        found = [KnownTokens(settings.tokens_file).identity(shown)]
    else:
        found = []
    return [name for name in dict.fromkeys(found) if _names_one(name)]


def _of_certificate(settings: SecuritySettings) -> list[str]:
    told = _shown_to_itself(settings)
    also = [(kind, name) for kind, name in told.get("subjectAltName", ()) if kind in ("URI", "DNS")]
    ids = [name for kind, name in also if kind == "URI" and name.startswith(_SPIFFE)]
    if ids:
        return ids[:1]
    common = [value for part in told.get("subject", ()) for key, value in part if key == "commonName"]
    return [*(name for kind, name in also if kind == "DNS"), *common]


def _shown_to_itself(settings: SecuritySettings) -> Mapping[str, Any]:
    """What the certificate says, read by a handshake of this process with itself: Python reads a certificate only once
    it has been verified.
    """
    inner, outer = ssl.MemoryBIO(), ssl.MemoryBIO()
    assert settings.certificate is not None
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.ca)
        client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.ca)
        client.check_hostname = False  # nobody is dialled
        server.verify_mode = ssl.CERT_REQUIRED
        for context in (server, client):
            context.load_cert_chain(settings.certificate, settings.key, password="")  # never asks a terminal
        asked = server.wrap_bio(inner, outer, server_side=True)
        asking = client.wrap_bio(outer, inner)
        for _ in range(_FLIGHTS):
            for side in (asking, asked):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        told = cast("Mapping[str, Any] | None", asked.getpeercert())
    except (OSError, ValueError) as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or type(error).__name__
        raise ConfigError(
            f"{settings.certificate}: the fleet cannot use it for its own processes: {reason}; it must be signed by"
            " AIXGO_TLS_CA_FILE, be good for servers and clients, and not have ended"
        ) from error
    return told or {}


def _names_one(name: str) -> bool:
    if ANY in name or is_loopback(name):
        return False
    try:
        check_pattern(name)
    except ValueError:
        return False
    return True
