"""Which extras a configuration takes: the optional parts of the package, and of the image.

Below: `models.py`. Above: the doctor, which looks for them here, and `aixgo render`, which names the image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from aixgo_services.needs.keeping import MailboxKind, Sessions
from aixgo_services.needs.models import embeddings_of

if TYPE_CHECKING:
    from aixgo.config.schema import Config
    from aixgo.config.spec import AgentSpec

_OF_VENDORS: Mapping[str, str] = {
    "openai": "openai",
    "xai": "openai",
    "deepseek": "openai",
    "ollama": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
}
"""The extra by the vendor of a model; the embedded one is another's business, and scripted ones need none."""
_UNPRICED = ("langgraph",)
"""Extras whose agents ask vendors' models, without the list of what those cost."""
_OF_PACKAGES: Mapping[str, str] = {
    "aixgo.adapters.pydantic_ai": "pydantic-ai",
    "pydantic_ai": "pydantic-ai",
    "aixgo.adapters.langgraph": "langgraph",
    "langgraph": "langgraph",
    "langchain_core": "langgraph",
    "opentelemetry.sdk": "otel",
}
"""The extra by what a module imports, itself or something below it."""


def needed_extras(
    config: Config,
    sessions: Sessions,
    imported: Collection[str] = (),
    *,
    mailboxes: MailboxKind = MailboxKind.MEMORY,
    served: bool = False,
) -> dict[str, str]:
    """The extras by name, each with who needs it, for a person.

    `sessions` and `mailboxes` are the kinds in use, `imported` is what the modules beside the file import. `served`:
    the embedded model is another process's, so that its engine is needed nowhere else.
    """
    needed: dict[str, str] = {}
    for agent in config.agents:
        for extra, by in _of_agent(agent, served=served):
            needed.setdefault(extra, f"agent {agent.name} {by}")
    for extra, by in (*_of_observability(config), *_of_places(sessions, mailboxes)):
        needed.setdefault(extra, by)
    for name in sorted(imported):
        for package, extra in _OF_PACKAGES.items():
            if name == package or name.startswith(f"{package}."):
                needed.setdefault(extra, f"a module beside the file imports {name}")
    for extra in _UNPRICED:
        if extra in needed:
            needed.setdefault("prices", f"{needed[extra]}: what its models cost")
    return needed


def _of_places(sessions: Sessions, mailboxes: MailboxKind) -> Iterator[tuple[str, str]]:
    if sessions is Sessions.POSTGRES:
        yield "postgres", "sessions are kept in PostgreSQL"
    if mailboxes is MailboxKind.NATS:
        yield "nats", "mailboxes are in NATS"


def _of_observability(config: Config) -> Iterator[tuple[str, str]]:
    spec = config.observability
    asked = {"otlp": spec.otlp, "console": spec.console, "prometheus": spec.prometheus}
    for key, value in asked.items():
        if value:
            yield "otel", f"observability.{key} is set"
    if spec.langfuse:
        yield "langfuse", "observability.langfuse is on"


def _of_agent(agent: AgentSpec, *, served: bool) -> Iterator[tuple[str, str]]:
    for model in agent.model:
        extra = _of_model(model, served=served)
        if extra:
            yield extra, f"uses {model}"
    embeddings = embeddings_of(agent)
    if embeddings:
        extra = "rag" if embeddings.startswith("local/") else _of_model(embeddings, served=served)
        if extra:
            yield extra, f"uses the embeddings {embeddings}"
    if agent.role == "retriever":
        yield "rag", "is a retriever"
    if agent.mcp_servers:
        yield "mcp", f"uses MCP servers ({', '.join(agent.mcp_servers)})"
    if agent.role == "producer" and agent.config.get("cron"):
        yield "cron", "sends by a cron expression"
    module, _, _ = agent.role.partition(":")
    if module in _OF_PACKAGES:
        yield _OF_PACKAGES[module], f"has the role {agent.role}"


def _of_model(model: str, *, served: bool) -> str:
    """The extra of a model; "" for one that needs none, or is of no vendor that there is."""
    vendor, slash, _ = model.partition("/")
    if vendor == "local" and slash:
        return "openai" if served else "local"
    return _OF_VENDORS.get(vendor, "") if slash else ""
