"""What an edge's certificate says, believed or not, and everything that is wrong with it. Pure but for `ca_pem`.

Whether it is trusted, OpenSSL said where the edge was looked at (onnode/doors.py); it names one trouble only, so that
dates and names are judged here again, from the certificate itself.
"""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from commcli.errors import BadInput
from commcli.fleet.model import Fleet

if TYPE_CHECKING:
    from cryptography import x509

DAY_S = 86400.0
# OpenSSL's X509_V_ERR_*: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_NOT_YET, _EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 9, 10, 62, 64
_UNTRUSTED = {
    18: "self-signed",
    19: "its CA is not among those believed",
    20: "its CA is not among those believed, or an intermediate certificate is not sent along",
    21: "its CA is not among those believed, or an intermediate certificate is not sent along",
    23: "revoked",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """The server's own one. `names` are those of its subjectAltName, addresses too; the times are unix seconds."""

    names: tuple[str, ...]
    issuer: str
    not_before_unix: float
    not_after_unix: float

    def row(self, unix: float) -> dict[str, Any]:
        """For documents: with the days that are left, below zero once it has expired."""
        return {
            "names": list(self.names),
            "issuer": self.issuer,
            "not_before_unix": self.not_before_unix,
            "not_after_unix": self.not_after_unix,
            "days_left": (self.not_after_unix - unix) / DAY_S,
        }


def read(der: str) -> Certificate | None:
    """From DER in base64; None if nobody can read it."""
    from cryptography import x509

    try:
        found = x509.load_der_x509_certificate(base64.b64decode(der))
        return Certificate(
            names=_names(found),
            issuer=found.issuer.rfc4514_string(),
            not_before_unix=found.not_valid_before_utc.timestamp(),
            not_after_unix=found.not_valid_after_utc.timestamp(),
        )
    except (
        *(ValueError, TypeError, OverflowError),
        *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
    ):
        return None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    domains = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return (*domains, *map(str, addresses))


def covers(names: Sequence[str], wanted: str) -> bool:
    """Is this domain or address among the names (RFC 6125 section 6.4; a wildcard is one whole first label)?"""
    try:
        return str(ipaddress.ip_address(wanted)) in names
    except ValueError:
        wanted = wanted.rstrip(".").lower()
        known = {name.rstrip(".").lower() for name in names}
        return wanted in known or f"*.{wanted.partition('.')[2]}" in known


def problems(
    certificate: Certificate | None, tls: Mapping[str, Any], wanted: str, unix: float
) -> list[tuple[str, str]]:
    """All that makes a client refuse this certificate: (word, sentence). [] if it is good.

    The words: expired, not-yet-valid, name, untrusted, unreadable. `tls` has OpenSSL's `verify_code` and `verify_text`.
    """
    found: list[tuple[str, str]] = []
    if certificate is None:
        found.append(("unreadable", "nobody can read the certificate"))
    else:
        found += _of_dates(certificate, unix)
        if not covers(certificate.names, wanted):
            has = ", ".join(certificate.names) or "no name at all"
            found.append(("name", f"the certificate is for {has}, not for {wanted}"))
    return found + _of_trust(tls, found)


def _of_dates(certificate: Certificate, unix: float) -> list[tuple[str, str]]:
    late_s, early_s = unix - certificate.not_after_unix, certificate.not_before_unix - unix
    if late_s >= 0:
        return [("expired", f"the certificate expired {late_s / DAY_S:.1f} days ago")]
    if early_s > 0:
        return [("not-yet-valid", f"the certificate is not valid for another {early_s / DAY_S:.1f} days")]
    return []


def _of_trust(tls: Mapping[str, Any], known: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What OpenSSL found, unless it is the certificate's own trouble that is known already."""
    code, text = tls["verify_code"], tls["verify_text"]
    said = {word for word, _ in known}
    own = {_NOT_YET: "not-yet-valid", _EXPIRED: "expired", _WRONG_NAME: "name", _WRONG_ADDRESS: "name"}.get(
        code
    )
    if not code or (own is not None and own in said):
        return []
    if own in ("expired", "not-yet-valid"):
        return [(own, f"a certificate of its chain: {text}")]
    return [(own or "untrusted", f"not trusted: {_UNTRUSTED.get(code, text)}")]


def ca_pem(fleet: Fleet) -> str | None:
    """The CAs that the fleet believes; None: those of the machine that looks. Raises BadInput."""
    if fleet.tls_ca is None:
        return None
    reason = "no CA certificate (PEM) in it"
    try:
        # Comments in bundles name CAs as they are written; OpenSSL wants plain ASCII.
        text = fleet.tls_ca.read_text("ascii", errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")
        if "BEGIN CERTIFICATE" in text:
            ssl.create_default_context(cadata=text)
            return text
    except ssl.SSLError:
        pass
    except OSError as error:
        reason = error.strerror or str(error)
    raise BadInput(f"{fleet.tls_ca}: {reason}", hint="fleet.yaml names it: tls: {ca: FILE}")
