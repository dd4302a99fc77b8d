"""What the doctor says of certificates, keys and tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aixgo.config.settings import Settings
from aixgo.security.development import LEAF_DAYS, Leaf, write_certificates
from aixgo_services.doctor import examination
from aixgo_services.doctor.findings import Finding, Level
from aixgo_services.doctor.security import Validity, check_security

NOW = datetime(2030, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    write_certificates(tmp_path, [Leaf.of("writer")])
    return {
        "AIXGO_TLS_CA_FILE": str(tmp_path / "ca.pem"),
        "AIXGO_TLS_CERT_FILE": str(tmp_path / "writer" / "cert.pem"),
        "AIXGO_TLS_KEY_FILE": str(tmp_path / "writer" / "key.pem"),
    }


def check(variables: dict[str, str], begins: timedelta = -DAY, ends: timedelta = 30 * DAY) -> list[Finding]:
    """What is found at NOW where each certificate is good from `begins` to `ends`, both from then."""
    settings = Settings.read(variables).security()
    return check_security(settings, NOW, lambda _: [Validity("CN=writer", NOW + begins, NOW + ends)])


def test_without_anything_it_is_said_that_there_is_no_tls_and_who_is_reached():
    (found,) = check({})
    assert (found.level, "and not beyond it" in found.what) == (Level.OK, True)
    (found,) = check({"AIXGO_ALLOW_INSECURE": "1"})
    assert (found.level, "and beyond it" in found.what) == (Level.OK, True)


def test_certificates_that_are_good_are_one_line_that_names_their_variables(variables: dict[str, str]):
    (found,) = check(variables)
    assert (found.level, found.what) == (Level.OK, f"mtls, by {', '.join(sorted(variables, key=_order))}")


def _order(variable: str) -> int:
    return ("AIXGO_TLS_CERT_FILE", "AIXGO_TLS_KEY_FILE", "AIXGO_TLS_CA_FILE").index(variable)


@pytest.mark.parametrize(
    ("begins", "ends", "level", "said"),
    [
        (-DAY, timedelta(), Level.PROBLEM, "ended on 2030-05-01"),
        (-DAY, 6 * DAY, Level.WARNING, "ends on 2030-05-07 00:00 UTC"),
        (DAY, 30 * DAY, Level.PROBLEM, "begins on 2030-05-02"),
    ],
)
def test_certificates_out_of_their_time_or_near_its_end_are_told(
    variables: dict[str, str], begins: timedelta, ends: timedelta, level: Level, said: str
):
    own, ca = check(variables, begins, ends)
    assert {own.level, ca.level} == {level}
    assert f"the certificate of CN=writer in {variables['AIXGO_TLS_CERT_FILE']} {said}" == own.what
    assert variables["AIXGO_TLS_CA_FILE"] in ca.what
    assert own.fix


@pytest.mark.parametrize("variable", ["AIXGO_TLS_CA_FILE", "AIXGO_TLS_CERT_FILE", "AIXGO_TLS_KEY_FILE"])
def test_a_file_that_is_not_there_is_a_problem(variables: dict[str, str], variable: str):
    Path(variables[variable]).unlink()
    (found,) = check(variables)
    assert (found.level, variables[variable] in found.what) == (Level.PROBLEM, True)


def test_a_key_of_another_certificate_is_a_problem(variables: dict[str, str], tmp_path: Path):
    write_certificates(tmp_path, [Leaf.of("other")])
    (found,) = check(variables | {"AIXGO_TLS_KEY_FILE": str(tmp_path / "other" / "key.pem")})
    assert (found.level, "cannot be used with the key" in found.what) == (Level.PROBLEM, True)


def test_a_key_that_everybody_may_read_is_a_warning(variables: dict[str, str]):
    key = Path(variables["AIXGO_TLS_KEY_FILE"])
    key.chmod(0o644)
    (found,) = check(variables)
    assert (found.level, found.fix) == (Level.WARNING, f"chmod 600 {key}")


def test_a_file_of_tokens_is_read_and_none_of_them_is_shown(tmp_path: Path):
    tokens = tmp_path / "tokens"
    tokens.write_text("keeper: a-secret-of-more-than-thirty-two-letters\nno line of it: \n")
    tokens.chmod(0o604)
    found = check({"AIXGO_TOKENS_FILE": str(tokens)})
    assert [each.level for each in found] == [Level.WARNING, Level.PROBLEM]
    assert "a-secret" not in str(found)


def test_where_nothing_can_read_certificates_it_is_said_that_their_end_is_not_known(variables: dict[str, str]):
    (found,) = check_security(Settings.read(variables).security(), NOW, None)
    assert (found.level, "aixgo[certs]" in found.what) == (Level.OK, True)


async def test_the_report_reads_real_certificates_and_asks_no_control_plane_with_broken_ones(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    found = {each.check: each for each in await examination.examine(None, ["127.0.0.1:1"])}
    assert found["security"].what.startswith("mtls, by ")
    assert "control plane" in found
    monkeypatch.setenv("AIXGO_TLS_KEY_FILE", str(tmp_path / "no-such-key"))
    found = {each.check: each for each in await examination.examine(None, ["127.0.0.1:1"])}
    assert found["security"].level is Level.PROBLEM
    assert "control plane" not in found


def test_a_development_certificate_near_its_end_is_told_in_time(variables: dict[str, str]):
    read = examination._certificates()
    later = datetime.now(UTC) + timedelta(days=LEAF_DAYS - 1)
    found = check_security(Settings.read(variables).security(), later, read)
    assert [each.level for each in found] == [Level.WARNING]
    assert "writer" in found[0].what
