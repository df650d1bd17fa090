"""The lab's own CA and a TLS certificate a node: TURN over TLS is checked in the lab as strictly as elsewhere."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from commcli.lab.folder import LabFolder, Place, Record, write_atomic

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAYS = 365
# A lab that is brought up again gets new ones in time; health warns two weeks before the end.
RENEWED_DAYS = 30
_DAY = datetime.timedelta(days=1)

Validity = tuple[datetime.datetime, datetime.datetime]


def domain(node: str) -> str:
    """The name in a node's certificate. Nobody resolves it (RFC 6761: `test`), and no client of the lab has to."""
    return f"{node}.lab.test"


def certificate(folder: LabFolder, node: str) -> Path:
    """Where the node's relay looks for it (playbooks/relay.yml)."""
    return folder.base(node) / "etc/tls/fullchain.pem"


def ready(folder: LabFolder, record: Record) -> bool:
    """Is every certificate there, and good for a while?"""
    found = all(certificate(folder, place.node).exists() for place in record.places)
    return found and _lasts(folder.tls_ca, datetime.datetime.now(datetime.UTC))


def make(folder: LabFolder, record: Record, *, days: int = DAYS) -> None:
    """Make the CA and all certificates, unless all of them are there.

    The CA's key is kept nowhere: whoever finds the folder can make no others.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    if ready(folder, record):
        return
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    valid = now - _DAY, now + days * _DAY
    own = _ca(key, valid)
    for place in record.places:
        _issue(folder, place, own, key, valid)
    folder.tls_ca.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(folder.tls_ca, _pem(own))


def _lasts(path: Path, now: datetime.datetime) -> bool:
    from cryptography import x509

    try:
        return (
            x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc > now + RENEWED_DAYS * _DAY
        )
    except (OSError, ValueError):
        return False


def _ca(key: EllipticCurvePrivateKey, valid: Validity) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "commcli lab CA")])
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        _builder(name, name, key, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identity, critical=False)
        .sign(key, hashes.SHA256())
    )


def _issue(
    folder: LabFolder,
    place: Place,
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    valid: Validity,
) -> None:
    """The node's certificate, for its domain and its address, and the key, where its relay finds them."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain(place.node))])
    names = [x509.DNSName(domain(place.node)), x509.IPAddress(ipaddress.ip_address(place.address))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    built = (
        _builder(name, ca.subject, key, valid)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = certificate(folder, place.node)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    # The relay looks at both files and takes a pair that fits: in between it keeps the old one.
    write_atomic(path.with_name("privkey.pem"), secret.decode(), mode=0o600)
    write_atomic(path, _pem(built))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, valid: Validity
) -> x509.CertificateBuilder:
    from cryptography import x509

    return x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), *valid)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM).decode()
