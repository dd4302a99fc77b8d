"""A certification authority for development, and certificates that it signs, as PEM files.

Owns what such certificates say. Nobody guards the authority's key: for anything that others can reach use cert-manager,
SPIRE, or a CA that your company runs. Needs `cryptography` (extra `certs`). Above: `aixgo certs dev`.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aixgo.agent import check_name
from aixgo.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

CA, CA_KEY, CERTIFICATE, KEY = "ca.pem", "ca-key.pem", "cert.pem", "key.pem"
"""The authority's files, and those of each name, in a folder of its own."""
TRUST_DOMAIN = "aixgo.dev"
"""The first part of SPIFFE IDs, where nobody says another."""
HERE = ("localhost", "127.0.0.1", "::1")
"""Where each holder can be reached besides its own name."""
CA_NAME = "aixgo development CA"
CA_DAYS, LEAF_DAYS = 365, 30
RENEW_DAYS = 7
"""A certificate with fewer days left is made anew."""
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
"""As the SPIFFE specification has it; a certificate with another one would be taken for one without an identity."""
_BACKDATED = timedelta(minutes=5)
"""Clocks of containers differ by a little."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Whose certificate it is, its SPIFFE ID, and the host names and addresses that it is good for."""

    name: str
    identity: str
    hosts: tuple[str, ...]

    @classmethod
    def of(cls, name: str, hosts: Sequence[str] = (), *, trust_domain: str = TRUST_DOMAIN) -> Leaf:
        """The certificate of an agent, or of another part of a fleet. Raises InvalidInput for what is no name."""
        check_name(name)
        if "/" in name:
            raise InvalidInput(f"{name!r} is an unnamed member, which has its parent's certificate; name that")
        if not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise InvalidInput(f"{trust_domain!r} is no trust domain; use lower-case letters, digits, '.', '-' and '_'")
        return cls(name, f"spiffe://{trust_domain}/agent/{name}", tuple(dict.fromkeys((name.lower(), *hosts, *HERE))))


def write_certificates(folder: Path, leaves: Sequence[Leaf], *, ca_folder: Path | None = None) -> list[Path]:
    """Write an authority and a certificate for each leaf; the files that were written.

    The authority's key goes to `ca_folder` (default: `folder`), and is used again when it is there; a certificate too,
    as long as it fits and does not end soon. Keys can be read by their owner only. Raises ConfigError.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise ConfigError("certificates are made by cryptography; install it with: pip install 'aixgo[certs]'")
    keys = folder if ca_folder is None else ca_folder
    authority, written = _authority(folder, keys)
    for leaf in leaves:
        place = folder / leaf.name
        if _still_good(place / CERTIFICATE, leaf, authority):
            continue
        key, certificate = _signed(leaf, authority)
        _write_key(place / KEY, key)
        _write(place / CERTIFICATE, _pem(certificate), 0o644)
        written += [place / CERTIFICATE, place / KEY]
    return written


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: Certificate
    key: EllipticCurvePrivateKey


def _authority(folder: Path, keys: Path) -> tuple[_Authority, list[Path]]:
    """The authority that is there, or a new one and its files."""
    known = (
        _known_authority(folder / CA, keys / CA_KEY) if (folder / CA).exists() and (keys / CA_KEY).exists() else None
    )
    if known is not None and known.certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=LEAF_DAYS):
        return known, []
    made = _new_authority()
    _write_key(keys / CA_KEY, made.key)
    _write(folder / CA, _pem(made.certificate), 0o644)
    return made, [folder / CA, keys / CA_KEY]


def _known_authority(ca: Path, ca_key: Path) -> _Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        certificate = x509.load_pem_x509_certificate(ca.read_bytes())
        key = serialization.load_pem_private_key(ca_key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{ca} and {ca_key} cannot be used: {type(error).__name__}; remove them") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError(f"{ca} and {ca_key} do not belong together; remove them, or name another --out")
    return _Authority(certificate, key)


def _new_authority() -> _Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(CA_NAME, key, CA_DAYS).issuer_name(_name(CA_NAME))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _Authority(builder.sign(key, hashes.SHA256()), key)


def _signed(leaf: Leaf, authority: _Authority) -> tuple[EllipticCurvePrivateKey, Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID as Use

    key = ec.generate_private_key(ec.SECP256R1())
    names = [_general_name(host) for host in leaf.hosts] + [x509.UniformResourceIdentifier(leaf.identity)]
    of_ca = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = _begun(leaf.name[:64], key, LEAF_DAYS).issuer_name(authority.certificate.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([Use.SERVER_AUTH, Use.CLIENT_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(of_ca, critical=False)
    return key, builder.sign(authority.key, hashes.SHA256())


def _still_good(path: Path, leaf: Leaf, authority: _Authority) -> bool:
    """Whether the certificate there says what it should, is of this authority, and lasts."""
    from cryptography import x509

    if not path.exists() or not (path.parent / KEY).exists():
        return False
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # noqa: BLE001  # whatever is wrong with it, it is made anew
        return False
    wanted = {_general_name(host) for host in leaf.hosts} | {x509.UniformResourceIdentifier(leaf.identity)}
    lasts = certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=RENEW_DAYS)
    return lasts and set(said) == wanted


def _begun(name: str, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(_name(name)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(now + timedelta(days=days))


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise InvalidInput(f"{host!r} is no host name; write ASCII, like worker.example.org") from error


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _write_key(path: Path, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place of the one before, never half written, and never readable by more than `mode` says."""
    beside = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}; name another folder") from error
