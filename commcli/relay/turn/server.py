"""The TURN server (RFC 8656 over UDP, TCP and TLS) as a value machine: datagrams and the time in, actions out.

It opens no socket (`RelaySockets` does), reads no clock, and `handle` never raises, whatever the bytes are: a request
is answered, anything else that leads nowhere is counted in `drops` under its reason.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import (
    AbstractSet,
    Any,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Literal,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
)

from commcli.relay.turn import classic, stun
from commcli.relay.turn.allocation import (
    CHANNEL_HIGH,
    CHANNEL_LOW,
    Allocation,
    SessionRate,
    family_of,
    transport_of,
)
from commcli.relay.turn.auth import (
    STREAM_CLIENT,
    Authenticator,
    Client,
    Denied,
    Login,
    PasswordAlgorithms,
    RandomBytes,
    Throttle,
)
from commcli.relay.turn.limits import Bucket
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.request import (
    KNOWN,
    TOKEN_BYTES,
    Rejected,
    Request,
    Wish,
    check_transport,
    family,
    lifetime_s,
    refuse_unknown,
    relayed_address,
)
from commcli.relay.turn.stun import Addr, Attribute, Message

# What the socket side is to do: send bytes to a client, or a payload from an allocation to a peer.
Action = Union[Tuple[Literal["client"], Client, bytes], Tuple[Literal["peer"], Allocation, Addr, bytes]]

# Packets from clients by the allocation that sends them and the peer that they are for; frames for clients.
Ways = Dict[Tuple[Allocation, Addr], List[bytes]]
Frames = Dict[Allocation, List[bytes]]
# Packets that one peer sent to an allocation.
FromPeer = Tuple[Allocation, Addr, Sequence[bytes]]
# Allocations that another process has: what they were like (Allocation.mark) when it got them.
Told = Dict[Client, object]

# What still fits a UDP datagram with a Data indication around it: 20 + 24 (an IPv6 peer) + 4, padded to fours.
MAX_PAYLOAD = (65507 - 48) & ~3
PRUNE_EVERY_S = 30.0
GUESSES_PER_SECOND = 100  # wrong passwords of a source on streams that are answered
MAX_REFUSAL = 64  # bytes, to who has shown no credentials and is offered no SHA-256
# What a user with many allocations can have done in one go: some milliseconds of work.
FREED_AT_ONCE = 200
JUDGED_AT_ONCE = 1000  # permissions and channels
OVERHEAD = 28  # of IPv4 and UDP: an empty packet is none to the wire
# DONT-FRAGMENT: Linux sets the bit on every datagram that fits the path's MTU, asked or not, and splits what does not.
# So what a Send asks not to split is dropped if it would not fit Ethernet's 1500 bytes.
MAX_UNFRAGMENTED = {stun.IPV4: 1472, stun.IPV6: 1452}
RESERVED_S = 30.0  # RFC 8656 section 7.2: at the least
TRANSPORTS = ("udp", "tcp", "tls")

COUNTED = ("auth_ok", "auth_failed", "allocations_made", "allocations_ended", "quota_user", "quota_total")

_channel_header = struct.Struct("!HH")
_unpack_channel_header, _pack_channel_header = _channel_header.unpack_from, _channel_header.pack


class RelaySockets(Protocol):
    """The pool of relayed transport addresses."""

    def open(self, family: int, kind: Literal["any", "even", "pair"]) -> List[Addr]:
        """Bind an unpredictable free port of the pool; its address, or [] when there is none left.

        "even": an even port. "pair": an even port and the next one, so two addresses.
        """

    def close(self, relay: Addr) -> None:
        """Give the port back."""


class Alternate(Protocol):
    """Another edge. `domain`: the name in its certificate, where that matters."""

    @property
    def address(self) -> Addr: ...

    @property
    def domain(self) -> Optional[str]: ...


class Alternates(Protocol):
    """Which other edge suits a client better, None if none does."""

    def choose(self, client_ip: str, transport: str, draining: bool) -> Optional[Alternate]: ...

    def measured(self, rtt_ms: Mapping[str, Optional[float]]) -> None: ...


class Sisters(Protocol):
    """Servers in other processes that share our addresses: what counts for all of them together.

    A client takes a reserved port from another 5-tuple, which may be another server's.
    """

    def sessions(self) -> int:
        """Live allocations, ours too."""

    def sessions_of(self, user: str) -> int:
        """Those of one user."""

    def offer(self, token: bytes, user: str, relay: Addr) -> None:
        """Give this port up to whoever shows its token."""

    def offered(self, token: bytes, user: str) -> bool:
        """Is the port of this token still to be had?"""

    def redeem(self, token: bytes, user: str) -> Optional[Addr]:
        """The port of this token, bound; None if there is none."""

    def withdraw(self, token: bytes, user: str) -> None:
        """Let go of the port of this token, if it is still on offer."""


class Alone:
    """`Sisters` of a server that has none."""

    def __init__(
        self, allocations: Mapping[Client, Allocation], users: Mapping[str, int], sockets: RelaySockets
    ) -> None:
        self._allocations, self._users, self._sockets = allocations, users, sockets
        self._offers: Dict[bytes, Tuple[str, Addr]] = {}

    def sessions(self) -> int:
        """Live allocations."""
        return len(self._allocations)

    def sessions_of(self, user: str) -> int:
        """Those of one user."""
        return self._users[user]

    def offer(self, token: bytes, user: str, relay: Addr) -> None:
        """Keep this port, which is bound, for whoever shows its token."""
        self._offers[token] = user, relay

    def offered(self, token: bytes, user: str) -> bool:
        """Is the port of this token still to be had?"""
        return token in self._offers

    def redeem(self, token: bytes, user: str) -> Optional[Addr]:
        """The port of this token; None if there is none, or if it is another user's."""
        owner, relay = self._offers.get(token, (None, None))
        if owner != user:
            return None
        del self._offers[token]
        return relay

    def withdraw(self, token: bytes, user: str) -> None:
        """Let go of the port of this token, if it is still on offer."""
        relay = self.redeem(token, user)
        if relay is not None:
            self._sockets.close(relay)

    def kept(self) -> List[Any]:
        """The reserved ports, for another process (JSON)."""
        return [(token.hex(), user, relay) for token, (user, relay) in self._offers.items()]

    def take(self, kept: Iterable[Any]) -> None:
        """Go on with the reserved ports of another process, and no others; they are bound."""
        self._offers.clear()
        for token, user, (ip, port) in kept:
            self._offers[bytes.fromhex(token)] = user, (ip, port)


