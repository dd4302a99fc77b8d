"""A new project in a folder, from the templates beside this file.

Owns which files a project begins with, and that nothing of the user's is overwritten unasked. Above: `aixgo init`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from aixgo.errors import ConfigError

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "README.md": "README.md.tmpl",
        "aixgo.yaml": "aixgo.yaml.tmpl",
        "triage.py": "triage.py.tmpl",
        "test_triage.py": "test_triage.py.tmpl",
        "requirements.txt": "requirements.txt.tmpl",
        "Dockerfile": "Dockerfile.tmpl",
        "docker-compose.yml": "docker-compose.yml.tmpl",
        ".dockerignore": "dockerignore.tmpl",
        ".env.example": "env.example.tmpl",
        ".gitignore": "gitignore.tmpl",
    }
)
"""The files of a project, and the template of each. A template has no leading dot: packagers leave such files out."""
PLACE_HOLDER = "{{project}}"
"""Stands in the templates for the project's name."""

_DEFAULT_NAME = "my-agents"
_SHOWN = 5


def create(folder: Path, *, force: bool = False) -> list[Path]:
    """Write a project into `folder`, which is made if need be; the paths of its files.

    A folder that holds anything (a `.git` aside) is refused unless `force`, which writes over files of the same names
    and leaves the rest. Raises ConfigError for that, for a path that is no folder, and where writing fails.
    """
    name = project_name(folder)
    try:
        if not force:
            _check_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / target for target in TEMPLATES]
        for path in written:
            path.write_text(render(path.name, name), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}; choose another folder") from error
    return written


def render(target: str, project: str) -> str:
    """The text of one file of a project of that name."""
    template = files("aixgo_services.project") / "template" / TEMPLATES[target]
    return template.read_text(encoding="utf-8").replace(PLACE_HOLDER, project)


def project_name(folder: Path) -> str:
    """The folder's name as Compose takes it: lower-case letters, digits and hyphens."""
    words = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return words or _DEFAULT_NAME


def _check_empty(folder: Path) -> None:
    if not folder.exists():
        return
    found = sorted(path.name for path in folder.iterdir() if path.name != ".git")
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"{folder} is not empty: it has {', '.join(found[:_SHOWN])}{more};"
            " choose an empty folder, or write into it all the same with --force"
        )
