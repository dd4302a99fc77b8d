"""The one YAML file as frozen, typed objects.

Owns which keys there are and which type each value has. `load.py` (above) reads files into it and checks what goes
across sections; `build.py` makes agents of it; `json_schema.py` describes it to editors. It can as well be made from
Python: `Config(version=2, agents=(...))`.
"""

import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    SecretStr,
    Tag,
    model_validator,
)

from aixgo.config.document import Document, Location
from aixgo.config.duration import Duration
from aixgo.config.problems import at
from aixgo.config.spec import CONCURRENT_CALLS, HEDGING, QUEUED_CALLS, AgentSpec, Identity
from aixgo.errors import ConfigError
from aixgo.mailboxes.contract import (
    ACK_WAIT,
    BACKOFF,
    LASTING_MESSAGES,
    MAX_DEAD,
    MAX_DELIVERIES,
    MEMORY_MESSAGES,
    MailboxPolicy,
)
from aixgo.mailboxes.places import MEMORY as IN_MEMORY
from aixgo.mailboxes.places import check_mailbox
from aixgo.runtime.dns import SCHEME
from aixgo.server.limits import RateLimit
from aixgo.sessions.contract import MAX_SESSIONS, MAX_TURN_BYTES, MAX_TURNS, SessionLimits
from aixgo.sessions.stores import MEMORY, check_store
from aixgo.telemetry.settings import check_url

DEFAULT_NAME = "main"
"""The name of an orchestration that has none."""
TAGS = ("<name>", "<pattern>")
"""How the two kinds of members are told apart in the locations of pydantic's errors."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]*):(?P<port>[0-9]{1,5})")


def check_address(value: str) -> str:
    """`host:port` as it is; raises ValueError for anything else. An IPv6 host stands in brackets."""
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65535:
        raise ValueError("an address is written host:port, for example localhost:50050")
    return value


def check_target(value: str) -> str:
    """An address, or `dns:///host:port`, as it is; raises ValueError for anything else."""
    try:
        check_address(value.removeprefix(SCHEME))
    except ValueError as error:
        raise ValueError(f"{error}, or dns:///host:port for every address of a host name") from error
    return value


def _check_store(value: SecretStr) -> SecretStr:
    check_store(value.get_secret_value())
    return value


def _check_mailbox(value: SecretStr) -> SecretStr:
    check_mailbox(value.get_secret_value())
    return value


def _check_collector(value: str) -> str:
    try:
        return check_url(value)
    except ConfigError as error:
        raise ValueError(error.message) from error


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _as_words(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(check_address)]
Target = Annotated[str, AfterValidator(check_target)]
CollectorUrl = Annotated[str, AfterValidator(_check_collector)]
StoreAddress = Annotated[SecretStr, AfterValidator(_check_store)]
MailboxAddress = Annotated[SecretStr, AfterValidator(_check_mailbox)]
Count = Annotated[int, Field(strict=True, ge=1)]
Money = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Section):
    """What a model costs, in USD per 1,000 tokens."""

    prompt: Money
    completion: Money
    cached: Money | None = Field(default=None, description="Prompt tokens that are read from a cache; else as prompt.")
    cache_write: Money | None = Field(default=None, description="Prompt tokens written to one; else as prompt.")


class McpSpec(_Section):
    """An MCP server: a command to start, or the URL of one that runs."""

    command: Annotated[tuple[str, ...], BeforeValidator(_as_words)] = Field(
        default=(), description="Starts the server, which then speaks over stdin and stdout: a list of words, or text."
    )
    url: str | None = Field(default=None, repr=False, description="Where the server speaks streamable HTTP.")
    env: dict[str, SecretStr] = Field(
        default_factory=dict, description="Variables of a started server; of this process's own it gets very few."
    )
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="HTTP headers of each request to the url.")
    only: tuple[str, ...] = Field(default=(), description="The server's own names of the tools to use; all when empty.")
    prefix: str = Field(
        default="", pattern=r"^[A-Za-z0-9_-]{0,32}$", description="Stands before the names that models see."
    )
    timeout: Duration = Field(default=30.0, description="For reaching or starting the server, and listing its tools.")

    @model_validator(mode="after")
    def _one_way(self) -> "McpSpec":
        if bool(self.command) == bool(self.url):
            raise ValueError("an MCP server needs either `command` or `url`; give one of them")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        if (self.url and self.env) or (self.command and self.headers):
            raise ValueError("`env` goes with a `command`, and `headers` go with a `url`")
        return self


class ToolSpec(_Section):
    """A tool, or an MCP server and its tools."""

    name: str
    python: str | None = Field(default=None, description="An importable function: my_pkg.tools:search.")
    mcp: McpSpec | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ToolSpec":
        if (self.python is None) == (self.mcp is None):
            raise ValueError("a tool is either `python: my_pkg.tools:search` or `mcp: {...}`; give one of them")
        return self


class LimitsSpec(_Section):
    """What an orchestration may use up. Durations are seconds, or text like 30s or 5m."""

    max_agents: Count = Field(default=100, description="Members.")
    max_depth: Count = Field(default=10, description="Calls inside calls.")
    max_iterations: Count = Field(default=10, description="Rounds, for patterns that go round.")
    timeout: Duration = Field(default=300.0, description="For one call of the orchestration.")
    max_tokens: Count | None = Field(default=100_000, description="Prompt and completion tokens of all LLM calls.")
    max_cost_usd: Money | None = Field(default=None, description="USD of all LLM calls.")


class PatternSpec(_Section):
    """A pattern and its members. Written in place of a member it has no name, and lives in its parent's process."""

    pattern: str = Field(
        description="How its members work together: sequential, parallel, ..., or a class: my_pkg.patterns:Cascade."
    )
    agents: tuple["Member", ...] = Field(default=(), description="Names of agents and orchestrations, or patterns.")
    config: dict[str, Any] = Field(default_factory=dict, description="What the pattern itself can be told.")
    limits: LimitsSpec = LimitsSpec()


