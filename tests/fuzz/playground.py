"""A TURN server under a program of bytes: any input is a run of clients that ask, send, wait, vanish and talk rubbish.

After every step what the server keeps must tell one story, and at the end, when all time has run out, nothing of it
may be left: no allocation, no count of a user, no port.
"""

from __future__ import annotations

import random
from collections import Counter

from commcli.relay.turn import stun
from commcli.relay.turn.allocation import MAX_CHANNELS, MAX_PERMISSIONS
from commcli.relay.turn.auth import Client
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.server import Action, Alone, Server, TurnConfig
from commcli.relay.turn.stun import Addr, Attribute

REALM = "lab"
USERS = {"alice": "wonder", "bob": "builder"}
KEYS = {name: stun.long_term_key(name, REALM, password) for name, password in USERS.items()}
CLIENTS: list[Client] = [
    ("198.51.100.7", 40001),
    ("198.51.100.7", 40002),
    ("2a00:1450::7", 40001),
    ("198.51.100.7", 40001, "tcp"),
    ("198.51.100.9", 443, "tls"),
]
PEERS: list[Addr] = [("8.8.4.4", 5004), ("8.8.4.4", 5006), ("2a00:1450:4001::1", 5004), ("10.0.0.1", 5004)]
METHODS = [stun.ALLOCATE, stun.REFRESH, stun.CREATE_PERMISSION, stun.CHANNEL_BIND, stun.BINDING, stun.SEND]
USER_QUOTA, TOTAL_QUOTA, PORTS = 2, 4, 6
UNIX = 1_800_000_000.0
LONGEST_REFUSAL = 64
# What a client may wish for in an Allocate.
WISHES: list[Attribute] = [
    (stun.EVEN_PORT, b"\0"),
    (stun.EVEN_PORT, b"\x80"),
    (stun.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0"),
    (stun.ADDITIONAL_ADDRESS_FAMILY, b"\2\0\0\0"),
    (stun.DONT_FRAGMENT, b""),
    (stun.LIFETIME, b"\0\0\x0e\x10"),
]


class Ports:
    """RelaySockets without sockets, that notice what is closed twice. A few ports in each family."""

    def __init__(self) -> None:
        self.open_now: set[Addr] = set()

    def open(self, family: int, kind: str) -> list[Addr]:
        ip = "5.9.0.1" if family == stun.IPV4 else "2a01:4f8::1"
        step = 1 if kind == "any" else 2
        for port in range(50000, 50000 + PORTS, step):
            wanted = {(ip, port), (ip, port + 1)} if kind == "pair" else {(ip, port)}
            if not wanted & self.open_now:
                self.open_now |= wanted
                return sorted(wanted)
        return []

    def close(self, relay: Addr) -> None:
        self.open_now.remove(relay)


class Program:
    """The input, read as numbers and strings; past its end everything is 0 and empty."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def over(self) -> bool:
        return self._at >= len(self._data)

    def number(self, below: int = 256) -> int:
        self._at += 1
        return self._data[self._at - 1] % below if self._at <= len(self._data) else 0

    def string(self) -> bytes:
        size = self.number(64)
        self._at += size
        return self._data[self._at - size : self._at]


class Playground:
    """The server, its clients, and the time."""

    def __init__(self) -> None:
        self.ports = Ports()
        self.config = TurnConfig(
            REALM,
            USERS,
            relay_families=(stun.IPV4, stun.IPV6),
            user_quota=USER_QUOTA,
            total_quota=TOTAL_QUOTA,
            refusals_per_second=255,
        )
        self.server = Server(self.config, self.ports, PeerPolicy(), random.Random(1).randbytes)
        self.now = 1000.0
        self.tokens: list[bytes] = []
        self.carried = 0
        self._transactions = random.Random(2)
        self.acts = [
            self.rubbish, self.request, self.request, self.allocate, self.bind, self.permit, self.refresh, self.send,
            self.channel, self.from_peer, self.passes, self.vanish, self.operate,
        ]  # fmt: skip

    def run(self, program: Program) -> None:
        """All of the program, then the end of all time."""
        while not program.over:
            self.acts[program.number(len(self.acts))](program)
            self.check()
        self.end()

    def end(self) -> None:
        """All time has run out: nothing may be left."""
        self.now += 1e6
        self.server.expire(self.now)
        self.check()
        assert not self.server.allocations and not self.ports.open_now

    # --- acts ----------------------------------------------------------------------------------------------

    def rubbish(self, program: Program) -> None:
        self.handle(program.string(), CLIENTS[program.number(len(CLIENTS))])

    def request(self, program: Program) -> None:
        """An authenticated request or an indication with whatever attributes."""
        method, raw = METHODS[program.number(len(METHODS))], program.string()
        self._ask(program, method, _attributes(raw))

    def allocate(self, program: Program) -> None:
        wishes = [(stun.REQUESTED_TRANSPORT, b"\x11\0\0\0")]
        chosen = program.number()
        wishes += [wish for bit, wish in enumerate(WISHES) if chosen >> bit & 1]
        if chosen >> 7 and self.tokens:
            wishes.append((stun.RESERVATION_TOKEN, self.tokens[-1]))
        reply = self._ask(program, stun.ALLOCATE, wishes)
        if reply is not None:
            self.tokens += reply.every(stun.RESERVATION_TOKEN)

    def bind(self, program: Program) -> None:
        number = 0x3FFE + program.number(6)
        transaction = self._transaction()
        peer = stun.pack_address(PEERS[program.number(len(PEERS))], transaction)
        wishes = [(stun.CHANNEL_NUMBER, number.to_bytes(2, "big") + b"\0\0"), (stun.XOR_PEER_ADDRESS, peer)]
        self._ask(program, stun.CHANNEL_BIND, wishes, transaction)

    def permit(self, program: Program) -> None:
        transaction, chosen = self._transaction(), program.number(16)
        peers = [peer for bit, peer in enumerate(PEERS) if chosen >> bit & 1]
        wishes = [(stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)) for peer in peers]
        self._ask(program, stun.CREATE_PERMISSION, wishes, transaction)

    def refresh(self, program: Program) -> None:
        wishes: list[Attribute] = [(stun.LIFETIME, (program.number(4) * 600).to_bytes(4, "big"))]
        if program.number(2):
            wishes.append((stun.REQUESTED_ADDRESS_FAMILY, bytes([1 + program.number(2), 0, 0, 0])))
        self._ask(program, stun.REFRESH, wishes)

    def send(self, program: Program) -> None:
        transaction = self._transaction()
        peer = stun.pack_address(PEERS[program.number(len(PEERS))], transaction)
        wishes = [(stun.XOR_PEER_ADDRESS, peer), (stun.DATA, program.string())]
        indication = stun.build(stun.SEND, stun.INDICATION, transaction, wishes)
        self.handle(indication, CLIENTS[program.number(len(CLIENTS))])

    def channel(self, program: Program) -> None:
        number, payload = 0x4000 + program.number(4), program.string()
        size = len(payload) + program.number(3) - 1
        header = number.to_bytes(2, "big") + max(0, size).to_bytes(2, "big")
        self.handle(header + payload, CLIENTS[program.number(len(CLIENTS))])

    def from_peer(self, program: Program) -> None:
        allocation = self.server.allocations.get(CLIENTS[program.number(len(CLIENTS))])
        peer, payload = PEERS[program.number(len(PEERS))], program.string()
        if allocation is None:
            return
        frame = self.server.from_peer(allocation, peer, payload, self.now)
        if frame is not None:
            assert allocation.permissions[peer[0]] > self.now and payload in frame
            assert not allocation.streamed or len(frame) % 4 == 0

    def passes(self, program: Program) -> None:
        """Time, with or without somebody who sweeps up."""
        self.now += (1, 299, 301, 599, 601, 3601)[program.number(6)]
        if program.number(2):
            self.server.expire(self.now)

    def vanish(self, program: Program) -> None:
        """A stream breaks, or a datagram client is taken for one."""
        self.server.closed(CLIENTS[program.number(len(CLIENTS))])

    def operate(self, program: Program) -> None:
        """The operator changes his mind: about draining, users, peers."""
        what = program.number(4)
        if what == 0:
            self.server.drain = not self.server.drain
        elif what == 1:
            revoked = frozenset({"bob"} if program.number(2) else ())
            self.server.reconfigure(TurnConfig(**{**vars(self.config), "revoked": revoked}))
            assert not revoked or all(a.user != "bob" for a in self.server.allocations.values())
        elif what == 2:
            self.server.obey(PeerPolicy(["10.0.0.0/8"] if program.number(2) else []))
        else:
            rates = {"session_kbit_s": 1, "node_mbit_s": 1} if program.number(2) else {}
            self.server.reconfigure(TurnConfig(**{**vars(self.config), **rates}))

    # --- what they share -----------------------------------------------------------------------------------

    def _transaction(self) -> bytes:
        return self._transactions.randbytes(12)

    def _ask(
        self, program: Program, method: int, wishes: list[Attribute], transaction: bytes | None = None
    ) -> stun.Message | None:
        """A request in the name of one of the users, with a good nonce; its reply if there is one."""
        client = CLIENTS[program.number(len(CLIENTS))]
        user = sorted(USERS)[program.number(2)]
        signed = [
            *wishes,
            (stun.USERNAME, user.encode()),
            (stun.REALM, REALM.encode()),
            (stun.NONCE, self.server.auth.nonces.issue(client, self.now)),
        ]
        data = stun.build(method, stun.REQUEST, transaction or self._transaction(), signed, key=KEYS[user])
        replies = [action[2] for action in self.handle(data, client) if action[0] == "client"]
        return stun.parse(replies[0]) if replies else None

    def handle(self, data: bytes, client: Client) -> list[Action]:
        """Hand over, and judge what comes of it."""
        actions = self.server.handle(data, client, self.now, UNIX + self.now)
        assert len(actions) <= 1
        for action in actions:
            if action[0] == "client":
                self._check_reply(data, client, action)
            else:
                self._check_carried(client, action)
        return actions

    def _check_reply(self, data: bytes, client: Client, action: Action) -> None:
        assert action[0] == "client" and action[1] == client
        if data[4:8] != stun.COOKIE_BYTES:  # a Binding of RFC 3489
            assert data[:2] == b"\0\1" and action[2][4:20] == data[4:20]
            assert len(action[2]) == (44 if ":" in client[0] else 32)
            return
        reply = stun.parse(action[2])
        assert reply.transaction == data[8:20] and reply.kind in (stun.SUCCESS, stun.ERROR)
        if reply.integrity is None and reply.integrity_sha256 is None and len(client) == 2:
            assert len(action[2]) <= max(LONGEST_REFUSAL, len(data)), "a reflector that pays"

    def _check_carried(self, client: Client, action: Action) -> None:
        assert action[0] == "peer"
        allocation, (ip, port) = action[1], action[2]
        assert self.server.allocations[client] is allocation and allocation.expires > self.now
        assert self.server.policy.permits(ip, port)
        # A channel carries packets out for its own 600 seconds; a Send needs the permission.
        assert allocation.permitted(ip, self.now) or allocation.channel_to((ip, port), self.now) is not None
        assert (":" in ip) == (":" in allocation.towards(ip)[0])
        self.carried += 1

    def check(self) -> None:
        """Do all tables tell the same story?"""
        server, live = self.server, list(self.server.allocations.values())
        assert {a.client: a for a in live} == server.allocations
        assert {relay: a for a in live for relay in a.relays} == server.by_relay
        assert isinstance(server.sisters, Alone)
        held = {relay for _, relay in server.sisters._offers.values()}
        assert held | set(server.by_relay) == self.ports.open_now and not held & set(server.by_relay)
        assert set(server.sisters._offers) <= {a.reserved for a in live} | set(server._lapsing)
        assert server._users == Counter(a.user for a in live)
        assert len(live) <= TOTAL_QUOTA and max(server._users.values(), default=0) <= USER_QUOTA
        assert server.counters["allocations_made"] - server.counters["allocations_ended"] == len(live)
        for allocation in live:
            assert {peer: n for n, (peer, _) in allocation.channels.items()} == allocation.numbers
            assert len(allocation.channels) <= MAX_CHANNELS and len(allocation.permissions) <= MAX_PERMISSIONS
            assert all(
                (":" in ip) in {":" in relay[0] for relay in allocation.relays}
                for ip in allocation.permissions
            )
        assert sum(
            n for (what, way, _), n in server.totals().items() if (what, way) == ("packets", "from_client")
        ) == (self.carried)


def _attributes(raw: bytes) -> list[Attribute]:
    """Bytes as attributes: a type each (of the known ones mostly), a size and a value."""
    found: list[Attribute] = []
    program = Program(raw)
    while not program.over:
        number = program.number()
        found.append(((0x8000 if number >> 7 else 0) | number & 0x7F, program.string()))
    return found
