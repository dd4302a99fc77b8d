"""Files that are replaced while a process runs: certificates that are rotated, tokens that are changed.

Owns when such files are read again. Used from the event loop and from gRPC's threads alike.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Generic, TypeVar

from aixgo.errors import ConfigError

T = TypeVar("T")
LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether files have changed."""
MAX_FILE_BYTES = 1024 * 1024
"""Bytes of one file; a bundle of a hundred CAs has about 200 kB."""

Stamp = tuple[tuple[int, int, int], ...]

_log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """What `read` makes of `paths`, made again when one of them has changed; thread-safe.

    The first reading raises ConfigError. A later one that fails leaves what was read before in force, and is one
    warning: a rotation may be half done, and then the next look finds it whole. `clock` gives seconds. Looking costs a
    `stat` for each file, once a second, which is too short to leave the event loop for.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], *, clock: Callable[[], float] = monotonic) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = Lock()
        self._stamp: Stamp = self._stamped()
        self._value = read()
        self._looked_at = clock()
        self._warned = False
        self.generation = 0
        """How often something new was read."""

    def current(self) -> T:
        """The newest that could be read."""
        now = self._clock()
        if now - self._looked_at < LOOK_INTERVAL:
            return self._value
        with self._lock:
            if now - self._looked_at >= LOOK_INTERVAL:
                self._looked_at = now
                self._look()
        return self._value

    def _look(self) -> None:
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return
            value = self._read()
            if stamp != self._stamped():  # changed again meanwhile: the parts may not fit together
                return
        except ConfigError as error:
            if not self._warned:
                _log.warning("%s; what was read before stays in force", error.message)
            self._warned = True
            return
        self._stamp, self._value, self._warned = stamp, value, False
        self.generation += 1
        _log.info("read again: %s", ", ".join(str(path) for path in self._paths))

    def _stamped(self) -> Stamp:
        return tuple(_stamp_of(path) for path in self._paths)


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises ConfigError, also for one that is larger than MAX_FILE_BYTES."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}; check path and rights") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; is it the right file?")
    return data


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        said = os.stat(path)  # noqa: PTH116  # follows the symbolic links by which Kubernetes changes secrets
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}; check path and rights") from error
    return said.st_mtime_ns, said.st_ino, said.st_size
