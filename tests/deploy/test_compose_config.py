"""Compose files, rendered and the repository's own, as Compose itself reads them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from aixgo.config.settings import PREFIX, Settings
from aixgo.security.settings import TlsMode
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.deploy.conftest import Run
from tests.tools.render_deploy import EXAMPLE, ROOT

OBSERVABILITY = ROOT / "deploy" / "observability"


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
    mesh = services.keys() - {"certs", "model"}
    assert {*made} == mesh | {"caller"}
    for name in mesh:
        told = services[name]["environment"]
        assert told["AIXGO_TLS_CERT_FILE"] == f"/etc/aixgo/{name}/cert.pem"
        assert told["AIXGO_TLS_KEY_FILE"] == f"/etc/aixgo/{name}/key.pem"
        assert not told["AIXGO_ALLOW_INSECURE"]
        assert services[name]["depends_on"]["certs"]["condition"] == "service_completed_successfully"
        assert told["AIXGO_TLS_SERVER_NAME"] in services["certs"]["command"]


def test_over_the_fleet_nats_is_there_before_whoever_sends_or_receives(compose: Run):
    files = ("-f", ROOT / "docker-compose.yml", "-f", ROOT / "docker-compose.nats.yml")
    services = json.loads(compose(*files, "config", "--format", "json"))["services"]
    assert services["control-plane"]["build"]["args"]["EXTRAS"] == "openai,nats"
    for name in services.keys() - {"nats", "model", "control-plane"}:
        assert services[name]["environment"]["AIXGO_MAILBOX"] == "nats://nats:4222"
        assert services[name]["depends_on"]["nats"]["condition"] == "service_healthy"
    (volume,) = services["nats"]["volumes"]
    assert f"--store_dir={volume['target']}" in services["nats"]["command"]
    assert "ports" not in services["nats"]


def test_with_mtls_processes_make_of_their_variables_what_the_file_means(compose: Run):
    files = ("-f", ROOT / "docker-compose.yml", "-f", ROOT / "docker-compose.mtls.yml")
    services = json.loads(compose(*files, "config", "--format", "json"))["services"]
    for name in services.keys() - {"certs", "model"}:
        told = services[name]["environment"]
        ours = {variable for variable in told if variable.startswith(PREFIX)}
        assert ours <= {PREFIX + field.upper() for field in Settings.model_fields}, name
        settings = Settings.read(told)
        security = settings.security()
        assert security.tls_mode is TlsMode.MTLS
        assert not security.allow_insecure
        assert security.health_port not in {None, int(settings.listen.rpartition(":")[2])}
        mounted = {each["target"] for each in services[name]["volumes"] if each["source"] == "certificates"}
        assert mounted == {services["certs"]["command"][services["certs"]["command"].index("--out") + 1]}
        assert all(str(path).startswith(f"{folder}/") for path in security.files().values() for folder in mounted)


def test_mtls_and_nats_go_together(compose: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIXGO_EXTRAS", "openai,certs")
    names = ("docker-compose.yml", "docker-compose.mtls.yml", "docker-compose.nats.yml")
    files = [word for name in names for word in ("-f", ROOT / name)]
    services = json.loads(compose(*files, "config", "--format", "json"))["services"]
    assert services["control-plane"]["build"]["args"]["EXTRAS"] == "openai,certs,nats"
    assert {"certs", "nats"} <= services["triage"]["depends_on"].keys()
    assert services["triage"]["environment"].keys() >= {"AIXGO_MAILBOX", "AIXGO_TLS_CERT_FILE"}


def test_the_gateway_hears_of_the_env_file_how_often_and_how_calls_come_and_of_no_key(
    compose: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for variable in ("AIXGO_RATE_LIMIT", "AIXGO_TRANSPORT", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".env").write_text("AIXGO_RATE_LIMIT=50:100\nAIXGO_TRANSPORT=plain\nOPENAI_API_KEY=of-agents\n")
    files = ("--env-file", tmp_path / ".env", "-f", ROOT / "docker-compose.yml")
    told = json.loads(compose(*files, "config", "--format", "json"))["services"]["gateway"]["environment"]
    settings = Settings.read(told)
    assert (settings.rate_limit, settings.transport) == ("50:100", "plain")
    assert "OPENAI_API_KEY" not in told
    unset = json.loads(compose("--env-file", "/dev/null", *files[2:], "config", "--format", "json"))
    settings = Settings.read(unset["services"]["gateway"]["environment"])
    assert (settings.rate_limit, settings.transport) == (None, Settings().transport)


def test_the_profile_of_observability_has_all_that_its_services_read(compose: Run):
    """The images themselves are others' and are not started here."""
    words = ("--project-directory", ROOT, "--profile", "observability", "config", "--format", "json")
    services = json.loads(compose(*words))["services"]
    added = {name: each for name, each in services.items() if each.get("profiles") == ["observability"]}
    assert set(added) == {"collector", "prometheus", "grafana"}
    mounted = {
        name: {volume["target"]: Path(volume["source"]) for volume in each["volumes"] if volume["type"] == "bind"}
        for name, each in added.items()
    }
    assert all(path.is_file() for paths in mounted.values() for path in paths.values())
    assert mounted["prometheus"]["/etc/prometheus/rules.yml"].samefile(OBSERVABILITY / "rules.yml")
    provider = yaml.safe_load((OBSERVABILITY / "grafana" / "dashboards.yml").read_text())["providers"][0]
    assert mounted["grafana"][f"{provider['options']['path']}/dashboard.json"].samefile(
        OBSERVABILITY / "dashboard.json"
    )
    ports = [port for each in added.values() for port in each["ports"]]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_every_process_is_told_of_the_collector_and_of_none_where_nobody_says_so(
    compose: Run, monkeypatch: pytest.MonkeyPatch
):
    def told() -> set[str]:
        read = json.loads(compose("--project-directory", ROOT, "config", "--format", "json"))
        return {each["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] for each in read["services"].values()}

    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert told() == {""}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    assert told() == {"http://collector:4317"}
