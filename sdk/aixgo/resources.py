"""What the agents of one process share: its models, and whatever else they are given.

An agent gets what its constructor names as a parameter (`models`, ...). Made by `aixgo.launch`, which also closes it;
below lie the packages that each of its parts comes from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aixgo.llm.models import Models
from aixgo.llm.pricing import Prices
from aixgo.sessions.contract import SessionStore
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.tools.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class Resources:
    """The parts, each under the name by which constructors ask for it. One for a process; `close` it at the end."""

    models: Models
    sessions: SessionStore = field(default_factory=InMemorySessions)
    tools: Toolbox = field(default_factory=Toolbox)
    prices: Prices = field(default_factory=Prices)
    folder: Path | None = None
    """Where relative paths of the configuration begin; None is the working directory."""

    def wanted_by(self, make: Callable[..., Any]) -> Mapping[str, Any]:
        """The parts that `make`, a class or function, names as parameters."""
        try:
            names = inspect.signature(make).parameters
        except (TypeError, ValueError):
            return {}
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name in names}

    async def close(self) -> None:
        """Close all parts."""
        async with AsyncExitStack() as parts:
            for part in (self.tools, self.models, self.sessions):
                parts.push_async_callback(part.close)
