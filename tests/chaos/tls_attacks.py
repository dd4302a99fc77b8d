"""Attacks on ports with mTLS: wrong certificates, and good ones of somebody who is not who is asked for.

None of them may ever be answered. Below: `rpc_attacks.py`; above: `hostile.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
from aixgo.security.development import Leaf, write_certificates
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import registry_pb2 as registry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.chaos.outcomes import Outcomes
from tests.chaos.rpc_attacks import AGENT, REGISTRY, call, unary


class Forger:
    """Certificates that are not good, in a folder beside the good ones."""

    def __init__(self, good: Path, folder: Path) -> None:
        self._ca = (good / "ca.pem").read_bytes()
        write_certificates(folder, [Leaf.of("keeper")])  # of another authority, with the name of one who may
        (folder / "expired").mkdir()
        _write_expired(good, folder / "expired")
        self._pairs: dict[str, Path | None] = {
            "no certificate": None,
            "a certificate of another CA": folder / "keeper",
            "an expired certificate": folder / "expired",
        }

    async def attack(self, name: str, method: str, request: bytes, outcomes: Outcomes, address: str) -> None:
        """Call with the certificate of this name."""
        pair = self._pairs[name]
        key, chain = (
            (None, None) if pair is None else ((pair / "key.pem").read_bytes(), (pair / "cert.pem").read_bytes())
        )
        credentials = grpc.ssl_channel_credentials(self._ca, key, chain)
        async with grpc.aio.secure_channel(address, credentials) as channel:
            await unary(channel, outcomes, method, request, timeout=20)

    @property
    def names(self) -> tuple[str, ...]:
        """What there is."""
        return tuple(self._pairs)


def impostures(instance_id: str) -> dict[str, tuple[str, bytes]]:
    """What a holder of a good certificate may not do: method and request of each."""
    agents = [pb.AgentDescriptor(name="vault")]
    forged = registry.Instance(instance_id="mallory", address="127.0.0.1:9", seq=1, agents=agents)
    taken = registry.Instance(instance_id=instance_id, address="127.0.0.1:9", seq=2**40, agents=agents)
    return {
        "a call that allow_callers forbids": (AGENT + "Execute", call("vault")),
        "a letter that allow_callers forbids": (
            AGENT + "Deliver",
            pb.DeliverRequest(agent="vault").SerializeToString(),
        ),
        "a forged name": (REGISTRY + "Register", registry.RegisterRequest(instance=forged).SerializeToString()),
        "a stolen instance id": (REGISTRY + "Register", registry.RegisterRequest(instance=taken).SerializeToString()),
        "the end of another's instance": (
            REGISTRY + "Deregister",
            registry.DeregisterRequest(instance_id=instance_id, seq=2**60).SerializeToString(),
        ),
    }


def _write_expired(good: Path, folder: Path) -> None:
    """A certificate of the good authority that ended yesterday."""
    authority = x509.load_pem_x509_certificate((good / "ca.pem").read_bytes())
    signer = serialization.load_pem_private_key((good / "ca-key.pem").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.UniformResourceIdentifier("spiffe://aixgo.dev/agent/keeper")]
    built = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "keeper")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
