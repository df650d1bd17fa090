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
import unicodedata
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Literal,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from commcli.relay.turn import road, stun
from commcli.relay.turn.stun import Attribute

RandomBytes = Callable[[int], bytes]
PasswordAlgorithms = Literal["auto", "md5", "always"]
# The client's side of a 5-tuple: (ip, port) over UDP, (ip, port, "tcp" or "tls") on a stream.
Client = Tuple[Any, ...]
STREAM_CLIENT = 3  # elements

# An expiry that is further away than any issuer hands out is an issuer's bug or an attacker's gift: not honoured.
MAX_CREDENTIAL_LIFETIME_S = 30 * 86400
MAX_USERNAME_BYTES = 508  # RFC 8489 section 14.3

# PASSWORD-ALGORITHM: a number and the length of parameters, which these two have not (RFC 8489 sections 14.12, 18.5).
MD5, SHA256 = b"\0\1\0\0", b"\0\2\0\0"
_OFFER: Attribute = (stun.PASSWORD_ALGORITHMS, SHA256 + MD5)  # the better one first

# Security features (RFC 8489 section 18.1): bit 0 is the leftmost of 24.
PASSWORD_ALGORITHMS_BIT = 1 << 23
USERNAME_ANONYMITY_BIT = 1 << 22
NONCE_SIZE, NONCE_COOKIE_SIZE = 12, 13
_COOKIES = {0: b""}
for _bits in (PASSWORD_ALGORITHMS_BIT, PASSWORD_ALGORITHMS_BIT | USERNAME_ANONYMITY_BIT):
    _COOKIES[_bits] = b"obMatJos2" + base64.b64encode(_bits.to_bytes(3, "big"))
_FEATURES = {cookie: features for features, cookie in _COOKIES.items()}


class Keys(NamedTuple):
    """A user's long-term keys; `keys[sha256]` is the one of an algorithm."""

    md5: bytes
    sha256: bytes


class Login(NamedTuple):
    """A request whose integrity was proved. `key` signs the reply, with MESSAGE-INTEGRITY-SHA256 if `sha256`."""

    username: str
    key: bytes
    sha256: bool = False

    @property
    def user(self) -> str:
        """The one whom quotas count."""
        return user_of(self.username)

    @property
    def road(self) -> road.Road:
        """How this user's packets are to travel."""
        return road_of(self.username)


class Denied(NamedTuple):
    """`code` 400, 401 or 438. `forged`: credentials were offered and were wrong (not a mere first request)."""

    code: int
    forged: bool = False


def user_of(username: str) -> str:
    """The name after the colon of a time-limited username, else all of it; without what asks for a road.

    Every renewal of a credential changes the expiry before the colon: a quota on the whole would count nothing.
    """
    return road.split(_userid(username))[0]


def road_of(username: str) -> road.Road:
    """How the packets of this user are to travel."""
    return road.of(_userid(username))


