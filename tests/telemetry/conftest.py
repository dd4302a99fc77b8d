"""The collector that a module's tests send to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.telemetry.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A collector that has received nothing yet."""
    with Receiver() as listening:
        yield listening
