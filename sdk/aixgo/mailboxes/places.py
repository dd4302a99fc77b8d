"""From the text of a setting to mailboxes.

Owns the forms of `mailbox.url` and AIXGO_MAILBOX. Above: configuration, which checks them, and `launch.py`, which opens
the mailboxes of a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.names import nearest

if TYPE_CHECKING:
    from aixgo.mailboxes.contract import Mailboxes, MailboxPolicy

MEMORY = "memory"
_SQLITE = "sqlite:///"
_NATS = ("nats://", "tls://")
_SCHEMES = (MEMORY, "sqlite", "nats", "tls")
_FORMS = "write memory, sqlite:///path/to/file.db, or nats://user:password@host:4222 (several by commas)"


def check_mailbox(text: str) -> None:
    """Raise ValueError for a text that names no mailboxes. Its message shows the scheme only, never a password."""
    if text == MEMORY or (len(text) > len(_SQLITE) and text.startswith(_SQLITE)):
        return
    servers = [each.strip() for each in text.split(",")]
    if all(server.startswith(_NATS) and _has_host(server) for server in servers):
        return
    scheme, colon, _ = text.partition(":")
    if colon and scheme not in _SCHEMES:
        raise ValueError(f"there are no mailboxes in {scheme[:20]!r}: {nearest(scheme, _SCHEMES)} {_FORMS}")
    raise ValueError(f"this names no mailboxes; {_FORMS}")


def make_mailboxes(
    url: SecretStr, policy: MailboxPolicy, *, replicas: int = 1, folder: Path | None = None
) -> Mailboxes:
    """The mailboxes that `mailbox.url` names: `memory`, `sqlite:///file.db` (in `folder`, by default the working
    directory; `sqlite:////var/lib/file.db` is absolute) or `nats://...`. Nothing is opened yet. Raises ConfigError.
    """
    text = url.get_secret_value()
    try:
        check_mailbox(text)
    except ValueError as error:
        raise ConfigError(f"mailbox.url: {error}") from None
    if text.startswith(_SQLITE):
        from aixgo.mailboxes.sqlite import SQLiteMailboxes  # only where it is used

        return SQLiteMailboxes((folder or Path()) / text.removeprefix(_SQLITE), policy)
    if text != MEMORY:
        from aixgo.mailboxes.nats import NatsMailboxes  # see above

        return NatsMailboxes(url, policy, replicas=replicas)
    from aixgo.mailboxes.memory import MemoryMailboxes  # see above

    return MemoryMailboxes(policy)


def _has_host(server: str) -> bool:
    try:
        parts = urlsplit(server)
        port = parts.port
    except ValueError:  # a port that is no number, or a broken IPv6 host
        return False
    return bool(parts.hostname) and port != 0
