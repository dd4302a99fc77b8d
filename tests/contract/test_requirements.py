"""The manifest and the tests agree."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import tests.contract
import tests.integration
from tests.contract.requirements import PROMISES

EXEMPT = {"tests.contract.test_requirements"}


def in_package(package: ModuleType) -> Iterator[tuple[str, tuple[str, ...]]]:
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if info.name.rpartition(".")[2].startswith("test_") and info.name not in EXEMPT:
            for name, value in vars(import_module(info.name)).items():
                if name.startswith("test_"):
                    yield f"{info.name}.{name}", getattr(value, "promises", ())


def everything() -> dict[str, tuple[str, ...]]:
    return {**dict(in_package(tests.contract)), **dict(in_package(tests.integration))}


def test_every_promise_has_a_test() -> None:
    held = {promise for promises in everything().values() for promise in promises}
    assert sorted(set(PROMISES) - held) == []


def test_every_test_holds_a_promise() -> None:
    assert [name for name, promises in in_package(tests.contract) if not promises] == []
