"""The development CA: what its certificates say, who may read the keys, and what is made again."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from aixgo.errors import ConfigError, InvalidInput
from aixgo.security.certificates import Certificates
from aixgo.security.development import Leaf, write_certificates
from aixgo.security.settings import SecuritySettings
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute
from cryptography import x509


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_its_holder_its_hosts_and_its_identity(tmp_path: Path):
    write_certificates(tmp_path, [Leaf.of("Writer", ["10.0.0.7", "writer.example.org"], trust_domain="a.b")])
    said = read(tmp_path / "Writer" / "cert.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert said.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://a.b/agent/Writer"]
    assert {"writer", "writer.example.org", "localhost"} == set(said.get_values_for_type(x509.DNSName))
    assert {"10.0.0.7", "127.0.0.1", "::1"} == {str(each) for each in said.get_values_for_type(x509.IPAddress)}
    read(tmp_path / "Writer" / "cert.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))


def test_only_the_owner_reads_keys(tmp_path: Path):
    write_certificates(tmp_path, [Leaf.of("a")])
    keys = [tmp_path / "ca-key.pem", tmp_path / "a" / "key.pem"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in keys] == [0o600, 0o600]


def test_what_is_good_stays_and_the_rest_is_made_again(tmp_path: Path):
    keys = tmp_path / "kept"
    write_certificates(tmp_path, [Leaf.of("a"), Leaf.of("b")], ca_folder=keys)
    assert not (tmp_path / "ca-key.pem").exists()
    (tmp_path / "b" / "cert.pem").write_text("broken")
    written = write_certificates(tmp_path, [Leaf.of("a"), Leaf.of("b"), Leaf.of("c")], ca_folder=keys)
    assert {path.parent.name for path in written} == {"b", "c"}
    assert write_certificates(tmp_path, [Leaf.of("a", ["new.host"])], ca_folder=keys)
    (keys / "ca-key.pem").unlink()
    again = write_certificates(tmp_path, [Leaf.of("a", ["new.host"])], ca_folder=keys)
    assert tmp_path / "a" / "cert.pem" in again, "another CA has signed it"


def test_a_ca_that_cannot_be_used_is_not_replaced_in_silence(tmp_path: Path):
    write_certificates(tmp_path, [])
    (tmp_path / "ca-key.pem").write_text("broken")
    with pytest.raises(ConfigError, match="remove them"):
        write_certificates(tmp_path, [])


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/0"])
def test_a_name_that_no_agent_can_have_is_refused(name: str, tmp_path: Path):
    with pytest.raises(InvalidInput):
        write_certificates(tmp_path, [Leaf.of(name)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("domain", ["", "Example.org", "a/b", "a b"])
def test_a_trust_domain_that_makes_no_spiffe_id_is_refused(domain: str):
    with pytest.raises(InvalidInput, match="trust domain"):
        Leaf.of("a", trust_domain=domain)


def test_the_command_says_that_they_are_for_development_and_how_to_use_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "certs"
    assert execute(["certs", "dev", "--out", str(folder), "--name", "writer", "--host", "box"]) == Exit.OK
    said = capsys.readouterr().out
    assert "development only" in said
    assert f"AIXGO_TLS_CERT_FILE={folder}/writer/cert.pem" in said
    assert execute(["certs", "dev", "--out", str(folder), "--name", "writer", "--host", "box", "--json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told == {"identities": {"writer": "spiffe://aixgo.dev/agent/writer"}, "written": []}


def test_a_key_of_another_certificate_is_refused_when_a_process_starts(tmp_path: Path):
    write_certificates(tmp_path, [Leaf.of("a"), Leaf.of("b")])
    told = SecuritySettings(certificate=tmp_path / "a" / "cert.pem", key=tmp_path / "b" / "key.pem")
    with pytest.raises(ConfigError, match="belong together"):
        Certificates(told)
    with pytest.raises(ConfigError, match="holds no CA certificates"):
        Certificates(SecuritySettings(ca=tmp_path / "a" / "key.pem"))
