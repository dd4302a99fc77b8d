"""Which models and which import paths a configuration names, in whatever key they stand.

Below: the schema. Above: `extras.py`, `secrets.py`, `beside.py`, the doctor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from aixgo.agents.retriever import DEFAULT_EMBEDDINGS
from aixgo.llm.models import VENDORS

if TYPE_CHECKING:
    from aixgo.config.schema import Config
    from aixgo.config.spec import AgentSpec

SCRIPT = "test/script:"
"""What the name of a model begins with whose answers stand in a file."""
_EMBEDDING: Mapping[str, tuple[str, str]] = {
    "classifier": ("method", "embeddings"),
    "aggregator": ("strategy", "clustering"),
}
"""The roles that use embeddings when a key of their `config:` has this value; the retriever always does."""
_IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_][\w.]*")


def embeddings_of(agent: AgentSpec) -> str:
    """The model of an agent's embeddings; "" for one that uses none."""
    key, value = _EMBEDDING.get(agent.role, ("", ""))
    if agent.role == "retriever" or (key and agent.config.get(key) == value):
        return str(agent.config.get("embeddings", DEFAULT_EMBEDDINGS))
    return ""


def vendors_of(config: Config) -> dict[str, str]:
    """The vendors of models that a configuration names, each with one of its models. What embeds texts here has no key
    and weights of its own, and does not count.
    """
    found: dict[str, str] = {}
    for agent in config.agents:
        embeddings = embeddings_of(agent)
        for model in (*agent.model, *(() if embeddings.startswith("local/") else (embeddings,))):
            vendor, slash, _ = model.partition("/")
            if slash and vendor in VENDORS:
                found.setdefault(vendor, model)
    return found


def scripts(config: Config) -> Iterator[tuple[str, str]]:
    """The files that scripted models answer from, each with who names it, for a person."""
    for agent in config.agents:
        for text in (*agent.model, *_texts(agent.config)):
            if text.startswith(SCRIPT):
                yield text.removeprefix(SCRIPT), f"agent {agent.name}"


def named_modules(config: Config) -> tuple[str, ...]:
    """The top-level modules that import paths begin with, sorted: `desk` for the role `desk:Ticket`, and likewise for
    tools, and for whatever stands in `config:` of agents and patterns. Some of them may be no modules: `12:30` is none,
    `note:this` looks like one.
    """
    named = [*(agent.role for agent in config.agents), *(tool.python for tool in config.tools if tool.python)]
    named += [text for agent in config.agents for text in _texts(agent.config)]
    named += [text for pattern in config.patterns for text in _texts(pattern.model_dump())]
    found = (_IMPORT_PATH.fullmatch(text) for text in named)
    return tuple(sorted({match["module"] for match in found if match}))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in cast("Mapping[Any, Any]", value).values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in cast("list[Any]", value):
            yield from _texts(each)
