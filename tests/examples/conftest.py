"""The examples are tried where their READMEs are read: in the folder of the repository."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.examples.readme import ROOT


@pytest.fixture(scope="module", autouse=True)
def at_the_repository() -> Iterator[None]:
    """The working directory of the commands, and a path for imports that does not grow from example to example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "path", list(sys.path))
        yield
