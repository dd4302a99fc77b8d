"""Who a fleet of one certificate is, and what it may register without being told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError
from aixgo.security.development import Leaf, write_certificates
from aixgo.security.rules import Rules
from aixgo_services.own_identity import own_identities, registration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "a-token-of-many-letters"


def settings(folder: Path, name: str, **more: str):
    told = {
        "AIXGO_TLS_CA_FILE": str(folder / "ca.pem"),
        "AIXGO_TLS_CERT_FILE": str(folder / name / "cert.pem"),
        "AIXGO_TLS_KEY_FILE": str(folder / name / "key.pem"),
    }
    return Settings.read(told | more).security()


def issue(folder: Path, name: str, common: str, *hosts: str) -> None:
    """A certificate of the development CA with names only, as companies' CAs issue them."""
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / name).mkdir()
    (folder / name / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / name / "key.pem").write_bytes(key.private_bytes(*form))


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    write_certificates(tmp_path, [Leaf.of("desk")])
    return tmp_path


def test_a_certificate_with_a_spiffe_id_is_known_by_that_alone(certs: Path):
    assert own_identities(settings(certs, "desk")) == ["spiffe://aixgo.dev/agent/desk"]


def test_another_one_is_known_by_its_names_but_those_of_this_machine_or_of_many(certs: Path):
    issue(certs, "box", "The box", "localhost", "*.example.org", "box.example.org")
    assert own_identities(settings(certs, "box")) == ["box.example.org"]


def test_without_certificates_of_callers_its_token_counts(tmp_path: Path):
    (tmp_path / "tokens").write_text(f"desk: {TOKEN}\n")
    told = {"AIXGO_TOKENS_FILE": str(tmp_path / "tokens"), "AIXGO_TOKEN": TOKEN, "AIXGO_ALLOW_INSECURE": "1"}
    assert own_identities(Settings.read(told).security()) == ["desk"]


def test_a_certificate_that_its_ca_has_not_signed_is_told_before_anything_starts(certs: Path, tmp_path: Path):
    write_certificates(tmp_path / "other", [Leaf.of("desk")])
    told = settings(certs, "desk", AIXGO_TLS_CA_FILE=str(tmp_path / "other" / "ca.pem"))
    with pytest.raises(ConfigError, match=r"cert\.pem: the fleet cannot use it .*signed by AIXGO_TLS_CA_FILE"):
        own_identities(told)


def test_it_may_register_the_names_of_the_fleet_and_others_their_own(certs: Path):
    rules = Rules.parse(registration(settings(certs, "desk"), ["a", "b"], {})["AIXGO_ALLOW_REGISTER"])
    desk = ["spiffe://aixgo.dev/agent/desk"]
    assert [rules.allows(desk, name) for name in ("a", "b", "c")] == [True, True, False]
    assert rules.allows(["spiffe://aixgo.dev/agent/c"], "c")


def test_who_says_who_may_register_is_heeded_and_without_identities_nothing_is_said(certs: Path):
    assert registration(settings(certs, "desk"), ["a"], {"AIXGO_ALLOW_REGISTER": "boss"}) == {}
    assert registration(Settings().security(), ["a"], {}) == {}