def _member_kind(value: Any) -> str:
    return TAGS[1] if isinstance(value, (Mapping, PatternSpec)) else TAGS[0]


Member = Annotated[
    Annotated[str, Tag(TAGS[0])] | Annotated[PatternSpec, Tag(TAGS[1])],
    Discriminator(_member_kind),
]


class OrchestrationSpec(PatternSpec):
    """An orchestration: a pattern that is called by its name, like an agent."""

    name: str = Field(default=DEFAULT_NAME, description="The name that callers use.")
    allow_callers: tuple[Identity, ...] | None = Field(
        default=None, description="Identities of other processes that may call it, * for any text; else all may."
    )
    max_concurrent_calls: Count | None = Field(default=None, description=CONCURRENT_CALLS)
    max_queue: Annotated[int, Field(strict=True, ge=0)] | None = Field(default=None, description=QUEUED_CALLS)
    hedge_after: Duration | None = Field(default=None, description=HEDGING)


class PlacementSpec(_Section):
    """How one agent is deployed. `aixgo up` gives the replicas `port`, `port` + 1, ...; 0 is any free one."""

    replicas: Count = 1
    port: int = Field(default=0, strict=True, ge=0, le=65535)
    image: str | None = None


class RateLimitSpec(_Section):
    """How often one caller may call a process that serves; who it is, its certificate or token says, else its host."""

    per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(description="Calls and messages a second.")
    burst: Count | None = Field(default=None, description="And so many at once; if not said, those of one second.")

    def limit(self) -> RateLimit:
        """The same as servers take it."""
        return RateLimit.of(self.per_second, self.burst)


class DeploymentSpec(_Section):
    """Where agents run."""

    mode: Literal["local", "distributed"] = Field(
        default="local", description="local: in one process; distributed: names of other processes can be called too."
    )
    control_plane: Annotated[tuple[Address, ...], BeforeValidator(_as_tuple)] = ()
    connect: dict[str, Target] = Field(
        default_factory=dict,
        description="Addresses by agent: host:port, or dns:///host:port for every address of a host name. The key * is"
        " for all other names; {name} in its host stands for the name.",
    )
    agents: dict[str, PlacementSpec] = Field(default_factory=dict)
    rate_limit: RateLimitSpec | None = Field(default=None, description="Of each caller, at each process.")


class SessionsSpec(_Section):
    """Where agents keep what they remember of sessions, and how much of it."""

    store: StoreAddress = Field(
        default=SecretStr(MEMORY),
        description="memory, sqlite:///path/to/file.db, or postgresql://user:password@host/database.",
    )
    ttl: Duration | None = Field(default=None, description="How long after its last turn a session is kept.")
    max_turns: Annotated[int, Field(strict=True, ge=2)] = Field(
        default=MAX_TURNS, description="Turns of one agent in one session that are kept, the newest."
    )
    max_turn_bytes: Count = Field(default=MAX_TURN_BYTES, description="Bytes of text that one turn may have.")
    max_sessions: Count = Field(default=MAX_SESSIONS, description="Sessions that the store `memory` keeps.")

    def limits(self) -> SessionLimits:
        """What the store has to keep to."""
        return SessionLimits(self.ttl, self.max_turns, self.max_turn_bytes, self.max_sessions)


def _as_pauses(value: Any) -> Any:
    return (value,) if isinstance(value, (str, int, float)) else value


