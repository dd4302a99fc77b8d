"""A YAML file to a Config, or to one error that tells everything that is wrong with it.

Wiring of syntax (`document.py`), types (`schema.py`) and what goes across sections (`checks.py`). Every error is a
ConfigError of lines `file:line: what is wrong; fix`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from aixgo.config.checks import check_whole
from aixgo.config.document import Document, parse_document, read_document
from aixgo.config.faults import describe
from aixgo.config.problems import Problems
from aixgo.config.schema import Config
from aixgo.config.settings import read_environment
from aixgo.config.version1 import refuse_version1

if TYPE_CHECKING:
    from collections.abc import Mapping


def load(path: str | Path, variables: Mapping[str, str] | None = None) -> Config:
    """Read a file. `${VAR}` is filled from `variables` (default: the environment, and `.env` beside the file).

    Raises ConfigError, with every problem, its line and its fix.
    """
    path = Path(path)
    given = read_environment(path.parent) if variables is None else variables
    return _understood(read_document(path, given))


def loads(content: str | bytes, path: str | Path = "<text>", variables: Mapping[str, str] | None = None) -> Config:
    """Read YAML that is in memory; `path` is how errors call it. Nothing but `variables` fills `${VAR}`."""
    # Text from elsewhere may hold lone surrogates; as bytes they are refused like any other broken UTF-8.
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return _understood(parse_document(Path(path), raw, variables or {}))


def _understood(document: Document) -> Config:
    problems = Problems(document.path)
    refuse_version1(document, problems)
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            describe(dict[str, Any](one), (), document, problems)
        raise problems.error() from error
    check_whole(config, document, problems)
    problems.check()
    return config.read_from(document)
