"""TLS to the client: the certificate, which may be renewed under a running relay, and one client's session.

A session is a machine of bytes (`ssl.MemoryBIO`): one recv and one send a turn whatever the number of records, and
nothing that the client does can make it wait.
"""

from __future__ import annotations

import calendar
import re
import ssl
import stat
import time
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from commcli.relay.clients.framing import MOST
from commcli.relay.config import BadFile, ConfigError

# Forward secrecy and authenticated encryption only; TLS 1.3 has nothing else. Every WebRTC stack has these.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# RFC 7443. A client that offers none, or others, is served all the same.
ALPN = ("stun.turn", "stun.nat-discovery")
RECORD = 1 << 14  # the plaintext that one record holds (RFC 8446 section 5.1)
MAX_PEM = 1 << 20

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_INTEGER, _SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x02, 0x30, 0x17, 0x18, 0xA0

_Marks = Tuple[Tuple[int, int, int], Tuple[int, int, int]]


class Unusable(ConfigError):
    """What is wrong with one of the two files or with both; the text has their names without their folders."""

    def __init__(self, reason: str, *paths: Path) -> None:
        super().__init__(f"{', '.join(path.name for path in paths)}: {reason}")
        self.reason, self.paths = reason, paths


def check(certificate: Path, key: Path) -> None:
    """Raises BadFile, which names the whole paths, unless TLS can be served with this pair."""
    try:
        for path in (certificate, key):
            _mark(path)
            _text_of(path)
        server_context(certificate, key)
    except Unusable as error:
        raise BadFile(f"{', '.join(str(path.absolute()) for path in error.paths)}: {error.reason}") from None


