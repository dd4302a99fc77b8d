"""Rendered Compose files, as Compose itself reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.deploy.conftest import Run
from tests.tools.render_deploy import EXAMPLE, ROOT


@pytest.mark.parametrize("example", [EXAMPLE, ROOT / "examples" / "compose" / "desk.yaml"], ids=lambda path: path.stem)
def test_compose_takes_what_is_rendered(example: Path, tmp_path: Path, compose: Run):
    assert execute(["render", "compose", str(example), "-o", str(tmp_path)]) == Exit.OK
    read = json.loads(compose("-f", tmp_path / "docker-compose.yml", "config", "--format", "json"))
    assert read["name"] == example.stem
    assert read["services"]["triage"]["command"] == ["serve", "/etc/aixgo/fleet.yaml", "--agent=triage"]
    assert Path(read["configs"]["fleet-yaml"]["file"]).resolve() == example
    assert {each["deploy"]["replicas"] for each in read["services"].values()} == {1, 2}
