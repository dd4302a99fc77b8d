"""The security of one process: how it dials, how it listens, who may call and register.

The door of this package: runtimes, servers and control planes hold one Security and ask it. Below: certificates,
tokens, identities and rules. `aixgo.launch.make_security` makes it of the environment.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any

import grpc
import grpc.aio

from aixgo.errors import ConfigError, PermissionDenied, Unauthenticated
from aixgo.security.certificates import Certificates
from aixgo.security.channel import SecureChannel
from aixgo.security.identity import ANONYMOUS, Caller, authorization_of, from_certificate
from aixgo.security.rules import fits
from aixgo.security.settings import SecuritySettings, TlsMode
from aixgo.security.tokens import KnownTokens, OwnToken

Options = Sequence[tuple[str, int]]
MAX_REFUSALS = 1_000
"""Refusals that are remembered, so that each is one line of the log."""
MAX_NAME = 128
"""Characters of a name that a refusal quotes: as many as names of agents have."""

_log = logging.getLogger(__name__)


class Security:
    """What `settings` say, in force. Files are read when it is made; raises ConfigError when they cannot be used.

    Without settings nothing is encrypted, nobody is asked, and nothing listens beyond this machine. `clock` gives
    seconds.
    """

    def __init__(self, settings: SecuritySettings | None = None, *, clock: Callable[[], float] = monotonic) -> None:
        self.settings = settings or SecuritySettings()
        told = self.settings
        self.authenticates = told.authenticates
        """Whether callers must say who they are."""
        self._open = not told.authenticates and told.allow_callers is None
        self._certificates = Certificates(told, clock=clock) if told.tls else None
        self._known = None if told.tokens_file is None else KnownTokens(told.tokens_file, clock=clock)
        self._refused: set[str] = set()
        self._own = OwnToken(told.token, told.token_file, clock=clock) if told.shows_token else None

    @property
    def asks_for_certificates(self) -> bool:
        """Whether nobody gets a connection without a certificate that the CAs have signed."""
        return self.settings.tls_mode is TlsMode.MTLS

    @property
    def rotates(self) -> bool:
        """Whether this process shows others anything that can change."""
        return self._certificates is not None or self._own is not None

    @property
    def generation(self) -> int:
        """How often what this process shows to others has changed, as of now: its certificate, its CAs, its token."""
        of_files = 0 if self._certificates is None else self._certificates.generation
        return of_files + (0 if self._own is None else self._own.generation)

    def dial(self, address: str, options: Options) -> grpc.aio.Channel:
        """A channel to an address. With TLS the certificate there must be for its host, or for `server_name`."""
        if self._certificates is None and self._own is None:
            return grpc.aio.insecure_channel(address, options=options)
        header = None if self._own is None else self._own.header
        certificates = self._certificates
        if certificates is None:
            return SecureChannel(lambda: grpc.aio.insecure_channel(address, options=options), header=header)
        name = self.settings.server_name
        named = [*options, *([("grpc.ssl_target_name_override", name)] if name else [])]

        def secure() -> grpc.aio.Channel:
            return grpc.aio.secure_channel(address, certificates.channel_credentials(), options=named)

        return SecureChannel(secure, lambda: certificates.generation, header)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Let a server listen at host:port, and return the port. Raises ConfigError, and RuntimeError as gRPC does."""
        if self._certificates is not None:
            return server.add_secure_port(address, self._certificates.server_credentials())
        check_insecure(address, self.settings.allow_insecure, _ENCRYPT)
        return server.add_insecure_port(address)

    def caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
        """Who has begun an RPC. Raises Unauthenticated when it does not say, or shows a token that nobody has."""
        if not self.authenticates:
            return ANONYMOUS
        if self.asks_for_certificates:
            untyped: Any = context
            shown = from_certificate(untyped.auth_context())
            if shown.known:
                return shown
        authorization = authorization_of(context) if self._known is not None else ""
        if self._known is None or not authorization:
            raise Unauthenticated(self._how_to())
        return Caller((self._known.identity(authorization),))

    def check_call(self, caller: Caller, agent: str, allowed: Sequence[str] | None) -> None:
        """Raise PermissionDenied, or Unauthenticated, when a caller may not call an agent.

        `allowed` are the patterns of the agent's own `allow_callers`; None lets everybody call whom this process lets.
        """
        if allowed is None and self._open:
            return
        if not caller.known:
            raise Unauthenticated(self._how_to())
        rules = self.settings.allow_callers
        if rules is not None and not rules.allows(caller.names, agent):
            raise self._denied(f"{caller} may not call agent {_cut(agent)!r} here; AIXGO_ALLOW_CALLERS says who may")
        if allowed is not None and not any(fits(pattern, name) for pattern in allowed for name in caller.names):
            raise self._denied(f"{caller} may not call agent {_cut(agent)!r}; its allow_callers says who may")

    def check_register(self, caller: Caller, names: Iterable[str]) -> None:
        """Raise PermissionDenied when a caller may not be listed, or end what is listed, under one of these names."""
        if not self.authenticates:
            return
        for name in names:
            if not self.settings.allow_register.allows(caller.names, name):
                raise self._denied(f"{caller} may not register agent {_cut(name)!r}; AIXGO_ALLOW_REGISTER says who may")

    def check_rules(self, agents: Iterable[tuple[str, Sequence[str] | None]]) -> None:
        """Raise ConfigError when agents (name, allow_callers) ask for callers that nobody can be known to be."""
        if self.authenticates:
            return
        if self.settings.allow_callers is not None:
            raise ConfigError(f"AIXGO_ALLOW_CALLERS needs callers that say who they are; {_KNOWN_BY}")
        for name, allowed in agents:
            if allowed is not None:
                raise ConfigError(
                    f"agents.{name}.allow_callers needs callers that say who they are; {_KNOWN_BY}, or remove it"
                )

    def _denied(self, message: str) -> PermissionDenied:
        """The refusal, which the log has once: a caller that goes on trying must not fill it."""
        if message not in self._refused:
            if len(self._refused) >= MAX_REFUSALS:
                self._refused.clear()
            self._refused.add(message)
            _log.warning("refused: %s", message)
        return PermissionDenied(message)

    def _how_to(self) -> str:
        ways = ["a client certificate"] if self.asks_for_certificates else []
        ways += ["`authorization: Bearer TOKEN`"] if self._known is not None else []
        return f"who calls is not known; call with {' or '.join(ways) or 'an identity'}"


_KNOWN_BY = "set AIXGO_TLS_CERT_FILE, AIXGO_TLS_KEY_FILE and AIXGO_TLS_CA_FILE (mTLS), or AIXGO_TOKENS_FILE"


_ENCRYPT = "set AIXGO_TLS_CERT_FILE and AIXGO_TLS_KEY_FILE (`aixgo certs dev` makes some), "


def check_insecure(address: str, allowed: bool, otherwise: str = "") -> None:
    """Raise ConfigError when `address` (host:port) is beyond this machine and that is not `allowed` without TLS.

    `otherwise` is a fix that the message names first, with a comma after it.
    """
    if not allowed and not is_loopback(address.rpartition(":")[0]):
        raise ConfigError(
            f"listening on {address} without TLS would let whoever reaches it use it; {otherwise}listen on 127.0.0.1,"
            " or say that the network is safe: AIXGO_ALLOW_INSECURE=1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, as addresses write it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
