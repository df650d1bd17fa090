"""A world for the TURN server with no socket and no clock: a pool of ports, a clock to turn, and a client."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from commcli.relay.turn import stun
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.peers import PeerPolicy
from commcli.relay.turn.server import Action, Server, TurnConfig
from commcli.relay.turn.stun import Addr, Attribute, Message

UNIX = 1_800_000_000.0
REALM = "lab"
USERS = {"alice": "wonder", "bob": "builder"}
CLIENT: Addr = ("198.51.100.7", 40001)
PEER: Addr = ("8.8.4.4", 5004)
PEER6: Addr = ("2a00:1450:4001::1", 5004)
UDP_TRANSPORT: Attribute = (stun.REQUESTED_TRANSPORT, b"\x11\0\0\0")


class FakePool:
    """RelaySockets without sockets: ports in the order given, each open at most once."""

    def __init__(self, ip: str = "5.9.0.1", ports: Iterable[int] = range(50000, 50100)) -> None:
        self.ip = ip
        self.ip6 = "2a01:4f8::1"
        self.free = list(ports)
        self.opened: list[Addr] = []

    def open(self, family: int, kind: str = "any") -> list[Addr]:
        ports = [port for port in self.free if kind == "any" or not port & 1]
        ports = [port for port in ports if kind != "pair" or port + 1 in self.free]
        if not ports:
            return []
        wanted = ports[0], *((ports[0] + 1,) if kind == "pair" else ())
        self.free = [port for port in self.free if port not in wanted]
        relays = [(self.ip if family == stun.IPV4 else self.ip6, port) for port in wanted]
        self.opened += relays
        return relays

    def close(self, relay: Addr) -> None:
        self.opened.remove(relay)
        self.free.append(relay[1])


def seeded(seed: int = 1) -> Callable[[int], bytes]:
    """Bytes that look random and are the same in every run."""
    return random.Random(seed).randbytes


@dataclass
class World:
    """A server and the time, which passes when a test says so."""

    config: TurnConfig = field(default_factory=lambda: TurnConfig(REALM, USERS))
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    pool: FakePool = field(default_factory=FakePool)
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.server = Server(self.config, self.pool, self.policy, seeded())

    @property
    def unix(self) -> float:
        return UNIX + self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.server.expire(self.now)

    def handle(self, data: bytes, client: Addr = CLIENT) -> list[Action]:
        return self.server.handle(data, client, self.now, self.unix)

    def reply(self, data: bytes, client: Addr = CLIENT) -> bytes | None:
        """The one datagram that goes back to the client, if any."""
        actions = self.handle(data, client)
        if not actions:
            return None
        [action] = actions
        assert action[0] == "client" and action[1] == client
        return action[2]

    def from_peer(self, payload: bytes, peer: Addr = PEER, client: Addr = CLIENT) -> bytes | None:
        return self.server.from_peer(self.server.allocations[client], peer, payload, self.now)


class Client:
    """A TURN client with long-term credentials. `code` is None for a success."""

    def __init__(
        self,
        world: World,
        username: str = "alice",
        password: str = "wonder",
        addr: Addr = CLIENT,
        seed: int = 7,
    ) -> None:
        self.world, self.username, self.addr = world, username, addr
        self.key = stun.long_term_key(username, REALM, password)
        self.nonce = b""
        self.random_bytes = seeded(seed)

    def request(
        self, method: int, attributes: Iterable[Attribute] = (), transaction: bytes | None = None
    ) -> bytes:
        """An authenticated request as bytes; the attributes may already be XORed with `transaction`."""
        signed = [
            *attributes,
            (stun.USERNAME, self.username.encode()),
            (stun.REALM, REALM.encode()),
            (stun.NONCE, self.nonce),
        ]
        transaction = transaction or self.random_bytes(12)
        return stun.build(method, stun.REQUEST, transaction, signed, key=self.key)

    def ask(
        self, method: int, attributes: Iterable[Attribute] = (), transaction: bytes | None = None
    ) -> Reply:
        """One exchange, after a first one for the nonce if there is none yet."""
        if not self.nonce:
            first = self.world.reply(stun.build(method, stun.REQUEST, self.random_bytes(12)), self.addr)
            assert first is not None
            self.nonce = stun.parse(first).first(stun.NONCE) or b""
        raw = self.world.reply(self.request(method, attributes, transaction), self.addr)
        assert raw is not None
        return Reply(raw)

    def allocate(self, *attributes: Attribute, transaction: bytes | None = None) -> Reply:
        return self.ask(stun.ALLOCATE, [UDP_TRANSPORT, *attributes], transaction)

    def refresh(self, lifetime_s: int | None = None, *attributes: Attribute) -> Reply:
        wish = [] if lifetime_s is None else [lifetime(lifetime_s)]
        return self.ask(stun.REFRESH, [*wish, *attributes])

    def permit(self, *ips: str) -> Reply:
        transaction = self.random_bytes(12)
        peers = [(stun.XOR_PEER_ADDRESS, stun.pack_address((ip, 0), transaction)) for ip in ips]
        return self.ask(stun.CREATE_PERMISSION, peers, transaction)

    def bind(self, number: int = 0x4000, peer: Addr = PEER) -> Reply:
        transaction = self.random_bytes(12)
        wish = [
            (stun.CHANNEL_NUMBER, number.to_bytes(2, "big") + b"\0\0"),
            (stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)),
        ]
        return self.ask(stun.CHANNEL_BIND, wish, transaction)

    def send(self, payload: bytes, peer: Addr = PEER, *attributes: Attribute) -> list[tuple[Addr, bytes]]:
        """A Send indication; what goes to peers."""
        transaction = self.random_bytes(12)
        wish = [
            (stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)),
            (stun.DATA, payload),
            *attributes,
        ]
        return self._to_peers(stun.build(stun.SEND, stun.INDICATION, transaction, wish))

    def channel(self, number: int, payload: bytes, *, size: int | None = None) -> list[tuple[Addr, bytes]]:
        """ChannelData; what goes to peers."""
        header = number.to_bytes(2, "big") + (len(payload) if size is None else size).to_bytes(2, "big")
        return self._to_peers(header + payload)

    def _to_peers(self, data: bytes) -> list[tuple[Addr, bytes]]:
        sent = []
        for action in self.world.handle(data, self.addr):
            assert action[0] == "peer" and action[1] is self.allocation
            sent.append((action[2], action[3]))
        return sent

    @property
    def allocation(self) -> Allocation:
        return self.world.server.allocations[self.addr]


class Reply:
    """A parsed reply."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.message: Message = stun.parse(raw)
        error = self.message.first(stun.ERROR_CODE)
        self.code = None if error is None else stun.unpack_error(error)[0]
        assert self.message.kind == (stun.SUCCESS if error is None else stun.ERROR)

    @property
    def lifetime_s(self) -> int:
        return stun.unpack_u32(self.message.first(stun.LIFETIME) or b"")

    @property
    def relayed(self) -> Addr:
        return stun.unpack_address(
            self.message.first(stun.XOR_RELAYED_ADDRESS) or b"", self.message.transaction
        )


def lifetime(seconds: int) -> Attribute:
    return stun.LIFETIME, seconds.to_bytes(4, "big")


def config(**changes: object) -> TurnConfig:
    """The usual configuration with changes."""
    settings: Mapping[str, object] = {"realm": REALM, "users": USERS, **changes}
    return TurnConfig(**settings)  # type: ignore[arg-type]  # the names are TurnConfig's own