class MailboxSpec(_Section):
    """Where messages wait for the agents that they are sent to, and how often they are delivered."""

    url: MailboxAddress = Field(
        default=SecretStr(IN_MEMORY),
        description="memory, sqlite:///path/to/file.db, or nats://user:password@host:4222 (several by commas).",
    )
    max_messages: Count | None = Field(
        default=None, description="Messages that one mailbox holds: 100 in memory and 10,000 elsewhere, if not said."
    )
    max_bytes: Count | None = Field(default=None, description="Bytes that one mailbox in NATS holds.")
    max_deliveries: Count = Field(default=MAX_DELIVERIES, description="Deliveries before a message is a dead letter.")
    backoff: Annotated[tuple[Duration, ...], BeforeValidator(_as_pauses), Field(min_length=1, max_length=100)] = Field(
        default=BACKOFF, description="Pauses between the deliveries of a message that fails; the last one repeats."
    )
    ack_wait: Duration = Field(default=ACK_WAIT, description="After which a dead receiver's message comes again.")
    max_dead: Count = Field(default=MAX_DEAD, description="Dead letters that are kept, of all agents.")
    replicas: Annotated[int, Field(strict=True, ge=1, le=5)] = Field(
        default=1, description="Servers of a NATS cluster that keep each message."
    )

    def policy(self, *, lasting: bool) -> MailboxPolicy:
        """What the mailboxes have to keep to; `lasting`: they are not in memory."""
        most = self.max_messages or (LASTING_MESSAGES if lasting else MEMORY_MESSAGES)
        return MailboxPolicy(most, self.max_bytes, self.max_deliveries, self.backoff, self.ack_wait, self.max_dead)


class ObservabilitySpec(_Section):
    """What a process tells of itself, and where to. The OTEL_* variables win over it."""

    otlp: CollectorUrl | None = Field(
        default=None, repr=False, description="URL of a collector: http://host:4317 is gRPC, http://host:4318 HTTP."
    )
    protocol: Literal["grpc", "http/protobuf"] | None = Field(
        default=None, description="How it is spoken to, where neither the port nor a path says it."
    )
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="Sent to the collector: a vendor's key.")
    sample: float = Field(default=1.0, ge=0, le=1, description="The share of traces that are kept.")
    console: bool = Field(default=False, description="Spans to stderr, for a look at them.")
    prometheus: Address | None = Field(
        default=None, description="host:port of the page that Prometheus reads; port 0 is any free one."
    )
    capture_content: bool = Field(default=False, description="Whether spans say what messages say.")
    redact: str | None = Field(
        default=None,
        description="An importable function that each text goes through: my_pkg.privacy:redact.",
    )
    langfuse: bool = Field(default=False, description="Whether traces go to Langfuse too; its keys are LANGFUSE_*.")

    @model_validator(mode="after")
    def _redacts_something(self) -> "ObservabilitySpec":
        if self.redact and not (self.capture_content or self.langfuse):
            raise ValueError("`redact` is for what is captured; add `capture_content: true`, or remove it")
        return self


class Config(_Section):
    """A whole file."""

    version: Literal[2] = Field(description="The version of this format.")
    pricing: dict[str, Price] = Field(default_factory=dict, description="By model; USD per 1,000 tokens.")
    tools: tuple[ToolSpec, ...] = ()
    agents: tuple[AgentSpec, ...] = ()
    orchestration: OrchestrationSpec | None = None
    orchestrations: tuple[OrchestrationSpec, ...] = ()
    sessions: SessionsSpec = SessionsSpec()
    mailbox: MailboxSpec = MailboxSpec()
    deployment: DeploymentSpec = DeploymentSpec()
    observability: ObservabilitySpec = ObservabilitySpec()

    _source: Document | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, value: Any) -> Any:
        if not isinstance(value, (Mapping, Config)):
            raise ValueError("the file must hold keys and values; begin with `version: 2`")  # noqa: TRY004  # pydantic collects ValueErrors
        return cast("Any", value)

    @property
    def patterns(self) -> tuple[OrchestrationSpec, ...]:
        """All orchestrations, from either key."""
        return (*(() if self.orchestration is None else (self.orchestration,)), *self.orchestrations)

    @property
    def hedged(self) -> dict[str, float]:
        """Seconds after which calls are hedged, by the name of the agent or orchestration that is called."""
        every = (*self.agents, *self.patterns)
        return {each.name: each.hedge_after for each in every if each.hedge_after is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of this file that can be called: agents first, then orchestrations."""
        return (*(agent.name for agent in self.agents), *(pattern.name for pattern in self.patterns))

    def location(self, name: str) -> Location:
        """Where the agent or orchestration of that name stands; () when there is none."""
        for index, agent in enumerate(self.agents):
            if agent.name == name:
                return ("agents", index)
        if self.orchestration is not None and self.orchestration.name == name:
            return ("orchestration",)
        return next((("orchestrations", i) for i, each in enumerate(self.orchestrations) if each.name == name), ())

    def where(self, *location: str | int) -> str:
        """`file:line` of a value, or its path when the configuration comes from no file."""
        if self._source is None:
            return dotted(location)
        return at(self._source.path, self._source.line(location))

    @property
    def folder(self) -> Path | None:
        """The folder of its file; None when the configuration comes from no file."""
        return None if self._source is None else Path(self._source.path).parent

    def read_from(self, source: Document) -> "Config":
        """The same, knowing the file that it was read from."""
        known = self.model_copy()
        known._source = source  # noqa: SLF001  # its own
        return known


def dotted(location: Location) -> str:
    """A location as people write it: `agents[0].config.categories`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
