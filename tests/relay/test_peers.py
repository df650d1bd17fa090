"""Which peers the policy lets through."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.turn.peers import PeerPolicy

# The address forms among the reference's dangerous peers. The five kinds of service port are tested further down.
DANGEROUS = [
    "127.0.0.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::1",
    "fe80::1",
    "fc00::1",
    "fec0::1",
    "ff02::1",
]
MORE = [
    "0.1.2.3",
    "127.255.255.254",
    "172.31.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "239.255.255.255",
    "::ffff:10.0.0.1",
    "::ffff:0:10.0.0.1",
    "::8.8.8.8",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::a00:1",
    "2002:808:808::1",
    "2001:0:808:808::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "fd00:ec2::254",
    "febf::1",
    "100::1",
    "5f00::1",
    "fe80::1%eth0",
]
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "169.253.255.255",
    "223.255.255.255",
    "168.63.129.17",
    "::ffff:8.8.8.8",
    "2a00:1450:4001::1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2003::1",
]
SG, HK, TWO, LONE = "127.77.0.3", "51.15.0.9", "10.7.0.4", "10.7.0.5"
SERVICES = (3478, 3479, 3480, 9478)


@pytest.mark.parametrize("ip", DANGEROUS + MORE)
def test_denied_by_default(ip: str) -> None:
    policy = PeerPolicy()
    assert not policy.permits(ip)
    assert not policy.permits(ip, 40000)


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_peers_are_what_a_relay_is_for(ip: str) -> None:
    assert PeerPolicy().permits(ip)
    assert PeerPolicy().permits(ip, 40000)


@pytest.mark.parametrize("ip", ["", "localhost", "127.1", "0x7f000001", "2130706433", "127.0.0.1/8", "::g"])
def test_what_is_no_address_is_denied(ip: str) -> None:
    assert not PeerPolicy(["0.0.0.0/0", "::/0"]).permits(ip, 40000)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_denied(port: int) -> None:
    assert not PeerPolicy().permits("8.8.8.8", port)


def test_allowed_networks_open_exactly_themselves() -> None:
    policy = PeerPolicy(["127.77.0.0/24", "fd00:1::/64"])
    assert policy.permits("127.77.0.9", 5000)
    assert policy.permits("::ffff:127.77.0.9", 5000)  # the kernel sends it to the same place
    assert policy.permits("fd00:1::5", 5000)
    assert not policy.permits("127.77.1.9", 5000)
    assert not policy.permits("fd00:2::5", 5000)
    assert policy.permits("8.8.8.8", 53)


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("64:ff9b::a00:1", "64:ff9b::/96"),
        ("2002:a00:1::1", "2002::/16"),
        ("2001:0:808:808:0:0:f5ff:fffe", "2001::/32"),
    ],
)
def test_a_tunnel_that_is_allowed_must_still_end_where_peers_may_go(ip: str, network: str) -> None:
    """All three end at 10.0.0.1."""
    assert not PeerPolicy([network]).permits(ip, 5000)
    assert PeerPolicy([network, "10.0.0.0/8"]).permits(ip, 5000)


def test_an_allowed_translation_of_a_public_address_is_permitted() -> None:
    assert PeerPolicy(["64:ff9b::/96"]).permits("64:ff9b::8.8.8.8", 5000)


def _fleet(*allow: str) -> PeerPolicy:
    """Node sg-1 itself (on a private address); two neighbours at one address, one at another, and one that the
    table does not name."""
    return PeerPolicy(
        allow,
        relays={SG: (40000, 42000)},
        own_addresses=[SG],
        service_ports=SERVICES,
        neighbours=[(HK, (50000, 51000)), (HK, (52000, 53000)), (TWO, (50000, 51000))],
        services=[(HK, 50777), (LONE, 4000)],
    )


@pytest.mark.parametrize(
    ("ip", "port", "good"),
    [
        (SG, None, True),
        (SG, 40000, True),
        (SG, 42000, True),
        (SG, 39999, False),
        (SG, 42001, False),
        (SG, 22, False),
        (HK, None, True),
        (HK, 50500, True),
        (HK, 52500, True),
        (HK, 51500, False),
        (HK, 50777, False),
        (HK, 40500, False),
        (TWO, None, True),
        (TWO, 50500, True),
        (TWO, 22, False),
        (HK, 22, False),
        ("::ffff:51.15.0.9", 22, False),
        ("51.15.0.10", 22, True),
    ],
)
def test_of_fleet_nodes_only_the_relay_ports_are_open(ip: str, port: int | None, good: bool) -> None:
    assert _fleet().permits(ip, port) is good


@pytest.mark.parametrize("port", SERVICES)
@pytest.mark.parametrize(
    "ip", [SG, HK, "127.0.0.1", "127.0.0.99", "0.0.0.0", "::1", "::", f"::ffff:{SG}", "::127.0.0.1"]
)
def test_service_ports_are_closed_whatever_is_allowed(ip: str, port: int) -> None:
    assert not _fleet("0.0.0.0/0", "::/0").permits(ip, port)


@pytest.mark.parametrize(
    ("ip", "port", "good"),
    [
        (SG, 5000, True),
        ("127.0.0.1", 5000, True),
        ("0.0.0.0", 5000, True),
        ("::1", 5000, True),
        # Another node's ports are its services, also where they are not the same numbers as ours.
        (HK, 50500, True),
        (HK, 5000, False),
        (f"::ffff:{TWO}", 5000, False),
        (TWO, 3999, False),
        # Before there is a table: what the peers' file says.
        (LONE, 4000, False),
        (LONE, 5000, True),
    ],
)
def test_what_is_allowed_does_not_open_other_nodes_but_for_their_relay_ports(
    ip: str, port: int, good: bool
) -> None:
    assert _fleet("0.0.0.0/0", "::/0").permits(ip, port) is good


def test_service_ports_of_strangers_are_their_own_business() -> None:
    assert _fleet().permits("8.8.8.8", 3478)


def test_a_service_port_inside_the_relay_range_stays_closed() -> None:
    policy = PeerPolicy(relays={SG: (3000, 4000)}, own_addresses=[SG], service_ports=[3479])
    assert policy.permits(SG, 3478)
    assert not policy.permits(SG, 3479)


def test_the_own_public_address_is_closed_but_for_relay_ports() -> None:
    assert not PeerPolicy(own_addresses=["51.15.0.1"]).permits("51.15.0.1", 5000)


def test_asking_about_ever_new_ports_does_not_grow_the_memory() -> None:
    policy = PeerPolicy()
    for port in range(1, 20_000):
        assert policy.permits("8.8.8.8", port)
    assert len(policy._memory) <= 4096


@given(st.ip_addresses(), st.none() | st.integers(1, 65535))
def test_nothing_private_gets_through(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> None:
    """Against Python's own opinion, which changes between releases but never calls these global."""
    inner = getattr(address, "ipv4_mapped", None) or address
    if not inner.is_global or inner.is_multicast or inner.is_reserved:
        assert not PeerPolicy().permits(str(address), port)


@given(st.ip_addresses(v=4))
def test_all_spellings_of_an_ipv4_address_are_judged_alike(address: ipaddress.IPv4Address) -> None:
    assert PeerPolicy().permits(f"::ffff:{address}", 5000) is PeerPolicy().permits(str(address), 5000)