def _userid(username: str) -> str:
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
    """Checks requests. State: keys of the configured users, the shared secrets, and its own nonce key.

    `password_algorithms` may be replaced at any time; it says when a challenge offers SHA-256 beside MD5:

    - "auto": on streams always; over UDP only to a request as long as the reply, so that no reply amplifies. On the
      path, someone who asks in a client's name gets a nonce without the offer, so over UDP this stops no bid-down.
    - "always": over UDP too. A challenge is then some 90 bytes long, whatever asked for it.
    - "md5": never.
    """

    def __init__(
        self,
        realm: str,
        random_bytes: RandomBytes,
        users: Mapping[str, str],
        secrets: Iterable[str],
        nonce_lifetime_s: float = 3600.0,
        password_algorithms: PasswordAlgorithms = "auto",
        revoked: FrozenSet[str] = frozenset(),
    ) -> None:
        self.realm = opaque_string(realm)
        self.password_algorithms = password_algorithms
        self.nonces = Nonces(random_bytes(32), nonce_lifetime_s)
        # The keys of unknown users: they cost what known ones cost, and never match.
        self._nobody = Keys(random_bytes(16), random_bytes(32))
        self._keys: Dict[str, Keys] = {}
        self._by_hash: Dict[bytes, str] = {}
        self._secrets: List[str] = []
        self._revoked: Dict[str, List[FrozenSet[str]]] = {}  # user -> the words of what is revoked of it
        self._features = 0
        self._realm_attribute: Attribute = (stun.REALM, self.realm.encode())
        self._offer_size = _challenge_size(self._realm_attribute)
        self.set_credentials(users, secrets, revoked)

    def set_credentials(
        self, users: Mapping[str, str], secrets: Iterable[str], revoked: FrozenSet[str] = frozenset()
    ) -> None:
        """Replace users, secrets and revoked user ids; nonces that clients hold stay good, so a reload costs no call.

        A revoked id is refused as a wrong password is, with its calls: see `revokes`.
        """
        if "" in users:
            raise ValueError("a user needs a name")  # "" stands for names that can not be read, see _text
        plain = {opaque_string(name): opaque_string(password) for name, password in users.items()}
        self._keys = {
            name: Keys(*(stun.long_term_key(name, self.realm, password, sha256) for sha256 in (False, True)))
            for name, password in plain.items()
        }
        self._by_hash = {stun.userhash(name, self.realm): name for name in plain}
        self._secrets = list(secrets)
        self._revoked = {}
        for userid in revoked:
            user, words = road.split(opaque_string(userid.strip()))
            self._revoked.setdefault(user, []).append(words)
        # A client that is told of username anonymity must send USERHASH: only names in the table can be told by it.
        self._features = PASSWORD_ALGORITHMS_BIT | (0 if self._secrets else USERNAME_ANONYMITY_BIT)

    def revokes(self, username: str) -> bool:
        """Is this user not to be served any more, nor its calls kept?

        A name goes with all its roads ("probe" with "probe+plain"), and one with a road ("probe+plain") with whatever
        else the user asks for beside that ("probe+via=sg-1+plain").
        """
        user, words = road.split(_userid(username))
        return any(revoked <= words for revoked in self._revoked.get(user, ()))

    def challenge(self, client: Client, now: float, request_size: int) -> List[Attribute]:
        """What a 401 or 438 carries after its ERROR-CODE, for a request of so many bytes.

        REALM and NONCE, and if it is offered PASSWORD-ALGORITHMS, with the nonce cookie that vouches for it (RFC 8489
        section 9.2.1). Without, the nonce has no cookie either: those 13 bytes would go into every spoofed 401.
        """
        mode = self.password_algorithms
        if mode != "md5" and (
            mode == "always" or len(client) == STREAM_CLIENT or request_size >= self._offer_size
        ):
            nonce = self.nonces.issue(client, now, self._features)
            return [self._realm_attribute, (stun.NONCE, nonce), _OFFER]
        return [self._realm_attribute, (stun.NONCE, self.nonces.issue(client, now))]

    def check(
        self, request: stun.Message, client: Client, now: float, unix: float, held_by: Optional[str] = None
    ) -> Union[Login, Denied]:
        """Judge a request (RFC 8489 section 9.2.4); the nonce first, because a forged one proves nothing.

        `held_by` is the username of the client's live allocation: its credential may have expired since, because
        the expiry limits who comes in, and a call must not drop in the middle for it. Its secret must still hold.
        """
        sha256 = request.integrity_sha256 is not None
        if request.integrity is None and not sha256:
            return Denied(401)
        name, hashed = request.first(stun.USERNAME), request.first(stun.USERHASH)
        nonce = request.first(stun.NONCE)
        if (name is None and hashed is None) or nonce is None or request.first(stun.REALM) is None:
            return Denied(400)
        features = self.nonces.features(nonce, client, now)
        if features is None:
            return Denied(438)
        algorithm = _algorithm(request, features)
        if algorithm is None:
            return Denied(400)
        username = self._by_hash.get(hashed or b"", "") if name is None else _text(name)
        key = self._matching_key(request, username, algorithm == SHA256, unix, held_by)
        # Work first, verdict after: who is revoked takes as long as who is unknown.
        if self.revokes(username) or key is None:
            return Denied(401, forged=True)
        # RFC 8489 section 9.2.4: the reply is signed with SHA-256 for those who chose their algorithm. For those who
        # did not but signed so, too: a client may take a weaker reply than its request for a forgery.
        return Login(username, key, sha256 or request.first(stun.PASSWORD_ALGORITHM) is not None)

    def _matching_key(
        self, request: stun.Message, username: str, sha256: bool, unix: float, held_by: Optional[str]
    ) -> Optional[bytes]:
        """The key that signed the request, if it is good now.

        The work is the same for every name of the same form: one table key (an unknown user's if need be) and, if
        the name has an expiry, one key for each shared secret, expired or not.
        """
        by_sha256 = request.integrity_sha256 is not None
        matching = None
        known = self._keys.get(username)
        key = (known or self._nobody)[sha256]
        if request.signed_by(key, by_sha256) and known is not None:
            matching = key
        expiry = _expiry(username)
        if expiry is None:
            return matching
        current = username == held_by or unix < expiry <= unix + MAX_CREDENTIAL_LIFETIME_S
        for secret in self._secrets:
            key = stun.long_term_key(username, self.realm, time_limited_password(secret, username), sha256)
            if request.signed_by(key, by_sha256) and current:
                matching = key  # no early exit: which secret it was is nobody's business
        return matching


def _algorithm(request: stun.Message, features: int) -> Optional[bytes]:
    """The password algorithm that the request is to be judged by; None if it smells of a bid-down (then 400).

    RFC 8489 section 9.2.4: a client that says nothing is an old one and means MD5. One that does must prove, under
    its signature, that the list it chose from is the one that we sent.
    """
    chosen, offered = request.first(stun.PASSWORD_ALGORITHM), request.first(stun.PASSWORD_ALGORITHMS)
    if chosen is None and offered is None:
        return MD5
    must_echo = features & PASSWORD_ALGORITHMS_BIT or offered is not None
    if chosen not in (MD5, SHA256) or (must_echo and offered != _OFFER[1]):
        return None
    return chosen


