"""What is rendered under deploy/ is what would be rendered now."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.render_deploy import BASE, ROOT, rendered

FILES = rendered()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_rendered_file_is_fresh(path: Path):
    assert path.read_text(encoding="utf-8") == FILES[path], "run make render"


def test_nothing_else_lies_in_the_base():
    assert set(BASE.iterdir()) <= FILES.keys(), "run make render"
