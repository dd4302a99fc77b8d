"""Who calls: what the certificate of a connection, or the token of a call, says.

Pure but for reading gRPC's context. `security.py` (above) decides which of the two counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SPIFFE = "peer_spiffe_id"
"""gRPC sets it when a certificate has exactly one URI, and that is a valid SPIFFE ID."""
_OTHER_NAMES = ("peer_dns", "x509_common_name")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, under all names that are known to be theirs; without any, nobody knows who it is."""

    names: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether it has shown who it is."""
        return bool(self.names)

    def __str__(self) -> str:
        return self.names[0] if self.names else "an unknown caller"


ANONYMOUS = Caller()


def from_certificate(context: Mapping[str, Iterable[bytes]]) -> Caller:
    """Whose certificate a connection has, by gRPC's `auth_context`; ANONYMOUS when it has none.

    A SPIFFE ID is the whole identity: the other names of such a certificate say where its holder can be reached, and
    may be common to many. Without one, the DNS names and the common name count.
    """
    ids = _texts(context.get(SPIFFE, ()))
    if ids:
        return Caller(ids[:1])
    names = dict.fromkeys(name for key in _OTHER_NAMES for name in _texts(context.get(key, ())))
    return Caller(tuple(names)) if names else ANONYMOUS


def authorization_of(context: Any) -> str:
    """The `authorization` of a call's metadata; empty without one."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return value
    return ""


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(text for value in values if (text := value.decode("utf-8", "replace").strip()))
