"""The 27 dangerous peer encodings, by every method and over every transport, against running relays.

coturn 4.6.1 refuses 6 of them. Each is asked for as its own kind: an address that nobody may have as a peer gets
403 (443 if it is not of the allocation's family, RFC 8656 section 10.2) and no permission; a service's port on an
address that is lawful otherwise gets 403 for a channel, and a Send is dropped although the address has a permission.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from commcli.relay.turn import stun
from commcli.relay.turn.stun import Addr, Attribute
from tests.hostile.edges import METRICS, OVERLAY, RELAY_PORTS, STAMP, TLS, TURN, Edge, Edges, running
from tests.hostile.wire import TRANSPORTS, SocketClient, a_client
from tests.relay.serving import free_port

SSH = 22  # a node is controlled through SSH; the control socket itself is a file of its user

ADDRESSES = {
    "127/8 loopback": "127.0.0.1",
    "0/8 this host": "0.0.0.0",
    "10/8 private": "10.1.2.3",
    "172.16/12 private": "172.16.0.1",
    "192.168/16 private": "192.168.1.1",
    "100.64/10 carrier NAT": "100.64.0.1",
    "169.254/16 cloud metadata": "169.254.169.254",
    "192.0.2/24 documentation": "192.0.2.1",
    "224/4 multicast": "224.0.0.1",
    "240/4 reserved": "240.0.0.1",
    "255.255.255.255 broadcast": "255.255.255.255",
    "::1 loopback": "::1",
    ":: unspecified": "::",
    "::ffff:x IPv4-mapped": "::ffff:127.0.0.1",
    "::x IPv4-compatible": "::127.0.0.1",
    "64:ff9b::/96 NAT64": "64:ff9b::7f00:1",
    "2002::/16 6to4": "2002:7f00:1::",
    "2001::/32 Teredo": "2001:0:7f00:1::1",
    "fe80::/10 link-local": "fe80::1",
    "fc00::/7 unique local": "fc00::1",
    "fec0::/10 site-local": "fec0::1",
    "ff00::/8 multicast": "ff02::1",
}
# Of the node itself, and of the other node of its fleet.
SERVICES = {
    "own control": ("own", SSH),
    "own metrics": ("own", METRICS),
    "own STAMP": ("own", STAMP),
    "own overlay": ("own", OVERLAY),
    "other node's control": ("other", SSH),
}
# Beyond the reference's list.
MORE_SERVICES = {
    "own TURN": ("own", TURN),
    "own TLS": ("own", TLS),
    "other node's TURN": ("other", TURN),
    "other node's metrics": ("other", METRICS),
    "other node's STAMP": ("other", STAMP),
    "other node's overlay": ("other", OVERLAY),
    "own port below the relay ports": ("own", RELAY_PORTS[0] - 1),
    "own port above the relay ports": ("own", RELAY_PORTS[1] + 1),
}
# Nothing is ever sent there: a permission sends nothing.
LAWFUL, LAWFUL6 = "8.8.4.4", "2a00:1450:4001::1"
FAMILY_6: Attribute = (stun.REQUESTED_ADDRESS_FAMILY, b"\2\0\0\0")


def test_there_are_27_of_them() -> None:
    assert len(ADDRESSES) + len(SERVICES) == 27


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edges]:
    running = Edges(tmp_path_factory.mktemp("edges"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Caught(NamedTuple):
    """What a relay dropped meanwhile, and what reached a socket that lay in wait."""

    drops: dict[str, int]
    reached: list[bytes]


def _send(edge: Edge, client: SocketClient, peer: Addr) -> Caught:
    """A Send indication to this peer, with a real socket in wait there if one can be."""
    before = Counter(edge.drops())
    with _trap(peer) as trap:
        client.send(b"GET / HTTP/1.0\r\n\r\n", peer)
        assert client.refresh(600).code is None  # answered after the Send was dealt with
        reached = _read(trap)
    # Where a node has several processes, the one that is asked hears of the others' drops a little later.
    status = edge.wait(lambda status: Counter(status["drops"]) > before)
    return Caught(dict(Counter(status["drops"]) - before), reached)


def _trap(peer: Addr) -> socket.socket:
    """A socket where a packet to this peer would come out on this machine; another one if that is taken or foreign."""
    ip = "127.0.0.1" if peer[0] == "0.0.0.0" else peer[0].removeprefix("::ffff:")
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((ip, peer[1]))
    except OSError:
        sock.close()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def _read(sock: socket.socket) -> list[bytes]:
    try:
        return [sock.recv(1500)]
    except BlockingIOError:
        return []


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("ip", ADDRESSES.values(), ids=ADDRESSES.keys())
def test_an_address_that_nobody_may_have_as_a_peer(edges: Edges, ip: str, transport: str) -> None:
    with a_client(edges.one.server(transport), transport) as client:
        assert client.allocate().code is None
        _refuses_everywhere(client, ip, LAWFUL, 443 if ":" in ip else 403)
        assert client.permit(LAWFUL).code is None  # one peer's permission is not another's
        assert _send(edges.one, client, (ip, 8080)) == ({"no_permission": 1}, [])


def _refuses_everywhere(client: SocketClient, ip: str, lawful: str, code: int = 403) -> None:
    assert client.permit(ip).code == code
    assert client.permit(lawful, ip).code == code
    assert client.permit(ip, lawful).code == code
    for port in (1, 80, RELAY_PORTS[0], 65535):
        assert client.bind(0x4000, (ip, port)).code == code


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A relay of both families; its IPv6 address is the only one that every machine has."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 on this machine's loopback: {error.strerror}")
    edge = Edge(tmp_path_factory.mktemp("six"), "edge-6", turn_port=free_port(), address6="::1")
    with running(edge):
        yield edge


@pytest.mark.parametrize("ip", [ip for ip in ADDRESSES.values() if ":" in ip and ip != "::1"])
def test_an_ipv6_allocation_refuses_them_too(six: Edge, ip: str) -> None:
    """An IPv4 one would have to refuse them for their family alone."""
    with a_client(six.server()) as client:
        assert client.allocate(FAMILY_6).code is None
        _refuses_everywhere(client, ip, LAWFUL6)


def test_its_own_ipv6_address_is_closed_but_for_relay_ports(six: Edge) -> None:
    with a_client(six.server()) as client:
        assert client.allocate(FAMILY_6).code is None
        for port in (
            SSH,
            six.turn_port,
            TLS,
            OVERLAY,
            STAMP,
            METRICS,
            RELAY_PORTS[0] - 1,
            RELAY_PORTS[1] + 1,
        ):
            assert client.bind(0x4000, ("::1", port)).code == 403
        assert client.bind(0x4000, ("::1", RELAY_PORTS[0])).code is None


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("whose", [*SERVICES, *MORE_SERVICES])
def test_a_port_of_our_own_services(edges: Edges, whose: str, transport: str) -> None:
    _is_a_service_of(edges.one, edges.two, whose, transport)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "whose", ["own metrics", "own STAMP", "own overlay", "own TURN", "own TLS", "other node's control"]
)
def test_our_own_services_stay_closed_where_loopback_was_opened_by_hand(
    edges: Edges, whose: str, transport: str
) -> None:
    _is_a_service_of(edges.two, edges.one, whose, transport)


def _is_a_service_of(edge: Edge, other: Edge, whose: str, transport: str) -> None:
    owner, port = {**SERVICES, **MORE_SERVICES}[whose]
    peer = (edge.address if owner == "own" else other.address, port)
    with a_client(edge.server(transport), transport) as client:
        assert client.allocate().code is None
        assert client.permit(peer[0]).code is None  # lawful: other clients' relayed addresses are there
        assert client.bind(0x4000, peer).code == 403
        assert _send(edge, client, peer) == ({"forbidden_peer": 1}, [])


@pytest.mark.parametrize("spelling", ["::ffff:{}", "::{}"], ids=["mapped", "compatible"])
@pytest.mark.parametrize("port", [OVERLAY, METRICS])
def test_another_spelling_of_our_own_address(edges: Edges, spelling: str, port: int) -> None:
    ip = spelling.format(edges.one.address)
    with a_client(edges.one.server()) as client:
        assert client.allocate().code is None
        assert client.bind(0x4000, (ip, port)).code in (403, 443)
        assert client.permit(ip).code in (403, 443)


# And what must work all the same


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("far", [False, True], ids=["of the same node", "of another node"])
def test_a_live_allocation_is_a_lawful_peer(edges: Edges, far: bool, transport: str) -> None:
    there = edges.two if far else edges.one
    with (
        a_client(edges.one.server(transport), transport) as caller,
        a_client(there.server(transport), transport, "bob", "builder") as callee,
    ):
        here, peer = caller.allocate().relayed, callee.allocate().relayed
        assert caller.bind(0x4000, peer).code is None
        assert callee.bind(0x4001, here).code is None
        for sender, number, receiver, mark in (
            (caller, 0x4000, callee, 0x4001),
            (callee, 0x4001, caller, 0x4000),
        ):
            sender.channel(number, b"media")
            assert receiver.hears() == mark.to_bytes(2, "big") + b"\0\5media"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_live_allocation_may_be_sent_to_without_a_channel(edges: Edges, transport: str) -> None:
    with (
        a_client(edges.one.server(transport), transport) as caller,
        a_client(edges.one.server(), "udp", "bob", "builder") as callee,
    ):
        here, peer = caller.allocate().relayed, callee.allocate().relayed
        assert caller.permit(peer[0]).code is None
        assert callee.permit(here[0]).code is None
        caller.send(b"hello", peer)
        message = stun.parse(callee.hears() or b"")
        assert message.first(stun.DATA) == b"hello"
        source = message.first(stun.XOR_PEER_ADDRESS) or b""
        assert stun.unpack_address(source, message.transaction) == here