def _challenge_size(realm: Attribute) -> int:
    """Bytes of a 401 that offers algorithms: a header, ERROR-CODE, what `challenge` says, and FINGERPRINT."""
    nonce = (stun.NONCE, bytes(NONCE_COOKIE_SIZE + NONCE_SIZE))
    error = (stun.ERROR_CODE, stun.pack_error(401))
    return len(stun.build(0, stun.ERROR, bytes(12), [error, realm, nonce, _OFFER], fingerprint=True))


def _text(name: bytes) -> str:
    """A USERNAME as text; what can not be one becomes a name that nobody has."""
    try:
        return name.decode() if len(name) <= MAX_USERNAME_BYTES else ""
    except UnicodeDecodeError:
        return ""


def opaque_string(text: str) -> str:
    """The OpaqueString form of a name, realm or password (RFC 8265 section 4.2): as clients hash it."""
    if text.isascii():
        return text
    spaced = "".join(" " if unicodedata.category(letter) == "Zs" else letter for letter in text)
    return unicodedata.normalize("NFC", spaced)


class Nonces:
    """Nonces that need no memory: 3 bytes of time and a MAC over it and the client's address, as 12 characters.

    Short, because the nonce rides in the 401 that anybody can ask for in another's name. 48 bits of MAC are plenty:
    a forged nonce gives nothing without the password; the MAC only keeps a client from choosing its own.

    Before it stands a nonce cookie (RFC 8489 section 9.2) if there are security features to tell of. The MAC covers
    it: who clears a bit on the way has made a nonce that is not ours.
    """

    # Seconds (194 days) until the time field comes round.
    _SPAN = 1 << 24

    def __init__(self, key: bytes, lifetime_s: float) -> None:
        self._key = key
        self.lifetime_s = lifetime_s
        # How long this machine has been up is nobody's business.
        self._offset = int.from_bytes(hashlib.blake2s(b"time", key=key, digest_size=3).digest(), "big")

    def kept(self, now: float) -> Dict[str, Any]:
        """What makes another process take our nonces for its own (JSON): see `take`."""
        return {"key": self._key.hex(), "stamp": (int(now) + self._offset) % self._SPAN}

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on with the nonces of another process, whose `kept` this is."""
        self._key = bytes.fromhex(kept["key"])
        self._offset = int(kept["stamp"]) - int(now)

    def issue(self, client: Client, now: float, features: int = 0) -> bytes:
        """A nonce for this client (its transport too), good for `lifetime_s` from `now` (monotonic seconds)."""
        cookie = _COOKIES[features]
        stamp = ((int(now) + self._offset) % self._SPAN).to_bytes(3, "big")
        return cookie + base64.b64encode(stamp + self._mac(cookie, stamp, client))

    def valid(self, nonce: bytes, client: Client, now: float) -> bool:
        """Did we issue this nonce to this client, lately?"""
        return self.features(nonce, client, now) is not None

    def features(self, nonce: bytes, client: Client, now: float) -> Optional[int]:
        """The security features that this nonce told the client of; None if it is not ours, or not the client's, or
        too old."""
        cookie = nonce[:-NONCE_SIZE]
        features = _FEATURES.get(cookie)
        if features is None:
            return None
        try:
            raw = base64.b64decode(nonce[-NONCE_SIZE:], validate=True)
        except (binascii.Error, ValueError):
            return None
        stamp, mac = raw[:3], raw[3:]
        age_s = (int(now) + self._offset - int.from_bytes(stamp, "big")) % self._SPAN
        ours = hmac.compare_digest(mac, self._mac(cookie, stamp, client))
        return features if ours and age_s <= self.lifetime_s else None

    def _mac(self, cookie: bytes, stamp: bytes, client: Client) -> bytes:
        bound = cookie + stamp + repr(client).encode()
        return hashlib.blake2s(bound, key=self._key, digest_size=6).digest()


class Throttle:
    """So many refusals a source address and second, then silence: a reflector must not pay.

    Sources are hashed into a table of fixed size under a secret key: no number of forged sources makes it grow, and
    nobody can aim at another's slot but by using the other's address.
    """

    # A forged flood hits all slots alike. So many that at 100 000 a second none is full, and an honest client whom
    # chance puts beside forged sources still gets its challenge; few enough (128 kB) to be wiped every second.
    SLOTS = 131072

    def __init__(self, key: bytes, per_second: int) -> None:
        self._key = key
        self.per_second = per_second
        self._second = 0
        self._counts = bytearray(self.SLOTS)

    @property
    def per_second(self) -> int:
        """Refusals for one source, 1 to 255. Raises ValueError when it is set to anything else."""
        return self._per_second

    @per_second.setter
    def per_second(self, per_second: int) -> None:
        if not 0 < per_second < 256:
            raise ValueError("per_second must be 1..255")
        self._per_second = per_second

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