class Certificates:
    """A certificate chain and its key, in PEM files.

    `context` is None as long as there never was a pair that could be used, and `refused` says what is wrong with the
    files as they are now (None: nothing). A handshake takes the context that it finds, so old connections live on.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        log: Callable[..., None],
        unix: Callable[[], float] = time.time,
    ) -> None:
        """Loads the pair if it is there; what is wrong with it is logged, never raised."""
        self.certificate, self.key = certificate, key
        self.context: Optional[ssl.SSLContext] = None
        self.refused: Optional[str] = None
        self._log, self._unix = log, unix
        self._not_after: Optional[float] = None
        self._seen: Optional[_Marks] = None
        self.reload()

    def not_after_unix(self) -> Optional[float]:
        """When the certificate in force expires; None if there is none, or if that cannot be read from it."""
        return self._not_after

    def poll(self) -> bool:
        """Load the pair if a file changed since it was last looked at. True if a new one is in force."""
        marks = self._marks()
        return marks is not None and marks != self._seen and self._take(marks)

    def reload(self) -> bool:
        """Load the pair. If it cannot be used the old one stays, and the reason is logged. True if it is in force."""
        marks = self._marks()
        return marks is not None and self._take(marks)

    def _marks(self) -> Optional[_Marks]:
        # Taken before the files are read: one that changes meanwhile differs from this, and is read again.
        try:
            return _mark(self.certificate), _mark(self.key)
        except Unusable as error:
            self._seen = None
            self._refuse(str(error))
            return None

    def _take(self, marks: _Marks) -> bool:
        self._seen = marks
        try:
            context = server_context(self.certificate, self.key)
            not_after = not_after_unix(_text_of(self.certificate))
            self._check_expiry(not_after)
        except Unusable as error:
            self._refuse(str(error))
            return False
        self.context, self._not_after, self.refused = context, not_after, None
        self._log("tls_certificate", file=self.certificate.name, not_after=_day(not_after))
        return True

    def _check_expiry(self, not_after: Optional[float]) -> None:
        """An expired certificate is better than none, for the clients that do not look; but not than a good one."""
        if not_after is None or not_after > self._unix() or self.context is None:
            return
        if self._not_after is None or self._not_after > not_after:
            raise Unusable(f"expired on {_day(not_after)}", self.certificate)

    def _refuse(self, reason: str) -> None:
        if reason != self.refused:  # polled for weeks: once is enough
            self._log("tls_refused", reason=reason)
        self.refused = reason


def _mark(path: Path) -> Tuple[int, int, int]:
    """What changes when the file does. Raises Unusable."""
    try:
        status = path.stat()
    except OSError as error:
        raise Unusable(error.strerror or "can not be read", path) from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_PEM:
        raise Unusable("not a PEM file", path)  # a pipe would hold up every call
    return status.st_ino, status.st_mtime_ns, status.st_size


def _text_of(path: Path) -> str:
    try:
        return path.read_text("latin-1")
    except OSError as error:
        raise Unusable(error.strerror or "can not be read", path) from None


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this chain and key. Raises Unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # A renegotiation is a handshake that the limits on handshakes would not see.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(ALPN))
    try:
        # Without a password function OpenSSL would ask at the terminal, and wait.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "not a certificate and its key").replace("_", " ").lower()
        if reason in ("pem lib", "no start line"):
            reason = "not a certificate and its key"
        raise Unusable(reason, certificate, key) from None
    except (OSError, ValueError) as error:
        raise Unusable(str(error), certificate, key) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


# --- when a certificate expires: the standard library does not say it of a server's own ----------------------------


def not_after_unix(pem: str) -> Optional[float]:
    """notAfter of the first certificate in `pem` (RFC 5280 section 4.1.2.5); None if it cannot be read."""
    found = _PEM.search(pem)
    if found is None:
        return None
    try:
        return _not_after(ssl.PEM_cert_to_DER_cert(found.group()))
    except (ValueError, IndexError):
        return None


def _not_after(der: bytes) -> float:
    _, at, _ = _element(der, 0)  # Certificate
    _, at, _ = _element(der, at)  # TBSCertificate
    kind, _, after = _element(der, at)
    if kind == _VERSION:
        at = after
    for expected in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, algorithm, issuer
        kind, _, at = _element(der, at)
        if kind != expected:
            raise ValueError("not a certificate")
    _, at, _ = _element(der, at)  # Validity
    _, _, at = _element(der, at)  # notBefore
    kind, start, end = _element(der, at)
    text = der[start:end].decode("ascii")
    if kind == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif kind != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _element(der: bytes, at: int) -> Tuple[int, int, int]:
    """Tag of the DER element at `at`, and where its content starts and ends."""
    size, start = der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(der[start : start + count], "big"), start + count
    if start + size > len(der):
        raise ValueError("cut off")
    return der[at], start, start + size


def _day(unix: Optional[float]) -> str:
    return "unknown" if unix is None else time.strftime("%Y-%m-%d", time.gmtime(unix))


# --- one client ----------------------------------------------------------------------------------------------------


class TlsError(Exception):
    """The client broke TLS, or there is none that both sides speak. `Session.outgoing` may hold an alert for it."""


class Session:
    """One client's TLS: bytes of the wire in, plaintext out, and the other way round.

    `more`: another `receive()` may find plaintext in what is already here. `ended`: the client said that it goes.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "ended", "more")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.ended = self.more = False

    def handshake(self, data: bytes) -> bool:
        """Take bytes of the handshake; True when it is done: then more data may be here. Raises TlsError."""
        self._incoming.write(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (OSError, ValueError) as error:
            raise TlsError(str(error)) from None
        self.more = True
        return True

    def receive(self, data: bytes = b"", most: int = MOST) -> List[bytes]:
        """The plaintext of up to `most` records. Raises TlsError."""
        self._incoming.write(data)
        self.more = False
        found: List[bytes] = []
        try:
            while len(found) < most:
                plain = self._object.read(RECORD)
                if not plain:  # close_notify
                    self.ended = True
                    return found
                found.append(plain)
            self.more = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except (OSError, ValueError) as error:
            if not found:
                raise TlsError(str(error)) from None
            self.more = True  # what came before counts; the next call raises
        return found

    def seal(self, data: bytes) -> None:
        """Encrypt; `outgoing` has it. Raises TlsError."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._object.write(view) :]
        except (OSError, ValueError) as error:
            raise TlsError(str(error)) from None

    def outgoing(self) -> bytes:
        """What is to go to the client now."""
        return self._outgoing.read()

    @property
    def agreed(self) -> Optional[Tuple[str, Optional[str]]]:
        """(protocol version, ALPN) once the handshake is done."""
        version = self._object.version()
        return None if version is None else (version, self._object.selected_alpn_protocol())
