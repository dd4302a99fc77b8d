"""From the text of a setting to a session store.

Owns the forms of `sessions.store` and AIXGO_SESSION_STORE. Above: configuration, which checks them, and `launch.py`,
which opens one store for a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.names import nearest

if TYPE_CHECKING:
    from aixgo.sessions.contract import SessionLimits, SessionStore

MEMORY = "memory"
_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
_SCHEMES = (MEMORY, "sqlite", "postgresql", "postgres")
_FORMS = "write memory, sqlite:///path/to/file.db, or postgresql://user:password@host/database"


def check_store(text: str) -> None:
    """Raise ValueError for a text that names no session store. Its message shows the scheme only, never a password."""
    if text == MEMORY or text.startswith(_POSTGRES) or (len(text) > len(_SQLITE) and text.startswith(_SQLITE)):
        return
    scheme, colon, _ = text.partition(":")
    if colon and scheme not in _SCHEMES:
        raise ValueError(f"there is no session store {scheme[:20]!r}: {nearest(scheme, _SCHEMES)} {_FORMS}")
    raise ValueError(f"this names no session store; {_FORMS}")


def make_store(text: SecretStr, limits: SessionLimits, folder: Path | None = None) -> SessionStore:
    """The store that `sessions.store` names: `memory`, `sqlite:///file.db` (in `folder`, by default the working
    directory; `sqlite:////var/lib/file.db` is absolute) or `postgresql://...`. Nothing is opened yet. Raises
    ConfigError.
    """
    store = text.get_secret_value()
    try:
        check_store(store)
    except ValueError as error:
        raise ConfigError(f"sessions.store: {error}") from None
    if store.startswith(_SQLITE):
        from aixgo.sessions.sqlite import SQLiteSessions  # only where it is used

        return SQLiteSessions((folder or Path()) / store.removeprefix(_SQLITE), limits)
    if store.startswith(_POSTGRES):
        from aixgo.sessions.postgres import PostgresSessions  # see above

        return PostgresSessions(text, limits)
    from aixgo.sessions.in_memory import InMemorySessions  # see above

    return InMemorySessions(limits)
