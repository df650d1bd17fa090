"""The TURN server (RFC 8656 over UDP) as a value machine: datagrams and the time in, actions out.

It opens no socket (`RelaySockets` does), reads no clock, and `handle` never raises, whatever the bytes are: a request
is answered, anything else that leads nowhere is counted in `drops` under its reason.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List, Literal, Mapping, Optional, Protocol, Sequence, Tuple, Union

from commcli.relay import stun
from commcli.relay.allocation import CHANNEL_HIGH, CHANNEL_LOW, Allocation
from commcli.relay.auth import DIRECT_SUFFIX, Authenticator, Denied, Login, RandomBytes, Throttle
from commcli.relay.peers import PeerPolicy
from commcli.relay.request import (
    KNOWN,
    Rejected,
    Request,
    check_transport,
    family,
    lifetime_s,
    refuse_unknown,
    relayed_address,
)
from commcli.relay.stun import Addr, Attribute, Message

# What the socket side is to do: send bytes to a client, or a payload from an allocation to a peer.
Action = Union[Tuple[Literal["client"], Addr, bytes], Tuple[Literal["peer"], Allocation, Addr, bytes]]

# What still fits a UDP datagram with a Data indication around it: 20 + 24 (an IPv6 peer) + 4, padded to fours.
MAX_PAYLOAD = (65507 - 48) & ~3
PRUNE_EVERY_S = 30.0
# DONT-FRAGMENT: Linux sets the bit on every datagram that fits the path's MTU, asked or not, and splits what does not.
# So what a Send asks not to split is dropped if it would not fit Ethernet's 1500 bytes.
MAX_UNFRAGMENTED = {stun.IPV4: 1472, stun.IPV6: 1452}
# Ports are random, so half are even: this many odd ones in a row mean that there is no even one to be had.
EVEN_PORT_TRIES = 20

_channel_header = struct.Struct("!HH")


class RelaySockets(Protocol):
    """The pool of relayed transport addresses."""

    def open(self) -> Optional[Addr]:
        """Bind an unpredictable free port of the pool; its address, or None when there is none left."""

    def close(self, relay: Addr) -> None:
        """Give the port back."""


@dataclass(frozen=True)
class TurnConfig:
    """Credentials and limits. `users` are name -> password, `secrets` the shared secrets of time-limited users.

    Keep `realm` within 16 bytes: it rides in every 401, which is then 64 bytes at most (no amplifier for reflection).
    """

    realm: str
    users: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    relay_family: int = stun.IPV4  # of every address that RelaySockets opens
    default_lifetime_s: int = 600
    max_lifetime_s: int = 3600
    nonce_lifetime_s: float = 3600.0
    user_quota: Optional[int] = None  # allocations of one user (the name after the colon)
    total_quota: Optional[int] = None
    refusals_per_second: int = 10  # unauthenticated refusals for each source address


class Server:
    """One TURN server. `client` stands for the 5-tuple: it is the key of an allocation, and opaque but for its IP.

    Public state, for the loop that carries the packets: `allocations` (by client), `by_relay` (by relayed address),
    `policy` (changed by `obey`), `alternate` (replace it freely), `drain`, `drops` by reason, and `counters`.
    """

    def __init__(
        self, config: TurnConfig, sockets: RelaySockets, policy: PeerPolicy, random_bytes: RandomBytes
    ) -> None:
        self.config = config
        self.policy = policy
        self.auth = Authenticator(
            config.realm, random_bytes, config.users, config.secrets, config.nonce_lifetime_s
        )
        self.allocations: Dict[Addr, Allocation] = {}
        self.by_relay: Dict[Addr, Allocation] = {}
        self.drain = False
        self.alternate: Optional[Addr] = None  # where a drained server sends new clients (300), if anywhere
        self.drops: Counter[str] = Counter()
        # Also "error_CODE": replies by error code. The three names are there from the start: 0 is an answer too.
        self.counters: Counter[str] = Counter(auth_ok=0, auth_failed=0, allocations_made=0)
        self._sockets = sockets
        self._random_bytes = random_bytes
        self._throttle = Throttle(random_bytes(32), config.refusals_per_second)
        self._users: Counter[str] = Counter()  # live allocations by user
        self._prune_at = 0.0
        self._handlers = {
            stun.ALLOCATE: self._allocate,
            stun.REFRESH: self._refresh,
            stun.CREATE_PERMISSION: self._create_permission,
            stun.CHANNEL_BIND: self._channel_bind,
        }

    # The data path: ChannelData in, peer data out. Table look-ups only.

    def handle(self, data: bytes, client: Addr, now: float, unix: float) -> List[Action]:
        """What to do about one datagram from a client. `now`: monotonic seconds, `unix`: wall clock seconds."""
        if not data or data[0] & 0xC0 != 0x40:
            return self._stun(data, client, now, unix)
        # ChannelData (RFC 8656 section 12.6): UDP may or may not pad it.
        allocation = self.allocations.get(client)
        if allocation is None or allocation.expires <= now:
            return self._drop("no_allocation")
        if len(data) < 4:
            return self._drop("channel_length")
        number, size = _channel_header.unpack_from(data)
        bound = allocation.channels.get(number)
        if bound is None or bound[1] <= now:
            return self._drop("no_channel")
        if len(data) - 4 < size:
            return self._drop("channel_length")
        allocation.packets_in += 1
        allocation.bytes_in += size
        return [("peer", allocation, bound[0], data[4 : 4 + size])]

    def from_peer(self, allocation: Allocation, peer: Addr, payload: bytes, now: float) -> Optional[bytes]:
        """A peer's packet as bytes for `allocation.client`; None if it is dropped (counted).

        ChannelData if the peer has a channel, else a Data indication (RFC 8656 sections 11.6 and 12.7).
        """
        size = len(payload)
        if allocation.permissions.get(peer[0], now) <= now:
            self.drops["no_permission"] += 1
            return None
        if allocation.expires <= now or size > MAX_PAYLOAD:
            self.drops["oversize" if size > MAX_PAYLOAD else "no_allocation"] += 1
            return None
        allocation.packets_out += 1
        allocation.bytes_out += size
        number = allocation.numbers.get(peer)
        if number is not None and allocation.channels[number][1] > now:
            return _channel_header.pack(number, size) + payload
        transaction = self._random_bytes(stun.TRANSACTION_SIZE)
        attributes = [(stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)), (stun.DATA, payload)]
        return stun.build(stun.DATA_METHOD, stun.INDICATION, transaction, attributes)

    def _drop(self, reason: str) -> List[Action]:
        self.drops[reason] += 1
        return []

    # STUN messages

    def _stun(self, data: bytes, client: Addr, now: float, unix: float) -> List[Action]:
        try:
            message = stun.parse(data)
        except stun.StunError as error:
            return self._drop(f"stun_{error}".replace(" ", "_"))
        if message.kind == stun.REQUEST:
            reply = self._request(message, client, now, unix)
            return [("client", client, reply)] if reply else []
        if message.kind == stun.INDICATION and message.method == stun.SEND:
            return self._send(message, client, now)
        if message.kind == stun.INDICATION and message.method == stun.BINDING:
            return []  # a keepalive (RFC 8489 section 6.3.2): it did its work on the way
        return self._drop("stun_unexpected")

    def _request(self, message: Message, client: Addr, now: float, unix: float) -> Optional[bytes]:
        if message.method == stun.BINDING:
            return self._binding(message, client, now)
        handler = self._handlers.get(message.method)
        if handler is None:
            self.drops["stun_method"] += 1
            return None
        holder = self._live(client, now)
        login = self.auth.check(message, client, now, unix, holder.username if holder else None)
        if isinstance(login, Denied):
            return self._deny(login, message, client, now)
        self.counters["auth_ok"] += 1
        try:
            refuse_unknown(message)
            return handler(Request(message, client, login, now))
        except Rejected as rejected:
            return self._error(message, rejected, login.key)
        except stun.StunError:  # a malformed attribute
            return self._error(message, Rejected(400), login.key)

    def _binding(self, message: Message, client: Addr, now: float) -> Optional[bytes]:
        """Binding needs no credentials, so the answer is as short as it can be: 32 bytes to an IPv4 client."""
        try:
            refuse_unknown(message)
        except Rejected as rejected:
            return self._error(message, rejected, None) if self._may_refuse(client, now) else None
        return _success(message, None, _mapped(message, client))

    def _deny(self, denied: Denied, message: Message, client: Addr, now: float) -> Optional[bytes]:
        """401 and 438 carry a new nonce and the realm; nothing about why (RFC 8489 section 9.2.4)."""
        if denied.forged:
            self.counters["auth_failed"] += 1
        if not self._may_refuse(client, now):
            return None
        challenge: List[Attribute] = []
        if denied.code != 400:
            nonce = self.auth.nonces.issue(client, now)
            challenge = [(stun.REALM, self.config.realm.encode()), (stun.NONCE, nonce)]
        return self._error(message, Rejected(denied.code, *challenge), None)

    def _may_refuse(self, client: Addr, now: float) -> bool:
        allowed = self._throttle.allows(client[0], now)
        if not allowed:
            self.drops["refusal_silenced"] += 1
        return allowed

    def _error(self, message: Message, rejected: Rejected, key: Optional[bytes]) -> bytes:
        """An error reply. The reason phrase is for eyes, and bytes: only those who authenticated get it."""
        self.counters[f"error_{rejected.code}"] += 1
        phrase = stun.REASONS[rejected.code] if key is not None else ""
        attributes = [(stun.ERROR_CODE, stun.pack_error(rejected.code, phrase)), *rejected.attributes]
        return _reply(message, stun.ERROR, attributes, key)

    # Requests, in the order of RFC 8656

    def _allocate(self, request: Request) -> bytes:
        """Section 7.2, checks in its order."""
        existing = self._live(request.client, request.now)
        if existing is not None:
            # A retransmission is answered as the first was: the answer may have been lost, the allocation is not.
            if (existing.made_by, existing.username) == (request.message.transaction, request.login.username):
                return existing.reply
            raise Rejected(437)
        message, config = request.message, self.config
        check_transport(message)
        granted_s = lifetime_s(message, config.default_lifetime_s, config.max_lifetime_s)
        even, extra = relayed_address(message, config.relay_family)
        self._check_capacity(request.login)
        allocation = self._install(request, self._open(even), granted_s)
        attributes = [
            (stun.XOR_RELAYED_ADDRESS, stun.pack_address(allocation.relay, message.transaction)),
            (stun.LIFETIME, granted_s.to_bytes(4, "big")),
            *_mapped(message, request.client),
            *extra,
        ]
        allocation.reply = _success(message, request.login.key, attributes)
        return allocation.reply

    def _check_capacity(self, login: Login) -> None:
        if self.drain and self.alternate is not None:
            raise Rejected(300, (stun.ALTERNATE_SERVER, stun.pack_address(self.alternate)))
        quota, total = self.config.user_quota, self.config.total_quota
        if self.drain or (quota is not None and self._users[login.user] >= quota):
            raise Rejected(486)
        if total is not None and len(self.allocations) >= total:
            raise Rejected(508)

    def _open(self, even: bool) -> Addr:
        """A relayed address, with an even port if asked (EVEN-PORT); 508 if there is none."""
        odd: List[Addr] = []
        relay = self._sockets.open()
        while even and relay is not None and relay[1] & 1 and len(odd) < EVEN_PORT_TRIES:
            odd.append(relay)  # held until the end, so that the same one is not offered again
            relay = self._sockets.open()
        for address in odd:
            self._sockets.close(address)
        if relay is None:
            raise Rejected(508)
        if even and relay[1] & 1:
            self._sockets.close(relay)
            raise Rejected(508)
        return relay

    def _install(self, request: Request, relay: Addr, granted_s: int) -> Allocation:
        login = request.login
        allocation = Allocation(
            client=request.client,
            relay=relay,
            family=self.config.relay_family,
            username=login.username,
            user=login.user,
            direct=login.user.endswith(DIRECT_SUFFIX),
            made=request.now,
            made_by=request.message.transaction,
        )
        allocation.expires = request.now + granted_s
        self.allocations[request.client] = self.by_relay[relay] = allocation
        self._users[login.user] += 1
        self.counters["allocations_made"] += 1
        return allocation

    def _refresh(self, request: Request) -> bytes:
        """Section 8.2. A lifetime of 0 deletes."""
        allocation = self._own(request)
        message, config = request.message, self.config
        if family(message, stun.REQUESTED_ADDRESS_FAMILY) not in (0, allocation.family):
            raise Rejected(443)
        granted_s = lifetime_s(message, config.default_lifetime_s, config.max_lifetime_s)
        if message.first(stun.LIFETIME) == b"\0\0\0\0":
            granted_s = 0
            self._free(allocation)
        else:
            allocation.expires = request.now + granted_s
        return _success(message, request.login.key, [(stun.LIFETIME, granted_s.to_bytes(4, "big"))])

    def _create_permission(self, request: Request) -> bytes:
        """Section 10.2: all of the addresses or none; their ports do not count."""
        allocation = self._own(request)
        peers = [
            stun.unpack_address(value, request.message.transaction)
            for value in request.message.every(stun.XOR_PEER_ADDRESS)
        ]
        if not peers:
            raise Rejected(400)
        for ip, _ in peers:
            self._check_peer(allocation, ip, None)
        if not allocation.permit([ip for ip, _ in peers], request.now):
            raise Rejected(508)
        return _success(request.message, request.login.key)

    def _channel_bind(self, request: Request) -> bytes:
        """Section 12.2."""
        allocation = self._own(request)
        value = request.message.first(stun.CHANNEL_NUMBER)
        address = request.message.first(stun.XOR_PEER_ADDRESS)
        if value is None or address is None:
            raise Rejected(400)
        number = stun.unpack_u32(value) >> 16  # the low half is reserved
        peer = stun.unpack_address(address, request.message.transaction)
        if not CHANNEL_LOW <= number <= CHANNEL_HIGH:
            raise Rejected(400)
        if allocation.peer_of(number, request.now) not in (None, peer):
            raise Rejected(400)
        if allocation.channel_to(peer, request.now) not in (None, number):
            raise Rejected(400)
        self._check_peer(allocation, *peer)
        if not allocation.bind(number, peer, request.now):
            raise Rejected(508)
        return _success(request.message, request.login.key)

    def _send(self, message: Message, client: Addr, now: float) -> List[Action]:
        """A Send indication (section 11.4): nobody is told of a failure, so it is counted."""
        allocation = self._live(client, now)
        if allocation is None:
            return self._drop("no_allocation")
        value, payload = message.first(stun.XOR_PEER_ADDRESS), message.first(stun.DATA)
        if value is None or payload is None or message.unknown(KNOWN):
            return self._drop("send_malformed")
        try:
            peer = stun.unpack_address(value, message.transaction)
        except stun.StunError:
            return self._drop("send_malformed")
        if not allocation.permitted(peer[0], now):
            return self._drop("no_permission")
        # The permission is for the address; which of its ports are nobody's business is the policy's word.
        if not self.policy.permits(*peer):
            return self._drop("forbidden_peer")
        if (
            message.first(stun.DONT_FRAGMENT) is not None
            and len(payload) > MAX_UNFRAGMENTED[allocation.family]
        ):
            return self._drop("would_fragment")
        allocation.packets_in += 1
        allocation.bytes_in += len(payload)
        return [("peer", allocation, peer, payload)]

    # What requests share

    def _own(self, request: Request) -> Allocation:
        """The allocation of the request's 5-tuple; 441 if another user made it (section 5)."""
        allocation = self._live(request.client, request.now)
        if allocation is None:
            raise Rejected(437)
        if allocation.username != request.login.username:
            raise Rejected(441)
        return allocation

    def _check_peer(self, allocation: Allocation, ip: str, port: Optional[int]) -> None:
        if not self.policy.permits(ip, port):
            raise Rejected(403)
        if (stun.IPV6 if ":" in ip else stun.IPV4) != allocation.family:
            raise Rejected(443)

    def _live(self, client: Addr, now: float) -> Optional[Allocation]:
        """The client's allocation; one past its time is freed on the spot."""
        allocation = self.allocations.get(client)
        if allocation is not None and allocation.expires <= now:
            self._free(allocation)
            return None
        return allocation

    def _free(self, allocation: Allocation) -> None:
        del self.allocations[allocation.client]
        del self.by_relay[allocation.relay]
        allocation.expires = allocation.made  # whoever still holds it sees that it is over
        self._users[allocation.user] -= 1
        if not self._users[allocation.user]:
            del self._users[allocation.user]
        self._sockets.close(allocation.relay)

    def obey(self, policy: PeerPolicy) -> None:
        """Ask this policy from now on. What it does not grant ends now: a channel is not asked about again until
        its refresh, minutes later."""
        self.policy = policy
        for allocation in self.allocations.values():
            allocation.revoke(policy.permits)

    def expire(self, now: float) -> None:
        """Free what is past its time. Cheap: call it every half a second."""
        for allocation in [a for a in self.allocations.values() if a.expires <= now]:
            self._free(allocation)
        if now >= self._prune_at:
            # Expired permissions and channels no longer count; this only gives their memory back.
            self._prune_at = now + PRUNE_EVERY_S
            for allocation in self.allocations.values():
                allocation.forget_expired(now)


def _mapped(message: Message, client: Addr) -> List[Attribute]:
    return [(stun.XOR_MAPPED_ADDRESS, stun.pack_address(client, message.transaction))]


def _success(message: Message, key: Optional[bytes], attributes: Sequence[Attribute] = ()) -> bytes:
    return _reply(message, stun.SUCCESS, attributes, key)


def _reply(message: Message, kind: int, attributes: Sequence[Attribute], key: Optional[bytes]) -> bytes:
    """A reply; with FINGERPRINT if the client uses it, so that its demultiplexer finds one."""
    return stun.build(
        message.method, kind, message.transaction, attributes, key=key, fingerprint=message.fingerprinted
    )