@dataclass(frozen=True)
class TurnConfig:
    """Credentials and limits. `users` are name -> password, `secrets` the shared secrets of time-limited users.

    `revoked` are user ids (what stands after the colon) that are refused whatever they know. Quotas count
    allocations; `session_kbit_s` is for each way of one allocation, `node_mbit_s` for all of them together.

    Keep `realm` within 16 bytes: it rides in every 401, which is then 64 bytes at most (no amplifier for reflection).
    """

    realm: str
    users: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    relay_families: Tuple[int, ...] = (stun.IPV4,)  # those that RelaySockets can open
    default_lifetime_s: int = 600
    max_lifetime_s: int = 3600
    nonce_lifetime_s: float = 3600.0
    user_quota: Optional[int] = None  # allocations of one user (the name after the colon)
    total_quota: Optional[int] = None
    refusals_per_second: int = 10  # unauthenticated refusals for each source address
    revoked: FrozenSet[str] = frozenset()
    session_kbit_s: Optional[int] = None
    node_mbit_s: Optional[float] = None
    password_algorithms: PasswordAlgorithms = "auto"  # which of them a challenge offers, see Authenticator


class Server:
    """One TURN server. `client` stands for the 5-tuple: it is the key of an allocation.

    Public state, for the loop that carries the packets: `allocations` (by client), `by_relay` (by relayed address),
    `policy` (changed by `obey`), `alternates` (replace it freely), `drain`, `drops` by reason, and `counters`.
    """

    def __init__(
        self, config: TurnConfig, sockets: RelaySockets, policy: PeerPolicy, random_bytes: RandomBytes
    ) -> None:
        self.config = config
        self.policy = policy
        self.auth = Authenticator(
            config.realm,
            random_bytes,
            config.users,
            config.secrets,
            config.nonce_lifetime_s,
            config.password_algorithms,
        )
        self.allocations: Dict[Client, Allocation] = {}
        self.by_relay: Dict[Addr, Allocation] = {}
        self.drain = False
        self.alternates: Optional[Alternates] = None  # where new clients are sent instead (300), if anywhere
        self.nodes: AbstractSet[str] = frozenset()  # that a client's packets may be pinned to
        self.drops: Counter[str] = Counter()
        # Also "error_CODE": replies by error code. The names are there from the start: 0 is an answer too.
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
        self._ended: Counter[Tuple[str, str, str]] = Counter()  # traffic of allocations that are gone
        self._sockets = sockets
        self._random_bytes = random_bytes
        self._throttle = Throttle(random_bytes(32), config.refusals_per_second)
        self._guesses = Throttle(random_bytes(32), GUESSES_PER_SECOND)
        self._node_rate: Optional[Bucket] = None
        self._users: Counter[str] = Counter()  # live allocations by user
        self.sisters: Sisters = Alone(self.allocations, self._users, sockets)
        # By token: when the reservation of an allocation that is gone may end, and whose it is.
        self._lapsing: Dict[bytes, Tuple[float, str]] = {}
        self._prune_at = 0.0
        self._unjudged: List[Allocation] = []
        self.reconfigure(config)
        self._handlers = {
            stun.ALLOCATE: self._allocate,
            stun.REFRESH: self._refresh,
            stun.CREATE_PERMISSION: self._create_permission,
            stun.CHANNEL_BIND: self._channel_bind,
        }

    # From one process to the next

    def kept_allocations(self, now: float, told: Told, without: Sequence[str], most: int) -> Dict[str, Any]:
        """Up to `most` allocations that another process has not been `told` of, for its `take_allocations` (JSON).

        So it can have most of them before it has the rest; `told` is kept up to date. Not those of clients whose
        transport is in `without`. {"rows": ...}
        """
        new = [a for a in self.allocations.values() if a.client not in told and a.transport not in without]
        return {"rows": [self._telling(allocation, told, now) for allocation in new[:most]]}

    @staticmethod
    def _telling(allocation: Allocation, told: Told, now: float) -> Dict[str, Any]:
        told[allocation.client] = allocation.mark()
        return allocation.kept(now)

    def kept(self, now: float, told: Told, without: Sequence[str] = ()) -> Dict[str, Any]:
        """All that another server needs to go on in our place and was not `told` yet, for its `take`.

        JSON, and it holds secrets. Allocations of clients whose transport is in `without` end with us and are counted
        so. Credentials, limits and policy are not in it: those are the configuration's. Nothing changes here.
        """
        staying = [a for a in self.allocations.values() if a.transport not in without]
        going = [a for a in self.allocations.values() if a.transport in without]
        gone = told.keys() - {allocation.client for allocation in staying}
        carried = Counter(self._ended)
        for allocation in going:
            carried.update(allocation.carried())
        return {
            "nonces": self.auth.nonces.kept(now),
            "gone": list(gone),
            "rows": [self._telling(a, told, now) for a in staying if told.get(a.client) != a.mark()],
            "figures": [allocation.figures(now) for allocation in staying],
            "reserved": self.sisters.kept() if isinstance(self.sisters, Alone) else [],
            "lapsing": [(token.hex(), until - now, user) for token, (until, user) in self._lapsing.items()],
            "carried": [(*key, count) for key, count in carried.items()],
            "counters": self.counters + Counter(allocations_ended=len(going)),
            "drops": self.drops,
        }

    def take_allocations(self, kept: Mapping[str, Any], now: float) -> None:
        """Some allocations of another server; the sockets of their addresses are open here. Raises as `take`."""
        for row in kept["rows"]:
            self._leave(tuple(row["client"]))
            self._enter(Allocation.taken(row, now))

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on in the place of another server: this is the last that it `kept`.

        Who was revoked meanwhile ends at once, and what the policy no longer grants in the next calls of `judge`.
        Raises ValueError, KeyError or TypeError.
        """
        self.auth.nonces.take(kept["nonces"], now)
        for client in kept["gone"]:
            self._leave(tuple(client))
        self.take_allocations(kept, now)
        if isinstance(self.sisters, Alone):
            self.sisters.take(kept["reserved"])
        for token, left_s, user in kept["lapsing"]:
            self._lapsing[bytes.fromhex(token)] = now + left_s, user
        for what, direction, transport, count in kept["carried"]:
            self._ended[what, direction, transport] += count
        self.counters.update(kept["counters"])
        self.drops.update(kept["drops"])
        self.reconfigure(self.config)
        for figures in kept["figures"]:
            allocation = self.allocations.get(tuple(figures[0]))
            if allocation is not None:
                allocation.take_figures(figures, now)
        self._unjudged = list(self.allocations.values())

    def _enter(self, allocation: Allocation) -> None:
        self.allocations[allocation.client] = allocation
        for relay in allocation.relays:
            self.by_relay[relay] = allocation
        self._users[allocation.user] += 1

    def _leave(self, client: Client) -> None:
        """Undo `_enter`."""
        allocation = self.allocations.pop(client, None)
        if allocation is None:
            return
        for relay in allocation.relays:
            del self.by_relay[relay]
        self._users[allocation.user] -= 1
        if not self._users[allocation.user]:
            del self._users[allocation.user]

    # The data path: ChannelData in, peer data out. Table look-ups only.

    def handle(self, data: bytes, client: Client, now: float, unix: float) -> List[Action]:
        """What to do about one datagram or stream frame. `now`: monotonic seconds, `unix`: wall clock seconds."""
        if not data or data[0] & 0xC0 != 0x40:
            return self._stun(data, client, now, unix)
        ways: Ways = {}
        self.channel_data((data,), client, now, ways)
        return [("peer", *way, payloads[0]) for way, payloads in ways.items()]

    def channel_data(self, datagrams: Sequence[bytes], client: Client, now: float, ways: Ways) -> None:
        """Put ChannelData (RFC 8656 section 12.6) on its way; what is dropped is counted. UDP may or may not pad it."""
        allocation = self.allocations.get(client)
        if allocation is None or allocation.expires <= now:
            self.drops["no_allocation"] += len(datagrams)
            return
        channels = allocation.channels
        for data in datagrams:
            length = len(data) - 4
            if length < 0:
                self.drops["channel_length"] += 1
                continue
            number, size = _unpack_channel_header(data)
            bound = channels.get(number)
            if bound is None or bound[1] <= now:
                self.drops["no_channel"] += 1
                continue
            if length < size:
                self.drops["channel_length"] += 1
                continue
            if self.metered and not self._passes(allocation, 0, size, now):
                continue
            allocation.packets_in += 1
            allocation.bytes_in += size
            payload = data[4:] if length == size else data[4 : 4 + size]
            way = allocation, bound[0]
            if way in ways:
                ways[way].append(payload)
            else:
                ways[way] = [payload]

    def from_peers(self, received: Iterable[FromPeer], now: float, frames: Frames) -> None:
        """Packets of peers as frames for clients; those that are dropped are counted.

        ChannelData if the peer has a channel, else Data indications (RFC 8656 sections 11.3 and 12.7).
        """
        for allocation, peer, payloads in received:
            if allocation.permissions.get(peer[0], 0.0) <= now or allocation.expires <= now:
                reason = "no_permission" if allocation.expires > now else "no_allocation"
                self.drops[reason] += len(payloads)
                continue
            number = allocation.numbers.get(peer)
            if number is None or allocation.channels[number][1] <= now or self.metered or allocation.streamed:
                made = self._frames_one_by_one(allocation, peer, payloads, now)
            else:
                made, header, header_size = [], b"", -1
                for payload in payloads:
                    size = len(payload)
                    if size != header_size:
                        header, header_size = _pack_channel_header(number, size), size
                    made.append(header + payload)
                    allocation.bytes_out += size
                allocation.packets_out += len(made)
            if allocation in frames:
                frames[allocation] += made
            elif made:
                frames[allocation] = made

    def _frames_one_by_one(
        self, allocation: Allocation, peer: Addr, payloads: Sequence[bytes], now: float
    ) -> List[bytes]:
        """The frames of one peer's packets where rates, streams or Data indications want each one looked at."""
        number = allocation.channel_to(peer, now)
        made = []
        for payload in payloads:
            size = len(payload)
            if size > MAX_PAYLOAD:
                self.drops["oversize"] += 1
                continue
            if self.metered and not self._passes(allocation, 1, size, now):
                continue
            allocation.packets_out += 1
            allocation.bytes_out += size
            if number is None:
                made.append(self._data_indication(peer, payload))
            else:
                # A stream has no other marks between frames, so there the padding is a must (section 12.5).
                padding = bytes(-size & 3) if allocation.streamed else b""
                made.append(_pack_channel_header(number, size) + payload + padding)
        return made

    def from_peer(self, allocation: Allocation, peer: Addr, payload: bytes, now: float) -> Optional[bytes]:
        """One packet of a peer as a frame for `allocation.client`; None if it is dropped (counted)."""
        frames: Frames = {}
        self.from_peers([(allocation, peer, (payload,))], now, frames)
        return frames[allocation][0] if frames else None

    def _data_indication(self, peer: Addr, payload: bytes) -> bytes:
        transaction = self._random_bytes(stun.TRANSACTION_SIZE)
        attributes = [(stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)), (stun.DATA, payload)]
        return stun.build(stun.DATA_METHOD, stun.INDICATION, transaction, attributes)

    def _passes(self, allocation: Allocation, way: int, size: int, now: float) -> bool:
        """May this packet pass the limits of its session (way 0: from the client, 1: to it) and of the node?"""
        size += OVERHEAD
        if allocation.rate is not None and not allocation.rate[way].take(size, now):
            self.drops["session_rate"] += 1
            return False
        if self._node_rate is not None and not self._node_rate.take(size, now):
            self.drops["node_rate"] += 1
            return False
        return True

    def _drop(self, reason: str) -> List[Action]:
        self.drops[reason] += 1
        return []

    # STUN messages

    def _stun(self, data: bytes, client: Client, now: float, unix: float) -> List[Action]:
        try:
            message = stun.parse(data)
        except stun.StunError as error:
            reply = classic.answer(data, client) if str(error) == "not stun" else None
            return [("client", client, reply)] if reply else self._drop(f"stun_{error}".replace(" ", "_"))
        if message.kind == stun.REQUEST:
            reply = self._request(message, client, now, unix)
            return [("client", client, reply)] if reply else []
        if message.kind == stun.INDICATION and message.method == stun.SEND:
            return self._send(message, client, now)
        if message.kind == stun.INDICATION and message.method == stun.BINDING:
            return []  # a keepalive (RFC 8489 section 6.3.2): it did its work on the way
        return self._drop("stun_unexpected")

    def _request(self, message: Message, client: Client, now: float, unix: float) -> Optional[bytes]:
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
            return self._error(message, rejected, login)
        except stun.StunError:  # a malformed attribute
            return self._error(message, Rejected(400), login)

    def _binding(self, message: Message, client: Client, now: float) -> Optional[bytes]:
        """Binding needs no credentials, so the answer is as short as it can be: 32 bytes to an IPv4 client."""
        try:
            refuse_unknown(message)
        except Rejected as rejected:
            return self._error(message, rejected, None) if self._may_refuse(client, now) else None
        return _success(message, None, _mapped(message, client))

    def _deny(self, denied: Denied, message: Message, client: Client, now: float) -> Optional[bytes]:
        """401 and 438 carry a new nonce and the realm; nothing about why (RFC 8489 section 9.2.4)."""
        if denied.forged:
            self.counters["auth_failed"] += 1
        if not self._may_refuse(client, now, forged=denied.forged):
            return None
        challenge: List[Attribute] = []
        if denied.code != 400:
            challenge = self.auth.challenge(client, now, len(message.raw))
        return self._error(message, Rejected(denied.code, *challenge), None)

    def _may_refuse(self, client: Client, now: float, forged: bool = False) -> bool:
        if len(client) == STREAM_CLIENT:
            # Its address is its own, and who waits on a stream asks no second time. But it may guess passwords.
            allowed = not forged or self._guesses.allows(client[0], now)
        else:
            allowed = self._throttle.allows(client[0], now)
        if not allowed:
            self.drops["refusal_silenced"] += 1
        return allowed

    def _error(self, message: Message, rejected: Rejected, login: Optional[Login]) -> bytes:
        """An error reply. The reason phrase is for eyes, and bytes: only those who authenticated get it."""
        self.counters[f"error_{rejected.code}"] += 1
        phrase = stun.REASONS[rejected.code] if login is not None else ""
        attributes = [(stun.ERROR_CODE, stun.pack_error(rejected.code, phrase)), *rejected.attributes]
        reply = _reply(message, stun.ERROR, attributes, login)
        if login is None and MAX_REFUSAL < len(reply) <= MAX_REFUSAL + stun.FINGERPRINT_SIZE:
            # A FINGERPRINT is only for demultiplexers, and these bytes go to whomever the source address names.
            message.fingerprinted = False
            reply = _reply(message, stun.ERROR, attributes, login)
        return reply

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
        wish = relayed_address(message, config.relay_families)
        via = request.login.road.via
        if via is not None and via not in self.nodes:
            raise Rejected(403)  # better than an allocation whose packets go nowhere
        if wish.token is None:  # the reserved port is here and nowhere else
            self._check_alternate(request)
        self._check_capacity(request.login)
        allocation = self._install(request, wish, granted_s)
        attributes = [
            *(
                (stun.XOR_RELAYED_ADDRESS, stun.pack_address(relay, message.transaction))
                for relay in allocation.relays
            ),
            (stun.LIFETIME, granted_s.to_bytes(4, "big")),
            *_mapped(message, request.client),
        ]
        if allocation.reserved is not None:
            attributes.append((stun.RESERVATION_TOKEN, allocation.reserved))
        for wished in (wish.family, wish.additional):
            if wish.additional and wished not in allocation.families:
                # One family is better than none: the client is told which one it did not get.
                code = 508 if wished in config.relay_families else 440
                failed = bytes([wished, 0, code // 100, code % 100])
                attributes.append((stun.ADDRESS_ERROR_CODE, failed))
        allocation.reply = _success(message, request.login, attributes)
        return allocation.reply

    def _check_alternate(self, request: Request) -> None:
        """300 Try Alternate (RFC 8489 section 10), in place of an allocation, if another edge suits better."""
        if self.alternates is None:
            return
        ip, transport = request.client[0], transport_of(request.client)
        other = self.alternates.choose(ip, transport, self.drain)
        if other is None:
            return
        where = [(stun.ALTERNATE_SERVER, stun.pack_address(other.address))]
        if other.domain is not None:
            where.append((stun.ALTERNATE_DOMAIN, other.domain.encode()))
        raise Rejected(300, *where)

    def _check_capacity(self, login: Login) -> None:
        quota, total = self.config.user_quota, self.config.total_quota
        if self.drain:
            raise Rejected(486)
        if quota is not None and self._held_by(login.user) >= quota:
            self.counters["quota_user"] += 1
            raise Rejected(486)
        if total is not None and self.sisters.sessions() + len(self._lapsing) >= total:
            self.counters["quota_total"] += 1
            raise Rejected(508)

    def _held_by(self, user: str) -> int:
        """Allocations of a user, and ports that are still held for it without one."""
        return self.sisters.sessions_of(user) + sum(user == owner for _, owner in self._lapsing.values())

    def _install(self, request: Request, wish: Wish, granted_s: int) -> Allocation:
        login = request.login
        allocation = Allocation(
            client=request.client,
            relays=self._open(wish, login),
            username=login.username,
            user=login.user,
            road=login.road,
            made=request.now,
            made_by=request.message.transaction,
        )
        if wish.kind == "pair":
            self._reserve(allocation)
        allocation.expires = request.now + granted_s
        allocation.rate = self._session_rate()
        self._enter(allocation)
        self.counters["allocations_made"] += 1
        return allocation

    def _open(self, wish: Wish, login: Login) -> List[Addr]:
        """The relayed addresses that are wished for; of two families one is enough. 508 if there is none.

        With "pair" the second is the port to be reserved.
        """
        if wish.token is not None:
            return [self._redeem(wish.token, login)]
        relays = self._sockets.open(wish.family, wish.kind)
        if wish.additional in self.config.relay_families:
            relays = relays + self._sockets.open(wish.additional, "any")
        if not relays:
            raise Rejected(508)
        return relays

    def _reserve(self, allocation: Allocation) -> None:
        """Hold the second port of a pair for whoever shows the token: for as long as the first one's allocation lives,
        and RESERVED_S at least (section 7.2)."""
        first, second = allocation.relays
        allocation.relays = (first,)
        allocation.reserved = self._random_bytes(TOKEN_BYTES)
        self.sisters.offer(allocation.reserved, allocation.user, second)

    def _redeem(self, token: bytes, login: Login) -> Addr:
        relay = self.sisters.redeem(token, login.user)
        if relay is None:
            raise Rejected(508)
        self._lapsing.pop(token, None)
        return relay

    def _session_rate(self) -> Optional[SessionRate]:
        kbit_s = self.config.session_kbit_s
        return None if kbit_s is None else SessionRate(Bucket(kbit_s), Bucket(kbit_s))

    def _refresh(self, request: Request) -> bytes:
        """Section 8.2. A lifetime of 0 deletes."""
        allocation = self._own(request)
        message, config = request.message, self.config
        only = family(message, stun.REQUESTED_ADDRESS_FAMILY)
        if only and only not in allocation.families:
            raise Rejected(443)
        granted_s = lifetime_s(message, config.default_lifetime_s, config.max_lifetime_s)
        if message.first(stun.LIFETIME) == b"\0\0\0\0":
            granted_s = 0
            self._free(allocation, only)
        else:
            allocation.expires = request.now + granted_s
        return _success(message, request.login, [(stun.LIFETIME, granted_s.to_bytes(4, "big"))])

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
        return _success(request.message, request.login)

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
        return _success(request.message, request.login)

    def _send(self, message: Message, client: Client, now: float) -> List[Action]:
        """A Send indication (section 11.2): nobody is told of a failure, so it is counted."""
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
            and len(payload) > MAX_UNFRAGMENTED[family_of(peer[0])]
        ):
            return self._drop("would_fragment")
        if self.metered and not self._passes(allocation, 0, len(payload), now):
            return []
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
        if family_of(ip) not in allocation.families:
            raise Rejected(443)
        if not self.policy.permits(ip, port):
            raise Rejected(403)

    def _live(self, client: Client, now: float) -> Optional[Allocation]:
        """The client's allocation; one past its time is freed on the spot."""
        allocation = self.allocations.get(client)
        if allocation is not None and allocation.expires <= now:
            self._free(allocation)
            return None
        return allocation

    def _free(self, allocation: Allocation, only: int = 0) -> None:
        """End an allocation, or of two relayed addresses `only` the one of this family."""
        if only and len(allocation.relays) > 1:
            self._close(*(relay for relay in allocation.relays if family_of(relay[0]) == only))
            allocation.keep(*(relay for relay in allocation.relays if family_of(relay[0]) != only))
            return
        self._leave(allocation.client)
        for relay in allocation.relays:
            self._sockets.close(relay)
        if allocation.reserved is not None and self.sisters.offered(allocation.reserved, allocation.user):
            self._lapsing[allocation.reserved] = (allocation.made + RESERVED_S, allocation.user)
        allocation.expires = allocation.made  # whoever still holds it sees that it is over
        self.counters["allocations_ended"] += 1
        self._ended.update(allocation.carried())

    def _close(self, *relays: Addr) -> None:
        for relay in relays:
            del self.by_relay[relay]
            self._sockets.close(relay)

    def closed(self, client: Client) -> None:
        """The stream of this client is gone, and its allocation with it (RFC 8656 section 3.1)."""
        allocation = self.allocations.get(client)
        if allocation is not None:
            self._free(allocation)

    def totals(self) -> "Counter[Tuple[str, str, str]]":
        """What was carried: ("packets" or "bytes", "from_client" or "to_client", transport of the client) -> sum."""
        sums = Counter(self._ended)
        for transport in TRANSPORTS:
            carried = [a for a in self.allocations.values() if a.transport == transport]
            sums["packets", "from_client", transport] += sum(a.packets_in for a in carried)
            sums["bytes", "from_client", transport] += sum(a.bytes_in for a in carried)
            sums["packets", "to_client", transport] += sum(a.packets_out for a in carried)
            sums["bytes", "to_client", transport] += sum(a.bytes_out for a in carried)
        return sums

    def reconfigure(self, config: TurnConfig) -> None:
        """Obey new credentials, quotas and limits from now on. Calls stay, but for those of revoked users.

        Realm and families are those of the start.
        """
        self.config = config
        self.auth.set_credentials(config.users, config.secrets, config.revoked)
        self.auth.password_algorithms = config.password_algorithms
        self.auth.nonces.lifetime_s = config.nonce_lifetime_s
        self._throttle.per_second = config.refusals_per_second
        self._node_rate = None if config.node_mbit_s is None else Bucket(config.node_mbit_s * 1000)
        self.metered = config.node_mbit_s is not None or config.session_kbit_s is not None
        for allocation in list(self.allocations.values()):
            if self.auth.revokes(allocation.username):
                self._free(allocation)
                if allocation.reserved is not None and allocation.reserved in self._lapsing:
                    del self._lapsing[allocation.reserved]
                    self.sisters.withdraw(allocation.reserved, allocation.user)
            else:
                allocation.rate = self._session_rate()

    def obey(self, policy: PeerPolicy) -> None:
        """Ask this policy from now on. What it does not grant ends now: a channel is not asked about again until
        its refresh, minutes later."""
        if policy == self.policy:
            return
        self.policy = policy
        self._unjudged = list(self.allocations.values())
        self.judge()

    @property
    def judging(self) -> bool:
        """Is `judge` to be called again?"""
        return bool(self._unjudged)

    def judge(self) -> None:
        """End what a new policy does not grant, of so many allocations that the loop does not feel it: call it again
        at every tick. Those whose turn is still to come have what they had."""
        entries = 0
        while self._unjudged and entries < JUDGED_AT_ONCE:
            allocation = self._unjudged.pop()
            entries += len(allocation.permissions) + len(allocation.channels)
            allocation.revoke(self.policy.permits)

    def expire(self, now: float) -> bool:
        """Free what is past its time; is there more of it? Cheap: call it every half a second, or at once for more."""
        past = [a for a in self.allocations.values() if a.expires <= now]
        for allocation in past[:FREED_AT_ONCE]:
            self._free(allocation)
        for token, user in [(token, user) for token, (until, user) in self._lapsing.items() if until <= now]:
            del self._lapsing[token]
            self.sisters.withdraw(token, user)
        if now >= self._prune_at:
            # Expired permissions and channels no longer count; this only gives their memory back.
            self._prune_at = now + PRUNE_EVERY_S
            for allocation in self.allocations.values():
                allocation.forget_expired(now)
        return len(past) > FREED_AT_ONCE


def _mapped(message: Message, client: Client) -> List[Attribute]:
    return [(stun.XOR_MAPPED_ADDRESS, stun.pack_address(client[:2], message.transaction))]


def _success(message: Message, login: Optional[Login], attributes: Sequence[Attribute] = ()) -> bytes:
    return _reply(message, stun.SUCCESS, attributes, login)


def _reply(message: Message, kind: int, attributes: Sequence[Attribute], login: Optional[Login]) -> bytes:
    """A reply, signed as its request was; with FINGERPRINT, for demultiplexers, if the client uses it."""
    return stun.build(
        message.method,
        kind,
        message.transaction,
        attributes,
        key=None if login is None else login.key,
        sha256=login is not None and login.sha256,
        fingerprint=message.fingerprinted,
    )
