"""To which edge a client is sent: the prefix map, drains, families, TLS, markets and zones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.table.prefixes import PrefixMap
from commcli.relay.table.shard import Shard, ShardNode
from commcli.relay.table.zones import Zone
from commcli.relay.turn.alternates import Alternate, Alternates

NEAR_HK, NEAR_NOBODY = "203.0.113.9", "198.51.100.9"


def edge(number: int, *markets: str, **changes: Any) -> ShardNode:
    row = ShardNode(
        f"192.0.2.{number}", 3479, (40000, 42000), markets[0] if markets else None, frozenset(markets)
    )
    return replace(row, **{"turn_port": 3478, **changes})


NODES = {
    "de-1": edge(1, "de", address6="2001:db8::1", tls_port=443, domain="de-1.relay.example"),
    "hk-1": edge(2, "hk", "cn", address6="2001:db8::2", tls_port=5349, domain="hk-1.relay.example"),
    "id-1": edge(3, "id", "sg"),
    "in-1": edge(4, "in", turn_port=None),
    "jp-1": replace(edge(5, "jp", tls_port=5349), address="2001:db8::5"),
    "sg-1": edge(6, "sg", "cn", "id", address6="2001:db8::6", tls_port=5349),
}
PREFIXES = {
    "203.0.113.0/24": ["in-1", "hk-1", "de-1"],
    "203.0.113.128/25": ["sg-1", "hk-1"],
    "2001:db8:77::/48": ["id-1", "hk-1"],
    "10.0.0.0/8": ["jp-1", "in-1"],
}


def at_sg(
    nodes: dict[str, ShardNode] | None = None, zones: Sequence[Zone] = (), node: str = "sg-1"
) -> Alternates:
    prefixes = PrefixMap(PREFIXES)
    shard = Shard(1, node, "", "", 0.0, nodes or NODES, tuple(zones), {}, frozenset(), prefixes)
    return Alternates(shard)


def test_a_client_is_sent_to_its_nearest_edge_that_takes_clients() -> None:
    # in-1 stands first, and drains.
    assert at_sg().choose(NEAR_HK, "udp", False) == Alternate(("192.0.2.2", 3478), None)


@pytest.mark.parametrize(
    ("what", "client"),
    [
        ("this edge is the nearest, by the longer prefix", "203.0.113.200"),
        ("no prefix holds it", NEAR_NOBODY),
        ("nobody in the row takes clients of its family", "10.1.2.3"),
        ("no address", "nonsense"),
    ],
)
def test_a_client_stays(what: str, client: str) -> None:
    assert at_sg().choose(client, "udp", False) is None


def test_a_node_of_the_fleet_asks_the_edge_that_it_means() -> None:
    near = {**NODES, "de-1": edge(1, "de", address6="2001:db8:77::1")}
    near["in-1"] = replace(near["in-1"], address="203.0.113.9")
    for draining in (False, True):
        assert at_sg(near).choose("203.0.113.9", "udp", draining) is None
        assert at_sg(near).choose("2001:db8:77::1", "udp", draining) is None
        assert at_sg(near).choose("203.0.113.8", "udp", draining) is not None


def test_an_edge_that_takes_no_clients_is_not_the_nearest_even_if_it_is_us() -> None:
    closed = {**NODES, "sg-1": replace(NODES["sg-1"], turn_port=None, tls_port=None)}
    assert at_sg(closed).choose("203.0.113.200", "udp", False) == (("192.0.2.2", 3478), None)
    assert at_sg(closed).choose(NEAR_NOBODY, "udp", False) is None


def test_over_tls_only_an_edge_with_tls_and_its_name() -> None:
    alternates = at_sg({**NODES, "in-1": edge(4, "in")})
    assert alternates.choose(NEAR_HK, "udp", False) == (("192.0.2.4", 3478), None)
    assert alternates.choose(NEAR_HK, "tcp", False) == (("192.0.2.4", 3478), None)
    assert alternates.choose(NEAR_HK, "tls", False) == (("192.0.2.2", 5349), "hk-1.relay.example")


def test_a_client_keeps_its_family() -> None:
    # id-1 has no IPv6 address; jp-1 has no other.
    assert at_sg().choose("2001:db8:77::9", "udp", False) == (("2001:db8::2", 3478), None)
    six = at_sg({**NODES, "id-1": replace(NODES["jp-1"], markets=frozenset({"id"}))})
    assert six.choose("2001:db8:77::9", "tls", False) == (("2001:db8::5", 5349), None)


def test_ipv4_on_an_ipv6_socket_is_ipv4() -> None:
    assert at_sg().choose(f"::ffff:{NEAR_HK}", "udp", False) == (("192.0.2.2", 3478), None)


def test_an_edge_that_does_not_answer_is_not_named() -> None:
    alternates = at_sg()
    alternates.measured({"hk-1": None, "de-1": 160.0})
    assert alternates.choose(NEAR_HK, "udp", False) == (("192.0.2.1", 3478), None)
    alternates.measured({"hk-1": None, "de-1": None})
    assert alternates.choose(NEAR_HK, "udp", False) is None, "better here than nowhere"


# Draining


NEAR_SG = "203.0.113.200"
# sg-1 drains, and the table says so.
SHUT = {**NODES, "sg-1": replace(NODES["sg-1"], turn_port=None, tls_port=None)}


def test_a_drained_edge_names_the_next_one_of_the_row() -> None:
    assert at_sg(SHUT).choose(NEAR_SG, "udp", True) == (("192.0.2.2", 3478), None)


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("client", [NEAR_SG, NEAR_HK, NEAR_NOBODY, "2001:db8:77::9"])
@pytest.mark.parametrize("nodes", [NODES, SHUT], ids=["drained by hand", "drained by the table"])
def test_whoever_is_named_keeps_the_client(nodes: dict[str, ShardNode], client: str, draining: bool) -> None:
    """Else the client would go to and fro, and give up (RFC 8489 section 10)."""
    named = at_sg(nodes).choose(client, "udp", draining)
    if named is not None:
        addresses = {row.address: name for name, row in nodes.items()}
        addresses |= {row.address6: name for name, row in nodes.items() if row.address6 is not None}
        assert at_sg(nodes, node=addresses[named.address[0]]).choose(client, "udp", False) is None


def test_the_first_of_a_row_names_nobody_until_the_table_shuts_its_door() -> None:
    assert at_sg().choose(NEAR_SG, "udp", True) is None
    assert at_sg(node="hk-1").choose(NEAR_SG, "udp", True) == (("192.0.2.6", 3478), None)


def test_without_a_row_it_names_the_nearest_edge_that_shares_a_market() -> None:
    alternates = at_sg()
    assert alternates.choose(NEAR_NOBODY, "udp", True) == (("192.0.2.2", 3478), None), "in order: hk-1, id-1"
    alternates.measured({"hk-1": 35.0, "id-1": 12.0, "de-1": 1.0})
    assert alternates.choose(NEAR_NOBODY, "udp", True) == (("192.0.2.3", 3478), None)
    alternates.measured({"hk-1": 35.0, "id-1": None})
    assert alternates.choose(NEAR_NOBODY, "udp", True) == (("192.0.2.2", 3478), None)


def test_a_row_may_name_an_edge_of_no_common_market_and_nothing_else_may() -> None:
    alternates = at_sg(node="de-1")
    assert alternates.choose(NEAR_NOBODY, "udp", True) is None
    assert alternates.choose(NEAR_HK, "udp", True) == (("192.0.2.2", 3478), None)


def test_who_must_go_takes_an_edge_that_answers_before_one_that_does_not() -> None:
    alternates = at_sg(SHUT)
    alternates.measured({"hk-1": None, "id-1": 12.0})
    assert alternates.choose(NEAR_SG, "udp", True) == (("192.0.2.3", 3478), None)
    alternates.measured({"hk-1": None, "id-1": None})
    assert alternates.choose("203.0.113.200", "udp", True) == (("192.0.2.2", 3478), None)


def test_a_redirect_loses_no_zone() -> None:
    china = Zone("cn", (frozenset({"cn"}), frozenset({"*"})), frozenset({"us"}))
    alternates = at_sg(zones=[china])
    # id-1 serves sg and id as sg-1 does, but a client of cn would be out of the zone there.
    alternates.measured({"hk-1": 35.0, "id-1": 12.0})
    assert alternates.choose(NEAR_NOBODY, "udp", True) == (("192.0.2.2", 3478), None)
    # A zone of others, and one for everybody, are lost nowhere.
    others = Zone("de", (frozenset({"de"}), frozenset({"*"})), frozenset({"us"}))
    alternates = at_sg(zones=[others, Zone("all", (frozenset({"*"}), frozenset({"*"})), frozenset({"kp"}))])
    alternates.measured({"hk-1": 35.0, "id-1": 12.0})
    assert alternates.choose(NEAR_NOBODY, "udp", True) == (("192.0.2.3", 3478), None)


def test_a_table_without_doors_names_nobody() -> None:
    old = {name: replace(row, turn_port=None, tls_port=None, domain=None) for name, row in NODES.items()}
    for draining in (False, True):
        assert at_sg(old).choose(NEAR_HK, "udp", draining) is None


@given(
    st.sampled_from([NEAR_HK, NEAR_NOBODY, "203.0.113.200", "10.1.2.3", "2001:db8:77::9", "2001:db8:9::9"]),
    st.sampled_from(["udp", "tcp", "tls"]),
    st.booleans(),
    st.dictionaries(st.sampled_from(sorted(NODES)), st.none() | st.floats(0, 500)),
    st.sampled_from(sorted(NODES)),
)
def test_whoever_is_named_can_take_the_client(
    client: str, transport: str, draining: bool, rtt_ms: dict[str, float | None], node: str
) -> None:
    alternates = at_sg(node=node)
    alternates.measured(rtt_ms)
    found = alternates.choose(client, transport, draining)
    if found is None:
        return
    (name,) = [n for n, row in NODES.items() if found.address[0] in (row.address, row.address6)]
    row = NODES[name]
    assert name != node and row.turn_port is not None
    assert (":" in found.address[0]) == (":" in client)
    assert found.address[1] == (row.tls_port if transport == "tls" else row.turn_port)
    assert found.domain == (row.domain if transport == "tls" else None)
    in_row = name in PrefixMap(PREFIXES).look_up(client)
    assert in_row or (draining and row.markets & NODES[node].markets)
    assert draining or rtt_ms.get(name, 0.0) is not None
