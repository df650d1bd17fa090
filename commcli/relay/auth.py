"""Who may allocate: long-term credentials (RFC 8489 section 9.2), stateless nonces, and a lid on refusals.

Two kinds of user: configured `name: password`, and time-limited `EXPIRY:userid`, whose password is
base64(HMAC-SHA1(shared secret, username)) (draft-uberti-behave-turn-rest). Several secrets hold at once, so that one
can be rotated without a call lost.

Nothing is remembered of anybody who has not authenticated: a nonce is a MAC, and the lid is a table of fixed size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import socket
from typing import Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Union

from commcli.relay import stun
from commcli.relay.stun import Addr

RandomBytes = Callable[[int], bytes]

# The direct road: a user id that ends so asks for an allocation whose packets bypass the overlay.
DIRECT_SUFFIX = "+direct"
# An expiry that is further away than any issuer hands out is an issuer's bug or an attacker's gift: not honoured.
MAX_CREDENTIAL_LIFETIME_S = 30 * 86400
MAX_USERNAME_BYTES = 508  # RFC 8489 section 14.3


class Login(NamedTuple):
    """A request whose integrity was proved. `key` signs the reply."""

    username: str
    key: bytes

    @property
    def user(self) -> str:
        """The one whom quotas count."""
        return user_of(self.username)


class Denied(NamedTuple):
    """`code` 400, 401 or 438. `forged`: credentials were offered and were wrong (not a mere first request)."""

    code: int
    forged: bool = False


def user_of(username: str) -> str:
    """The name after the colon of a time-limited username, else all of it.

    Every renewal of a credential changes the expiry before the colon: a quota on the whole would count nothing.
    """
    return username if _expiry(username) is None else username.partition(":")[2]


def time_limited_password(secret: str, username: str) -> str:
    """The password of `EXPIRY:userid` under a shared secret: what an issuer of credentials hands out."""
    return base64.b64encode(hmac.digest(secret.encode(), username.encode(), "sha1")).decode()


def _expiry(username: str) -> Optional[int]:
    """Unix seconds before the colon; None if this is not a time-limited name."""
    digits, colon, _ = username.partition(":")
    if colon and digits.isascii() and digits.isdigit() and len(digits) <= 12:
        return int(digits)
    return None


class Authenticator:
    """Checks requests. State: keys of the configured users, the shared secrets, and its own nonce key."""

    def __init__(
        self,
        realm: str,
        random_bytes: RandomBytes,
        users: Mapping[str, str],
        secrets: Iterable[str],
        nonce_lifetime_s: float = 3600.0,
    ) -> None:
        self.realm = realm
        self.nonces = Nonces(random_bytes(32), nonce_lifetime_s)
        # The key of unknown users: they cost what known ones cost, and never match.
        self._nobody = random_bytes(16)
        self._keys: Dict[str, bytes] = {}
        self._secrets: List[str] = []
        self.set_credentials(users, secrets)

    def set_credentials(self, users: Mapping[str, str], secrets: Iterable[str]) -> None:
        """Replace users and secrets; nonces that clients hold stay good, so a reload costs no call."""
        if "" in users:
            raise ValueError("a user needs a name")  # "" stands for names that can not be read, see _text
        self._keys = {
            name: stun.long_term_key(name, self.realm, password) for name, password in users.items()
        }
        self._secrets = list(secrets)

    def check(
        self, request: stun.Message, client: Addr, now: float, unix: float, held_by: Optional[str] = None
    ) -> Union[Login, Denied]:
        """Judge a request, in the order of RFC 8489 section 9.2.4.

        `held_by` is the username of the client's live allocation: its credential may have expired since, because
        the expiry limits who comes in, and a call must not drop in the middle for it. Its secret must still hold.
        """
        if request.integrity is None:
            return Denied(401)
        name, nonce = request.first(stun.USERNAME), request.first(stun.NONCE)
        if name is None or nonce is None or request.first(stun.REALM) is None:
            return Denied(400)
        if not self.nonces.valid(nonce, client, now):
            return Denied(438)
        username = _text(name)
        key = self._matching_key(request, username)
        if key is None or not self._current(username, unix, held_by):
            return Denied(401, forged=True)
        return Login(username, key)

    def _matching_key(self, request: stun.Message, username: str) -> Optional[bytes]:
        """The key that signed the request. An unknown user costs one comparison too, as a known one does."""
        matching = None
        for key in self._candidates(username):
            if request.signed_by(key) and key is not self._nobody:
                matching = key  # no early exit: which secret it was is nobody's business
        return matching

    def _candidates(self, username: str) -> List[bytes]:
        if username in self._keys:
            return [self._keys[username]]
        if self._secrets and _expiry(username) is not None:
            return [
                stun.long_term_key(username, self.realm, time_limited_password(secret, username))
                for secret in self._secrets
            ]
        return [self._nobody]

    def _current(self, username: str, unix: float, held_by: Optional[str]) -> bool:
        expiry = None if username in self._keys else _expiry(username)
        if expiry is None or username == held_by:
            return True
        return unix < expiry <= unix + MAX_CREDENTIAL_LIFETIME_S


def _text(name: bytes) -> str:
    """A USERNAME as text; what can not be one becomes a name that nobody has."""
    try:
        return name.decode() if len(name) <= MAX_USERNAME_BYTES else ""
    except UnicodeDecodeError:
        return ""


class Nonces:
    """Nonces that need no memory: 3 bytes of time and a MAC over it and the client's address, as 12 characters.

    Short, because the nonce rides in the 401 that anybody can ask for in another's name. 48 bits of MAC are plenty:
    a forged nonce gives nothing without the password; the MAC only keeps a client from choosing its own.
    """

    # Seconds (194 days) until the time field comes round.
    _SPAN = 1 << 24

    def __init__(self, key: bytes, lifetime_s: float) -> None:
        self._key = key
        self._lifetime_s = lifetime_s

    def issue(self, client: Addr, now: float) -> bytes:
        """A nonce for this client address, good for `lifetime_s` from `now` (monotonic seconds)."""
        stamp = (int(now) % self._SPAN).to_bytes(3, "big")
        return base64.b64encode(stamp + self._mac(stamp, client))

    def valid(self, nonce: bytes, client: Addr, now: float) -> bool:
        """Did we issue this nonce to this address, lately?"""
        try:
            raw = base64.b64decode(nonce, validate=True)
        except (binascii.Error, ValueError):
            return False
        stamp, mac = raw[:3], raw[3:]
        age_s = (int(now) - int.from_bytes(stamp, "big")) % self._SPAN
        return hmac.compare_digest(mac, self._mac(stamp, client)) and age_s <= self._lifetime_s

    def _mac(self, stamp: bytes, client: Addr) -> bytes:
        bound = stamp + f"{client[0]} {client[1]}".encode()
        return hashlib.blake2s(bound, key=self._key, digest_size=6).digest()


class Throttle:
    """So many refusals a source address and second, then silence: a reflector must not pay.

    Sources are hashed into a table of fixed size under a secret key: no number of forged sources makes it grow, and
    nobody can aim at another's slot but by using the other's address.
    """

    SLOTS = 16384

    def __init__(self, key: bytes, per_second: int) -> None:
        if not 0 < per_second < 256:
            raise ValueError("per_second must be 1..255")
        self._key = key
        self._per_second = per_second
        self._second = 0
        self._counts = bytearray(self.SLOTS)

    def allows(self, ip: str, now: float) -> bool:
        """May one more refusal go to `ip` (an IPv6 source is its /64) in this second? Counts it if so."""
        if int(now) != self._second:
            self._second = int(now)
            self._counts = bytearray(self.SLOTS)
        slot = self._slot(ip)
        if self._counts[slot] >= self._per_second:
            return False
        self._counts[slot] += 1
        return True

    def _slot(self, ip: str) -> int:
        source = socket.inet_pton(socket.AF_INET6, ip.partition("%")[0])[:8] if ":" in ip else ip.encode()
        digest = hashlib.blake2s(source, key=self._key, digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.SLOTS
