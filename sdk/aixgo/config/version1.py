"""Files of aixgo v1 are refused, with the v2 text to write.

Owns what a v1 file looks like. Above: `load.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import yaml

if TYPE_CHECKING:
    from aixgo.config.document import Document
    from aixgo.config.problems import Problems


def refuse_version1(document: Document, problems: Problems) -> None:
    """Raise ConfigError when the file has a `supervisor:` section, or says `version: 1`."""
    if not isinstance(document.data, Mapping):
        return
    data = cast("Mapping[str, Any]", document.data)  # pyright: ignore[reportUnknownMemberType]  # Any until here
    if "supervisor" in data:
        line, found = document.line(("supervisor",)), "this file is of aixgo v1 (it has a `supervisor:` section)"
    elif data.get("version") in (1, "1") and not isinstance(data["version"], bool):
        line, found = document.line(("version",)), "this file is of aixgo v1"
    else:
        return
    problems.add(line, f"{found}; write it as v2:\n\n{_as_version2(data)}")
    problems.check()


def _as_version2(data: Mapping[str, Any]) -> str:
    """The same file in the format of v2, as text."""
    kept = {key: value for key, value in data.items() if key not in ("version", "supervisor")}
    new: dict[str, Any] = {"version": 2}
    supervisor: Any = data.get("supervisor")
    if isinstance(supervisor, Mapping):
        settings = dict(cast("Mapping[str, Any]", supervisor))
        name = settings.pop("name", "main")
        orchestration = {"name": name, "pattern": "supervisor", "agents": _names(data.get("agents"))}
        new["orchestration"] = orchestration | ({"config": settings} if settings else {})
    text = yaml.safe_dump({**new, **kept}, sort_keys=False, allow_unicode=True, width=100)
    if "orchestration" in new:
        text += "\n# not yet: pattern supervisor; today there are sequential, parallel and router"
    return text


def _names(agents: Any) -> list[str]:
    entries = cast("list[Any]", agents) if isinstance(agents, list) else []
    named = [cast("Mapping[str, Any]", entry) for entry in entries if isinstance(entry, Mapping)]
    return [str(entry["name"]) for entry in named if "name" in entry]
