"""What `import aixgo` offers, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import aixgo
import pytest

SOURCE = ast.parse(Path(aixgo.__file__).read_text())


def declared() -> dict[str, str]:
    """What the type checker is told: name -> module, from the imports of the file."""
    return {
        name.name: node.module
        for node in ast.walk(SOURCE)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("aixgo")
        for name in node.names
    }


@pytest.mark.parametrize("name", aixgo.__all__)
def test_every_export_is_what_the_type_checker_is_told(name: str) -> None:
    assert getattr(aixgo, name) is getattr(import_module(declared()[name]), name)


def test_nothing_is_declared_that_is_not_exported() -> None:
    assert set(declared()) == set(aixgo.__all__)
    assert set(aixgo.__all__) == set(dir(aixgo))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = aixgo.Agnet  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_aixgo_loads_nothing_heavy() -> None:
    heavy = ("pydantic", "grpc", "opentelemetry", "openai", "anthropic", "google", "xllamacpp", "click", "rich", "yaml")
    code = f"import sys, aixgo; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_local_runtime_loads_neither_grpc_nor_telemetry() -> None:
    heavy = ("grpc", "opentelemetry", "pydantic")
    code = f"import sys, aixgo; aixgo.LocalRuntime; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
