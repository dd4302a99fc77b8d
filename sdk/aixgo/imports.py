"""Objects that a configuration names by import path: `my_pkg.module:name`.

Part of the core. Above: the roles and patterns whose configuration takes such paths.
"""

from __future__ import annotations

import importlib
from typing import Any

from aixgo.errors import ConfigError


def find_object(path: str, where: str, what: str) -> Any:
    """What `module:name` names. Raises ConfigError that begins with `where` and says that `what` is wanted."""
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise ConfigError(f"{where}: {path!r} is no import path; write my_pkg.module:name of {what}")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module raises while it is imported
        reason = str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{where}: {path} cannot be imported: {reason}; it must name {what}") from error
