"""One relay for all foreign clients, with every listener it has, and an echo server behind it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.relay.serving import ADDRESS, ADDRESS6, Served, dies_with_us, free_port, need, plain_relay

LOOPBACK = ("--allow-peer", "127.0.0.0/8", "--allow-peer", "::1/128")


@dataclass(frozen=True)
class Pair:
    """A self-signed certificate for the loopback addresses, and its key."""

    certificate: Path
    key: Path
    spki: str  # base64 of the SHA-256 of its public key

    @property
    def files(self) -> tuple[Path, Path]:
        return self.certificate, self.key


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in (ADDRESS, ADDRESS6)]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(private)
    spki = base64.b64encode(hashlib.sha256(public).digest()).decode()
    return Pair(folder / "cert.pem", folder / "key.pem", spki)


@pytest.fixture(scope="package")
def relay(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """UDP, TCP and TLS over both families; loopback peers are allowed. Whatever clients do, it meets no bug of ours."""
    log = tmp_path_factory.mktemp("relay") / "relay.log"
    with plain_relay(*LOOPBACK, six=True, pair=pair.files, log=log) as served:
        yield served
    said = log.read_text("utf-8", "replace")
    assert "Traceback" not in said and " bug " not in said, said[-4000:]


@pytest.fixture(scope="package")
def echo_port() -> Iterator[int]:
    """coturn's echo server, on both loopback addresses."""
    port = free_port()
    command = [need("turnutils_peer", "coturn"), "-L", ADDRESS, "-L", ADDRESS6, "-p", str(port)]
    process = subprocess.Popen(dies_with_us(command))
    yield port
    process.terminate()
    process.wait(10)
