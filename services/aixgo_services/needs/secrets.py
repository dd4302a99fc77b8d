"""Which secrets a configuration takes: the environment variables of vendors' keys and of Langfuse's.

Their values are not looked at here. Below: `models.py`. Above: the doctor, which looks whether they are set, and
`aixgo render`, which tells where to put them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aixgo.llm.vendors import key_variables

from aixgo_services.needs.models import vendors_of

if TYPE_CHECKING:
    from aixgo.config.schema import Config

LANGFUSE_KEYS = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
"""Both are wanted; with one of them, nothing is sent to Langfuse."""


@dataclass(frozen=True, slots=True)
class Secret:
    """An environment variable, and who needs it, for a person. `files`: NAME_FILE may name a file that has it."""

    name: str
    by: str
    files: bool = False


def needed_secrets(config: Config) -> Iterator[Secret]:
    """The secrets of a configuration, those of vendors first."""
    for vendor, model in vendors_of(config).items():
        for name in key_variables(vendor)[:1]:
            yield Secret(name, f"the file uses {model}", files=True)
    if config.observability.langfuse:
        yield from (Secret(name, "observability.langfuse is on") for name in LANGFUSE_KEYS)
