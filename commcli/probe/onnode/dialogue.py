"""A TURN client's words for one allocation, from the bare Allocate to the Refresh that gives it back (RFC 8656). Pure.

Bytes in, bytes out; the caller has the socket, the clock and the retransmissions. An answer that is not to the last
request, or that is not signed by who knows the password, is as good as none (RFC 8489 section 9.2.5).
"""

from __future__ import annotations

from collections.abc import Callable

from commcli.relay.turn import stun

UDP_TRANSPORT = 17  # REQUESTED-TRANSPORT: what the relayed address speaks (RFC 8656 section 18.8)
# PASSWORD-ALGORITHM: number and length of parameters (RFC 8489 section 18.5).
SHA256 = b"\0\2\0\0"
# A nonce that was stale twice in a row is no nonce.
MOST_CHALLENGES = 3


class Dialogue:
    """One allocation asked for, had and given back.

    `state`: asked, challenged, allocated, ended or refused; then `code` and `reason` are what the server said.
    `relayed` is the address that was allocated, `mapped` ours as the server sees it, `alternate` where it sends us.
    """

    def __init__(self, username: str, password: str, random_bytes: Callable[[int], bytes]) -> None:
        self.state = "asked"
        self.code: int | None = None
        self.reason = ""
        self.relayed: stun.Addr | None = None
        self.mapped: stun.Addr | None = None
        self.alternate: stun.Addr | None = None
        self._username, self._password = username, password
        self._random = random_bytes
        self._transaction = b""
        self._method = stun.ALLOCATE
        self._challenges = 0
        self._realm: bytes | None = None
        self._login: list[stun.Attribute] = []
        self._key: bytes | None = None
        self._sha256 = False

    @property
    def held(self) -> bool:
        """Is there an allocation that nobody has given back?"""
        return self.state == "allocated"

    def begin(self) -> bytes:
        """The first request: an Allocate without credentials, which every server answers with 401."""
        return self._request(stun.ALLOCATE, self._wish())

    def end(self) -> bytes:
        """The request that gives the allocation back (RFC 8656 section 8.1)."""
        return self._request(stun.REFRESH, [(stun.LIFETIME, bytes(4))])

    def receive(self, data: bytes) -> tuple[bool, bytes | None]:
        """(whether this answers the last request, the request that is to follow it at once)."""
        try:
            message = stun.parse(data)
        except stun.StunError:
            return False, None
        if message.transaction != self._transaction or message.method != self._method:
            return False, None
        try:
            if message.kind == stun.SUCCESS:
                return self._succeed(message), None
            return (True, self._fail(message)) if message.kind == stun.ERROR else (False, None)
        except stun.StunError as error:
            self._refused(None, f"answers with a malformed message: {error}")
            return True, None

    def _wish(self) -> list[stun.Attribute]:
        return [(stun.REQUESTED_TRANSPORT, bytes([UDP_TRANSPORT, 0, 0, 0]))]

    def _request(self, method: int, attributes: list[stun.Attribute]) -> bytes:
        self._transaction, self._method = self._random(stun.TRANSACTION_SIZE), method
        return stun.build(
            method,
            stun.REQUEST,
            self._transaction,
            [*attributes, *self._login],
            key=self._key,
            sha256=self._sha256,
            fingerprint=True,
        )

    def _succeed(self, message: stun.Message) -> bool:
        if self._key is None or not message.signed_by(self._key, self._sha256):
            return False
        if message.method == stun.REFRESH:
            self.state = "ended"
            return True
        relayed = message.first(stun.XOR_RELAYED_ADDRESS)
        if relayed is None:
            raise stun.StunError("no relayed address")
        self.relayed = stun.unpack_address(relayed, message.transaction)
        mapped = message.first(stun.XOR_MAPPED_ADDRESS)
        self.mapped = None if mapped is None else stun.unpack_address(mapped, message.transaction)
        self.state = "allocated"
        return True

    def _fail(self, message: stun.Message) -> bytes | None:
        code, reason = stun.unpack_error(message.first(stun.ERROR_CODE) or b"")
        challenge = (code == 401 and self._key is None) or code == 438
        if challenge and self._challenges < MOST_CHALLENGES:
            self._challenges += 1
            self._take_challenge(message)
            if message.method == stun.REFRESH:
                return self.end()
            self.state = "challenged"
            return self._request(stun.ALLOCATE, self._wish())
        alternate = message.first(stun.ALTERNATE_SERVER)
        self.alternate = None if alternate is None else stun.unpack_address(alternate)
        self._refused(code, reason or stun.REASONS.get(code, ""))
        return None

    def _refused(self, code: int | None, reason: str) -> None:
        self.state, self.code, self.reason = "refused", code, reason

    def _take_challenge(self, message: stun.Message) -> None:
        """Log in with what the server says (RFC 8489 section 9.2.5); with SHA-256 where it is offered."""
        realm, nonce = message.first(stun.REALM) or self._realm, message.first(stun.NONCE)
        if nonce is None or realm is None:
            raise stun.StunError("a challenge without realm or nonce")
        offered = message.first(stun.PASSWORD_ALGORITHMS)
        self._realm, self._sha256 = realm, offered is not None and SHA256 in _each(offered)
        name = realm.decode("utf-8", "replace")
        self._key = stun.long_term_key(self._username, name, self._password, self._sha256)
        self._login = [(stun.USERNAME, self._username.encode()), (stun.REALM, realm), (stun.NONCE, nonce)]
        if self._sha256 and offered is not None:
            # The list is echoed under the signature: so the server sees whether somebody shortened it on the way.
            self._login += [(stun.PASSWORD_ALGORITHMS, offered), (stun.PASSWORD_ALGORITHM, SHA256)]


def _each(offered: bytes) -> list[bytes]:
    """The entries of PASSWORD-ALGORITHMS, as far as none has parameters."""
    return [offered[at : at + 4] for at in range(0, len(offered), 4)]
