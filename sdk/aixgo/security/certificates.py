"""Certificates and keys of a process as gRPC's credentials, for its server and for its channels.

Owns reading and checking the PEM files. Rotation needs no restart: a server asks here at each handshake, and
`channel.py` (above) opens channels anew.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc

from aixgo.errors import ConfigError
from aixgo.security.files import Watched, read_file
from aixgo.security.settings import SecuritySettings, TlsMode


@dataclass(frozen=True, slots=True, repr=False)
class Pems:
    """What the files hold, as they are; None where there is no such file."""

    certificate: bytes | None
    key: bytes | None
    ca: bytes | None


class Certificates:
    """The files that `settings` name, read again when they change. Raises ConfigError when they cannot be used."""

    def __init__(self, settings: SecuritySettings, *, clock: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        files = (settings.certificate, settings.key, settings.ca)
        paths = [path for path in files if path is not None]
        self._watched = Watched(paths, self._read, clock=clock)

    @property
    def generation(self) -> int:
        """How often they have changed, as of now."""
        self._watched.current()
        return self._watched.generation

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What a channel opened now shows and trusts; without a CA file, the CAs that gRPC brings along."""
        pems = self._watched.current()
        return grpc.ssl_channel_credentials(pems.ca, pems.key, pems.certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        """What a server shows and asks for; each handshake gets what is newest. Raises ConfigError."""
        if self._settings.certificate is None:
            raise ConfigError("a server with TLS needs AIXGO_TLS_CERT_FILE and AIXGO_TLS_KEY_FILE; set them")
        known = [self._watched.current()]

        def newest() -> grpc.ServerCertificateConfiguration | None:
            pems = self._watched.current()
            if pems is known[0]:
                return None
            known[0] = pems
            return _server_configuration(pems)

        wants_certificate = self._settings.tls_mode is TlsMode.MTLS
        untyped: Any = newest  # the type stubs do not know that None stands for no change
        return grpc.dynamic_ssl_server_credentials(_server_configuration(known[0]), untyped, wants_certificate)

    def _read(self) -> Pems:
        settings = self._settings
        read = [None if path is None else read_file(path) for path in (settings.certificate, settings.key, settings.ca)]
        self._check()
        return Pems(*read)

    def _check(self) -> None:
        """Raise ConfigError unless the key fits the certificate, and the CAs are certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        settings = self._settings
        try:
            if settings.certificate is not None:
                context.load_cert_chain(settings.certificate, settings.key, password="")  # never asks a terminal
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{settings.certificate}: cannot be used with the key {settings.key}: {_reason(error)}; both must be"
                " PEM, belong together, and the key must have no password"
            ) from error
        try:
            if settings.ca is not None:
                context.load_verify_locations(settings.ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{settings.ca}: holds no CA certificates: {_reason(error)}; it must be PEM") from error


def _server_configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key or b"", pems.certificate or b"")], pems.ca)


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "strerror", "") or type(error).__name__)
