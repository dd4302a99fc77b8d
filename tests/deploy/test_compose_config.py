"""Rendered Compose files, as Compose itself reads them."""

from __future__ import annotations

import itertools
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


def test_over_the_fleet_mtls_gives_each_process_of_the_mesh_a_certificate_that_is_made_first(compose: Run):
    files = ("-f", ROOT / "docker-compose.yml", "-f", ROOT / "docker-compose.mtls.yml")
    services = json.loads(compose(*files, "config", "--format", "json"))["services"]
    made = [name for flag, name in itertools.pairwise(services["certs"]["command"]) if flag == "--name"]
    assert {*made} == services.keys() - {"certs", "model"}
    for name in made:
        told = services[name]["environment"]
        assert told["AIXGO_TLS_CERT_FILE"] == f"/etc/aixgo/{name}/cert.pem"
        assert told["AIXGO_TLS_KEY_FILE"] == f"/etc/aixgo/{name}/key.pem"
        assert not told["AIXGO_ALLOW_INSECURE"]
        assert services[name]["depends_on"]["certs"]["condition"] == "service_completed_successfully"
        assert told["AIXGO_TLS_SERVER_NAME"] in services["certs"]["command"]
