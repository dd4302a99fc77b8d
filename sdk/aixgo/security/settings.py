"""What a process is told of its security, checked as a whole.

Pure: it reads no file and no environment. `aixgo.config.settings` makes it of the AIXGO_* variables, Python code makes
it by hand; `security.py` (above) does what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.security.rules import DEFAULT_REGISTRATION, Rules


class TlsMode(StrEnum):
    """What a process asks of those who connect to it: nothing, TLS, or TLS with a certificate of their own."""

    OFF = "off"
    TLS = "tls"
    MTLS = "mtls"


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """The security of one process. Raises ConfigError for what does not go together.

    `certificate`, `key` and `ca` are PEM files: the process's own chain and key, and those who sign its peers'. `mode`
    None is the most that the files allow. `server_name` is what certificates of servers are checked for, in place of
    the host that is dialled. `token` or `token_file` is what it shows to others, `tokens_file` whom it knows by one.
    `allow_insecure` lets it listen without TLS beyond this machine, and show its token there. `allow_register` and
    `allow_callers` are rules (see `rules.py`), the latter on top of those of the agents.
    """

    mode: TlsMode | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    server_name: str = ""
    token: SecretStr | None = None
    token_file: Path | None = None
    tokens_file: Path | None = None
    allow_insecure: bool = False
    health_port: int | None = None
    allow_register: Rules = field(default_factory=lambda: Rules.parse(DEFAULT_REGISTRATION))
    allow_callers: Rules | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("AIXGO_TLS_CERT_FILE and AIXGO_TLS_KEY_FILE belong together; set both, or neither")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("AIXGO_TOKEN and AIXGO_TOKEN_FILE are both set; keep one of them")
        if self.mode is TlsMode.MTLS and None in (self.certificate, self.ca):
            raise ConfigError("AIXGO_TLS_MODE=mtls needs AIXGO_TLS_CERT_FILE, AIXGO_TLS_KEY_FILE and AIXGO_TLS_CA_FILE")
        if self.shows_token and not self.tls and not self.allow_insecure:
            raise ConfigError(
                "a token would travel in plain text; set AIXGO_TLS_CA_FILE (or AIXGO_TLS_MODE=tls for the system's"
                " CAs), or AIXGO_ALLOW_INSECURE=1 if nobody can listen in"
            )

    @property
    def tls_mode(self) -> TlsMode:
        """The mode, worked out from the files where none is said."""
        if self.mode is not None:
            return self.mode
        if self.certificate is not None and self.ca is not None:
            return TlsMode.MTLS
        return TlsMode.OFF if self.certificate is None and self.ca is None else TlsMode.TLS

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls_mode is not TlsMode.OFF

    @property
    def shows_token(self) -> bool:
        """Whether calls of this process carry a token."""
        return self.token is not None or self.token_file is not None

    @property
    def authenticates(self) -> bool:
        """Whether those who call this process must say who they are."""
        return self.tls_mode is TlsMode.MTLS or self.tokens_file is not None

    def files(self) -> Mapping[str, Path]:
        """The files that it names, by variable."""
        named = {
            "AIXGO_TLS_CERT_FILE": self.certificate,
            "AIXGO_TLS_KEY_FILE": self.key,
            "AIXGO_TLS_CA_FILE": self.ca,
            "AIXGO_TOKEN_FILE": self.token_file,
            "AIXGO_TOKENS_FILE": self.tokens_file,
        }
        return {variable: path for variable, path in named.items() if path is not None}
