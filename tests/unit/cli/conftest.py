"""Commands set up logging for their process; here the process goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from aixgo_services.logs import PACKAGES


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in PACKAGES)]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
