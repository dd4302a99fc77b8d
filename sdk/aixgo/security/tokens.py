"""Bearer tokens: the one that a process shows, and those by which it knows others.

A file of tokens has a line for each, `IDENTITY: TOKEN` or `IDENTITY: sha256:HEX` (the digest of the token in
hexadecimal), and comments behind `#` at the beginning of a line. Only digests are kept in memory.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from time import monotonic

from pydantic import SecretStr

from aixgo.errors import ConfigError, Unauthenticated
from aixgo.security.files import Watched, read_file
from aixgo.security.rules import ANY, check_pattern

AUTHORIZATION = "authorization"
SHORTEST, LONGEST = 16, 4_096
"""Characters of a token. Those that are guessed are short; `openssl rand -hex 32` gives 64."""
MAX_TOKENS = 10_000
"""Lines of a file of tokens."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""What RFC 6750 lets a bearer token be made of."""
_DIGEST = re.compile(r"sha256:([0-9A-Fa-f]{64})")


class KnownTokens:
    """Who is known by which token: the lines of a file, read again when it changes. Raises ConfigError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = monotonic) -> None:
        self._watched = Watched([path], lambda: _read_known(path), clock=clock)

    def identity(self, authorization: str) -> str:
        """Who shows this `authorization`. Raises Unauthenticated for a token that nobody has."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or len(token) > LONGEST:
            raise Unauthenticated("the authorization is no bearer token; send `authorization: Bearer TOKEN`")
        digest = sha256(token.strip().encode()).hexdigest()
        # Found by its digest, which nobody can choose bit by bit: how long the look-up takes tells nothing of a token.
        known = self._watched.current().get(digest)
        if known is None or not hmac.compare_digest(known[0], digest):
            raise Unauthenticated("the token is not known here; ask for a new one")
        return known[1]


class OwnToken:
    """The token that a process shows, from a setting or from a file that is read again. Raises ConfigError."""

    def __init__(self, token: SecretStr | None, path: Path | None, *, clock: Callable[[], float] = monotonic) -> None:
        self._fixed = "" if token is None else _checked(token.get_secret_value().strip(), "AIXGO_TOKEN")
        self._watched = None if path is None else Watched([path], lambda: _read_own(path), clock=clock)

    @property
    def generation(self) -> int:
        """How often it has changed, as of now."""
        if self._watched is None:
            return 0
        self._watched.current()
        return self._watched.generation

    def header(self) -> tuple[str, str]:
        """The metadata of a call."""
        token = self._fixed if self._watched is None else self._watched.current()
        return AUTHORIZATION, f"Bearer {token}"


def digest_of(token: str) -> str:
    """What a file of tokens says in place of a token, so that it gives none away."""
    return f"sha256:{sha256(token.encode()).hexdigest()}"


def _read_own(path: Path) -> str:
    return _checked(_text(path).strip(), str(path))


def _read_known(path: Path) -> dict[str, tuple[str, str]]:
    """Digest and identity by digest."""
    known: dict[str, tuple[str, str]] = {}
    for number, line in _lines(_text(path)):
        where = f"{path}:{number}"
        identity, colon, said = (part.strip() for part in line.rpartition(": "))
        try:
            check_pattern(identity)
        except ValueError as error:
            raise ConfigError(f"{where}: write IDENTITY: TOKEN") from error
        if not colon or ANY in identity:
            raise ConfigError(f"{where}: write IDENTITY: TOKEN, the identity without *")
        given = _DIGEST.fullmatch(said)
        digest = given[1].lower() if given else sha256(_checked(said, where).encode()).hexdigest()
        if known.setdefault(digest, (digest, identity))[1] != identity:
            raise ConfigError(f"{where}: two identities have one token; give each its own")
        if len(known) > MAX_TOKENS:
            raise ConfigError(f"{path}: has more than {MAX_TOKENS} tokens")
    return known


def _lines(text: str) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text; save it as UTF-8") from error


def _checked(token: str, where: str) -> str:
    """The token as it is. The message never quotes it."""
    if not SHORTEST <= len(token) <= LONGEST or not _TOKEN.fullmatch(token):
        raise ConfigError(
            f"{where}: the token cannot be used; it needs {SHORTEST} to {LONGEST} characters, of letters, digits and"
            " -._~+/= (openssl rand -hex 32 makes one)"
        )
    return token
