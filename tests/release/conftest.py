"""Marks of the release's tests."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """`-m 'not slow'` leaves out what takes more than half a minute."""
    config.addinivalue_line("markers", "slow: takes more than half a minute")
