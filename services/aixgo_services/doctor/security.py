"""Whether the certificates, keys and tokens that a process is told of can be used, and for how long.

Files are read, and nothing of what they hold is shown but whom a certificate is for. The time and what reads
certificates are passed in. Above: `examination.py`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aixgo.errors import ConfigError
from aixgo.security.files import read_file

from aixgo_services.doctor.findings import Finding, Level, ok, problem, warning

if TYPE_CHECKING:
    from aixgo.security.settings import SecuritySettings

SOON = timedelta(days=7)
"""A certificate that ends within this time should have been renewed."""
_SECRETS = ("AIXGO_TLS_KEY_FILE", "AIXGO_TOKEN_FILE", "AIXGO_TOKENS_FILE")
_CERTIFICATES = ("AIXGO_TLS_CERT_FILE", "AIXGO_TLS_CA_FILE")


@dataclass(frozen=True, slots=True)
class Validity:
    """Whom a certificate is for, and from when until when it is good."""

    holder: str
    begins: datetime
    ends: datetime


Read = Callable[[bytes], Sequence[Validity]]
"""What the certificates of a PEM file say, its first one first. Raises ValueError where there are none."""


def check_security(settings: SecuritySettings, now: datetime, read: Read | None) -> list[Finding]:
    """A line for each thing that is wrong, or one that says how connections are secured.

    `read` is None where nothing can read certificates here: then nobody says when they end.
    """
    files = settings.files()
    found = [*_secrets(files), *_broken(settings)]
    if not any(each.level is Level.PROBLEM for each in found) and read is not None:
        for variable in _CERTIFICATES:
            if variable in files:
                found += _dates(variable, files[variable], now, read)
    return found or [ok("security", _summary(settings, dated=read is not None))]


def _broken(settings: SecuritySettings) -> Iterator[Finding]:
    """What keeps a process from starting: it would say the same."""
    from aixgo.security.security import Security  # loads gRPC, which may be what is missing

    try:
        Security(settings)
    except ConfigError as error:
        yield problem("security", error.message, "correct the file, or the variable that names it")


def _secrets(files: Mapping[str, Path]) -> Iterator[Finding]:
    """Files with secrets that everybody of this machine may read."""
    for variable in _SECRETS:
        path = files.get(variable)
        if path is not None and _mode(path) & stat.S_IROTH:
            told = f"everybody on this machine may read {path}, which {variable} names"
            yield warning("security", told, f"chmod 600 {path}")


def _dates(variable: str, path: Path, now: datetime, read: Read) -> Iterator[Finding]:
    try:
        told = read(read_file(path))
    except (ConfigError, ValueError) as error:
        yield problem("security", f"{path} cannot be read as certificates: {error}", f"correct {variable}")
        return
    renew = "renew it (`aixgo certs dev` does for development); processes take up new files by themselves"
    for each in told:
        what = f"the certificate{each.holder and f' of {each.holder}'} in {path}"  # SPIFFE's have no subject
        if now >= each.ends:
            yield problem("security", f"{what} ended on {each.ends:%Y-%m-%d}", renew)
        elif now < each.begins:
            yield problem("security", f"{what} begins on {each.begins:%Y-%m-%d}", "set this machine's clock, or wait")
        elif each.ends - now < SOON:
            yield warning("security", f"{what} ends on {each.ends:%Y-%m-%d %H:%M} UTC", renew)


def _summary(settings: SecuritySettings, *, dated: bool) -> str:
    if not settings.tls:
        beyond = "and beyond it (AIXGO_ALLOW_INSECURE=1)" if settings.allow_insecure else "and not beyond it"
        return f"no TLS: servers listen on this machine, {beyond}; SECURITY.md tells of certificates and tokens"
    known = " and tokens" if settings.tokens_file is not None else ""
    ends = "" if dated else "; when certificates end is not known here: pip install 'aixgo[certs]'"
    return f"{settings.tls_mode.value}{known}, by {', '.join(settings.files())}{ends}"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0  # that it cannot be read is told as what keeps a process from starting
