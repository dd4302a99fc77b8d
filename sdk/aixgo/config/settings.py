"""The AIXGO_* settings, and the only place of the configuration that reads the environment.

A `.env` file beside the YAML (or in the working directory) counts where the environment is silent. Above: `load.py`,
`launch.py` and the command line.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from aixgo.config.schema import MailboxAddress, RateLimitSpec, StoreAddress, check_address
from aixgo.errors import ConfigError
from aixgo.security.rules import DEFAULT_REGISTRATION, Rules
from aixgo.security.settings import SecuritySettings, TlsMode
from aixgo.server.limits import RateLimit

PREFIX = "AIXGO_"
DEFAULT_CONTROL_PLANE = "localhost:50050"
"""Where a control plane is looked for when nobody says otherwise."""


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_rate(value: str) -> str:
    try:
        RateLimit.parse(value)
    except ConfigError as error:
        raise ValueError(error.message) from error
    return value


Address = Annotated[str, AfterValidator(check_address)]


class Settings(BaseSettings):
    """What the environment says. `Settings.read()` reads it; made from Python, only what is passed counts."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    deployment_mode: Annotated[Literal["local", "distributed"] | None, BeforeValidator(_lower)] = Field(
        default=None, description="Overrides deployment.mode."
    )
    control_plane: Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_split)] = Field(
        default=(), description="host:port of each control plane, by commas; overrides deployment.control_plane."
    )
    transport: Annotated[Literal["plain", "session", "auto"], BeforeValidator(_lower)] = Field(
        default="auto",
        description="How calls travel: auto shares one stream with each instance that is known to offer that; plain is"
        " one RPC for each call; session tries a stream with every instance.",
    )
    listen: Address = Field(default="127.0.0.1:0", description="host:port that servers bind; port 0 is any free one.")
    advertise_address: Address | None = Field(default=None, description="host:port that others reach a server at.")
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "INFO"
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = "text"
    session_store: StoreAddress | None = Field(
        default=None, description="Where sessions are kept; overrides sessions.store. It may hold a password."
    )
    mailbox: MailboxAddress | None = Field(
        default=None, description="Where messages wait; overrides mailbox.url. It may hold a password."
    )
    metrics_address: Address | None = Field(
        default=None, description="host:port of the metrics page; overrides observability.prometheus."
    )
    tls_mode: Annotated[TlsMode | None, BeforeValidator(_lower)] = Field(
        default=None, description="off, tls or mtls: what servers ask of callers; else as the files allow."
    )
    tls_cert_file: Path | None = Field(default=None, description="PEM: this process's certificate and its chain.")
    tls_key_file: Path | None = Field(default=None, description="PEM: its key.")
    tls_ca_file: Path | None = Field(default=None, description="PEM: the CAs that sign the certificates of others.")
    tls_server_name: str = Field(
        default="", description="The name that certificates of servers must have, in place of the host that is dialled."
    )
    token: SecretStr | None = Field(default=None, description="Shown to those who are called.")
    token_file: Path | None = Field(default=None, description="Where it stands; read again when it changes.")
    tokens_file: Path | None = Field(default=None, description="Lines of IDENTITY: TOKEN, for callers by token.")
    allow_insecure: bool = Field(default=False, description="Whether to listen without TLS beyond this machine.")
    allow_register: str = Field(
        default=DEFAULT_REGISTRATION, description="For a control plane: who may register which names."
    )
    allow_callers: str = Field(default="", description="For a server or gateway: who may call which agents.")
    rate_limit: Annotated[str, AfterValidator(_check_rate)] | None = Field(
        default=None, description="PER_SECOND:BURST of each caller of a server; overrides deployment.rate_limit."
    )
    health_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="Port of health checks without TLS, for probes."
    )
    local_model_url: str = Field(default="", description="Base URL of a process that serves the embedded model.")
    model_dir: Path | None = Field(default=None, description="Where weights lie.")

    def rate(self, spec: RateLimitSpec | None = None) -> RateLimit | None:
        """The rate limit that they, or else the file, ask for; None for none."""
        if self.rate_limit:
            return RateLimit.parse(self.rate_limit)
        return None if spec is None else spec.limit()

    def security(self) -> SecuritySettings:
        """What they say of TLS, tokens and access. Raises ConfigError for what does not go together."""
        return SecuritySettings(
            mode=self.tls_mode,
            certificate=self.tls_cert_file,
            key=self.tls_key_file,
            ca=self.tls_ca_file,
            server_name=self.tls_server_name,
            token=self.token,
            token_file=self.token_file,
            tokens_file=self.tokens_file,
            allow_insecure=self.allow_insecure,
            health_port=self.health_port,
            allow_register=Rules.parse(self.allow_register),
            allow_callers=Rules.parse(self.allow_callers) if self.allow_callers else None,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `read` passes the environment, so that making settings in a test reads nothing."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Self:
        """The settings that these variables give (default: `read_environment()`). Raises ConfigError."""
        given = read_environment() if variables is None else variables
        named: dict[str, Any] = {
            name: value for name in cls.model_fields if (value := given.get(PREFIX + name.upper()))
        }
        try:
            return cls(**named)
        except ValidationError as error:
            raise ConfigError("; ".join(_fault(dict(one)) for one in error.errors())) from error


def read_environment(directory: Path | None = None) -> dict[str, str]:
    """The environment over the `.env` of `directory` (default: the working directory). Raises ConfigError."""
    path = (directory or Path()) / ".env"
    try:
        beside = dotenv_values(path) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; save it as UTF-8 text") from error
    return {**{name: value for name, value in beside.items() if value is not None}, **os.environ}


def _fault(one: Mapping[str, Any]) -> str:
    name = PREFIX + str(one["loc"][0]).upper()
    return f"{name}: {str(one['msg']).removeprefix('Value error, ').replace('Input should be', 'must be')}"
