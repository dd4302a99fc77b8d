"""Contact with one control plane: its channel, how often it is tried again, and what the log says of it.

Below it lies gRPC; `discovery.py` and the server's registrar keep one contact for each control plane.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc.aio

from aixgo.runtime.channels import channel_options
from aixgo.security.security import Security

MAX_UPDATE_BYTES = 64 * 1024 * 1024
"""Bytes of the largest message: a snapshot of 100,000 instances is about 20 MB."""

_log = logging.getLogger(__name__)


def open_channel(address: str, security: Security | None = None) -> grpc.aio.Channel:
    """A channel to a control plane. It connects again 0.1 to 1 s after it broke, and notices a frozen one in 10 s."""
    options = dict(channel_options(MAX_UPDATE_BYTES)) | {
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1_000,
    }
    return (security or Security()).dial(address, list(options.items()))


class Contact:
    """Whether a control plane answers. Its loss is one warning, its return one line; attempts between are debug.

    `work` says in the log what is hindered. Pauses double from 0.1 s to `longest`, each shortened by up to half by
    `random` (0 to 1).
    """

    def __init__(self, address: str, work: str, longest: float, random: Callable[[], float]) -> None:
        self.address = address
        self._work = work
        self._longest = longest
        self._random = random
        self._failures = 0

    def made(self) -> None:
        """It has answered."""
        if self._failures:
            _log.info("control plane %s is back; %s works again", self.address, self._work)
        self._failures = 0

    def lost(self, reason: str) -> float:
        """It has not answered, or has gone. Returns the seconds to wait before the next attempt."""
        level = logging.DEBUG if self._failures else logging.WARNING
        _log.log(level, "control plane %s: %s; %s goes on trying", self.address, reason, self._work)
        pause = min(0.1 * 2 ** min(self._failures, 16), self._longest)
        self._failures += 1
        return pause * (0.5 + self._random() / 2)


def why(error: grpc.aio.AioRpcError) -> str:
    """One line on why an RPC failed."""
    return f"{error.code().name}: {error.details() or 'no details'}"
