"""Chains of two, three and four relays: what arrives, what is refused and why, and what the counters say."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.overlay.flows import Flow, FlowTable
from commcli.relay.overlay.overlay import MAX_PROBES_A_TICK, MAX_STEPS, Overlay
from commcli.relay.overlay.wire import Addr, ReplayWindow, node_number, pack_endpoints
from commcli.relay.table.zones import Zone
from tests.relay.overlay_world import PORTS, UNIX_0, Plan, World, pair_key

CHAINS = [["br-1", "hk-1"], ["br-1", "us-1", "hk-1"], ["br-1", "us-1", "sg-1", "hk-1"]]
NODES = ["br-1", "us-1", "sg-1", "hk-1", "xx-1"]


def world(*paths: Sequence[str], **changes: object) -> World:
    """A world whose table holds these paths and, for media back, the reverse ones."""
    both = [*paths, *(list(path)[::-1] for path in paths)]
    return World(Plan(NODES, both, **changes))  # type: ignore[arg-type]


def number(node: str) -> bytes:
    """The header's number of a node, from the specification, not from the code under test."""
    return hashlib.blake2s(node.encode()).digest()[:4]


def sealed(message: bytes, sender: str, receiver: str) -> bytes:
    key = pair_key(sender, receiver)
    return message + hashlib.blake2s(message, key=key, person=b"commov1", digest_size=16).digest()


def header(
    path: Sequence[str], position: int, sequence: int, *, kind: int = 1, hops: int | None = None,
    unix: float = UNIX_0 + 100,
) -> bytes:  # fmt: skip
    """A header by hand."""
    count = len(path) if hops is None else hops
    fixed = struct.pack(">BBHIQQ", 16 | kind, count << 4 | position, 0, 7, sequence, int(unix * 1e6))
    return fixed + b"".join(number(node) for node in path)


def body(plan: Plan, src: str, dst: str, payload: bytes = b"media") -> bytes:
    one, other = plan.relayed(src), plan.relayed(dst)
    packed = [bytes(map(int, ip.split("."))) for ip in (one[0], other[0])]
    return struct.pack(">BB4sH4sH", 4, 0, packed[0], one[1], packed[1], other[1]) + payload


def written(addr: Addr) -> str:
    return f"{addr[0]}:{addr[1]}"


@pytest.mark.parametrize("path", CHAINS, ids=len)
def test_media_arrives_both_ways_and_every_hop_counts_it(path: list[str]) -> None:
    net = world(path)
    net.say(path[0], path[-1], b"bom dia")
    net.say(path[0], path[-1], b"!" * 1200)
    net.say(path[-1], path[0], b"")
    net.settle()
    here, there = net.plan.relayed(path[0]), net.plan.relayed(path[-1])
    assert sorted(net.delivered) == sorted(
        [
            (path[-1], here, there, b"bom dia"),
            (path[-1], here, there, b"!" * 1200),
            (path[0], there, here, b""),
        ]
    )
    for place, node in enumerate(path):
        role = "ingress" if place == 0 else "egress" if place == len(path) - 1 else "transit"
        row = next(row for row in net.nodes[node].flows() if row["src"] == written(here))
        assert row["role"] == role
        assert row["path"] == path
        assert row["dst"] == written(there)
        assert (row["packets"], row["bytes"]) == (2, 1207)
        assert UNIX_0 <= float(str(row["first_unix"])) <= float(str(row["last_unix"])) <= net.unix
        assert not net.nodes[node].drops


def test_the_wire_is_as_specified() -> None:
    net = world(CHAINS[1])
    net.say("br-1", "hk-1", b"media")
    net.settle()
    (_, _, first), (_, _, second) = net.passed
    sent = net.passed[0][2]
    sequence = struct.unpack_from(">Q", sent, 8)[0]
    assert sequence == int((UNIX_0 + 100) * 1e6)
    path = CHAINS[1]
    expected = header(path, 1, sequence) + body(net.plan, "br-1", "hk-1")
    assert first == sealed(expected, "br-1", "us-1")
    (sequence, sent_us) = struct.unpack_from(">QQ", second, 8)
    expected = header(path, 2, sequence, unix=sent_us / 1e6) + body(net.plan, "br-1", "hk-1")
    assert second == sealed(expected, "us-1", "hk-1")


def test_ipv6_rides_too() -> None:
    plan = Plan(NODES, [CHAINS[0]])
    plan.address = lambda node: f"2001:db8::{NODES.index(node) + 1}"  # type: ignore[method-assign]
    net = World(plan)
    net.say("br-1", "hk-1", b"media")
    net.settle()
    assert net.delivered == [("hk-1", ("2001:db8::1", 40001), ("2001:db8::4", 40001), b"media")]


def test_who_owns_a_relayed_address() -> None:
    overlay = world(CHAINS[0]).nodes["br-1"]
    assert overlay.egress_of("192.0.2.4", PORTS[0]) == "hk-1"
    assert overlay.egress_of("192.0.2.4", PORTS[1]) == "hk-1"
    assert overlay.egress_of("192.0.2.4", PORTS[1] + 1) is None
    assert overlay.egress_of("192.0.2.4", 3478) is None
    assert overlay.egress_of("192.0.2.1", 40001) is None  # our own
    assert overlay.egress_of("198.51.100.1", 40001) is None
    overlay.set_shard(None)
    assert overlay.egress_of("192.0.2.4", PORTS[0]) is None


def test_an_egress_without_a_permitted_path_is_not_reached() -> None:
    net = World(Plan(NODES, [["br-1", "hk-1"]], blocked=[("br-1", "hk-1")]))
    for _ in range(3):
        net.say("br-1", "hk-1", b"media")
        net.say("br-1", "sg-1", b"media")
    assert net.passed == []
    assert net.nodes["br-1"].drops == {"blocked": 3, "no_route": 3}
    net.run(1)
    assert net.passed == []  # not even a probe


def test_too_long_for_a_datagram() -> None:
    net = world(CHAINS[0])
    net.say("br-1", "hk-1", b"x" * 65500)
    assert net.passed == []
    assert net.nodes["br-1"].drops == {"too_long": 1}


Spoil = Callable[[bytes], bytes]


def first_segment(net: World) -> bytes:
    net.say("br-1", "hk-1", b"media")
    return net.passed[-1][2]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "forged"),
        (lambda data: data + b"x", "forged"),
        (lambda data: data[:40], "length"),
        (lambda data: b"", "length"),
        (lambda data: data + b"x" * 65508, "length"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "forged"),
        (lambda data: data[:-16] + bytes(16), "forged"),
        (lambda data: bytes([data[0] ^ 3]) + data[1:], "forged"),
        (lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:], "forged"),
        (lambda data: data[:7] + bytes([data[7] ^ 1]) + data[8:], "forged"),
        (lambda data: data[:15] + bytes([data[15] ^ 1]) + data[16:], "forged"),
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], "forged"),
        (lambda data: data[:-20] + b"MEDIA"[:4] + data[-16:], "forged"),
        (lambda data: sealed(data[:-16], "br-1", "sg-1"), "forged"),  # another pair's key
    ],
)
def test_a_spoiled_datagram_is_dropped_and_counted(spoil: Spoil, reason: str) -> None:
    net = world(CHAINS[1])
    net.hand("us-1", spoil(first_segment(net)), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {reason: 1}
    assert len(net.passed) == 1
    assert net.nodes["us-1"].flows() == []


def test_a_good_one_passes_the_same_way() -> None:
    net = world(CHAINS[1])
    net.hand("us-1", first_segment(net), net.plan.overlay("br-1"))
    assert len(net.passed) == 2


def test_a_replayed_one_passes_once() -> None:
    net = world(CHAINS[1])
    data = first_segment(net)
    for _ in range(3):
        net.hand("us-1", data, net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"replayed": 2}
    assert len(net.passed) == 2


def test_an_old_recording_does_not_pass_a_relay_that_has_just_started() -> None:
    net = world(CHAINS[1])
    data = first_segment(net)
    net.settle()
    net.now += 61
    net.nodes["us-1"] = net.start("us-1")
    net.hand("us-1", data, net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"stale": 1}
    net.say("br-1", "hk-1", b"fresh")
    net.settle()
    assert [row[3] for row in net.delivered] == [b"media", b"fresh"]
    net.hand("us-1", data, net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"stale": 1, "replayed": 1}


def test_a_sender_that_has_just_started_is_heard_at_once() -> None:
    net = world(CHAINS[0])
    for _ in range(5000):
        net.say("br-1", "hk-1", b"before")
    net.settle()
    net.now += 1
    net.nodes["br-1"] = net.start("br-1")
    net.say("br-1", "hk-1", b"after")
    net.settle()
    assert net.delivered[-1][3] == b"after"


def test_a_sender_whose_clock_was_ahead_is_not_shut_out_for_ever() -> None:
    """Its clock was 50 s ahead, was set right, and it restarted: its numbers are lower than before."""
    net = world(CHAINS[0])
    src, dst = net.plan.relayed("br-1"), net.plan.relayed("hk-1")
    ((_, old),) = net.nodes["br-1"].send("hk-1", src, dst, b"old", net.now, net.unix + 50)
    net.hand("hk-1", old, net.plan.overlay("br-1"))
    net.nodes["br-1"] = net.start("br-1")
    net.say("br-1", "hk-1", b"too soon")
    net.settle()
    net.now += 119
    net.hand("hk-1", old, net.plan.overlay("br-1"))
    net.say("br-1", "hk-1", b"still too soon")
    net.settle()
    assert net.nodes["hk-1"].drops == {"replayed": 3}
    net.now += 2
    net.hand("hk-1", old, net.plan.overlay("br-1"))  # a recording is still refused
    net.say("br-1", "hk-1", b"heard")
    net.say("br-1", "hk-1", b"and again")
    net.settle()
    net.hand("hk-1", net.passed[0][2], net.plan.overlay("br-1"))
    assert net.nodes["hk-1"].drops == {"replayed": 5}
    assert [row[3] for row in net.delivered] == [b"old", b"heard", b"and again"]


@pytest.mark.parametrize(
    ("path", "position", "hops", "reason"),
    [
        (["br-1", "us-1", "hk-1"], 1, None, None),
        (["br-1", "us-1"], 1, None, None),
        (["br-1", "us-1", "hk-1"], 0, None, "not_for_us"),
        (["br-1", "us-1", "hk-1"], 2, None, "not_for_us"),
        (["br-1", "us-1", "hk-1"], 3, None, "not_for_us"),
        (["br-1", "us-1", "hk-1"], 15, None, "not_for_us"),
        (["us-1", "hk-1", "br-1"], 0, None, "not_for_us"),
        (["br-1", "hk-1", "us-1"], 1, None, "not_for_us"),
        (["sg-1", "us-1", "hk-1"], 1, None, "wrong_source"),
        (["zz-9", "us-1", "hk-1"], 1, None, "unknown_hop"),
        (["br-1", "us-1", "zz-9"], 1, None, "unknown_hop"),
        (["br-1", "us-1", "zz-9", "hk-1"], 1, None, "unknown_hop"),
        (["br-1", "us-1", "br-1"], 1, None, "loop"),
        (["br-1", "us-1", "us-1", "hk-1"], 1, None, "loop"),
        (["br-1", "us-1", "hk-1", "hk-1"], 1, None, "loop"),
        (["br-1"], 0, None, "hops"),
        ([], 0, None, "hops"),
        (["br-1", "us-1", "sg-1", "xx-1", "hk-1"], 1, None, "hops"),
        (["br-1", "us-1", "hk-1"], 1, 15, "hops"),
        (["br-1", "us-1", "xx-1", "hk-1"], 1, None, "zone"),
        (["br-1", "us-1", "xx-1"], 1, None, "zone"),
    ],
)
def test_a_source_route_of_a_relay_gone_bad(
    path: list[str], position: int, hops: int | None, reason: str | None
) -> None:
    """br-1 holds good keys and writes any header it likes; us-1 is the one who must notice."""
    net = world(CHAINS[1], zones=(Zone("no-xx", (frozenset({"br"}), frozenset({"*"})), frozenset({"xx"})),))
    one, other = (path[0], path[-1]) if len(path) > 1 and "zz-9" not in path else ("br-1", "hk-1")
    message = header(path, position, 5, hops=hops) + body(net.plan, one, other, b"media" * 20)
    net.hand("us-1", sealed(message, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == ({} if reason is None else {reason: 1})
    assert len(net.passed) + len(net.delivered) == (1 if reason is None else 0)


def test_right_key_wrong_address() -> None:
    net = world(CHAINS[1])
    data = first_segment(net)
    net.hand("us-1", data, ("192.0.2.1", 9999))
    net.hand("us-1", data, ("198.51.100.7", 3479))
    net.hand("us-1", data, net.plan.overlay("sg-1"))
    assert net.nodes["us-1"].drops == {"unknown_peer": 2, "forged": 1}


def test_the_second_neighbour_of_a_path_may_not_pose_as_the_first() -> None:
    """The path was judged (and remembered) for br-1; sg-1 sends the same header under its own key."""
    net = world(CHAINS[1])
    net.hand("us-1", first_segment(net), net.plan.overlay("br-1"))
    message = header(CHAINS[1], 1, 5) + body(net.plan, "br-1", "hk-1")
    net.hand("us-1", sealed(message, "sg-1", "us-1"), net.plan.overlay("sg-1"))
    assert net.nodes["us-1"].drops == {"wrong_source": 1}


@pytest.mark.parametrize(
    ("src", "dst"),
    [
        (("192.0.2.3", 40001), ("192.0.2.4", 40001)),  # another relay's user
        (("192.0.2.1", 40001), ("192.0.2.3", 40001)),  # another relay's address
        (("192.0.2.1", 40001), ("10.0.0.1", 40001)),
        (("192.0.2.1", 40001), ("192.0.2.4", 22)),  # not a relayed port
        (("192.0.2.1", 3479), ("192.0.2.4", 40001)),
        (("2001:db8::1", 40001), ("2001:db8::2", 40001)),
    ],
)
def test_only_the_edges_own_relayed_addresses_ride(src: tuple[str, int], dst: tuple[str, int]) -> None:
    net = world(CHAINS[1])
    message = header(CHAINS[1], 1, 5) + pack_endpoints(src, dst) + b"media"
    net.hand("us-1", sealed(message, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"endpoint": 1}
    assert net.passed == []


@pytest.mark.parametrize(
    "tail",
    [b"\x05\x00" + bytes(50), b"\x04\x01" + bytes(50), b"\x06\x00" + bytes(30), b"\x04\x00" + bytes(11)],
)
def test_a_body_that_is_none(tail: bytes) -> None:
    net = world(CHAINS[1])
    net.hand("us-1", sealed(header(CHAINS[1], 1, 5) + tail, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"shape": 1}


def test_a_version_or_kind_that_does_not_exist() -> None:
    net = world(CHAINS[1])
    good = header(CHAINS[1], 1, 5) + body(net.plan, "br-1", "hk-1")
    for place, first in enumerate((0x10, 0x14, 0x1F, 0x21, 0x00)):
        message = bytes([first]) + good[1:15] + bytes([place]) + good[16:]
        net.hand("us-1", sealed(message, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"version": 5}


def test_reserved_bits_are_refused() -> None:
    net = world(CHAINS[1])
    good = header(CHAINS[1], 1, 5) + body(net.plan, "br-1", "hk-1")
    message = good[:2] + b"\0\1" + good[4:]
    net.hand("us-1", sealed(message, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"shape": 1}


def test_a_new_zone_stops_a_path_at_once() -> None:
    net = world(CHAINS[1])
    net.say("br-1", "hk-1", b"before")
    net.settle()
    forbidding = Plan(NODES, [], (Zone("no-us", (frozenset({"*"}), frozenset({"*"})), frozenset({"us"})),))
    net.nodes["us-1"].set_shard(forbidding.shard("us-1"))
    net.say("br-1", "hk-1", b"after")
    net.settle()
    assert [row[3] for row in net.delivered] == [b"before"]
    assert net.nodes["us-1"].drops == {"zone": 1}


def test_without_a_table_nothing_passes_and_mixed_tables_do_no_harm() -> None:
    net = world(CHAINS[1])
    net.nodes["us-1"].set_shard(None)
    net.say("br-1", "hk-1", b"lost")
    net.settle()
    assert net.nodes["us-1"].drops == {"no_table": 1}
    net.nodes["us-1"].set_shard(Plan(NODES, [], serial=6).shard("us-1"))  # an older one, without that route
    net.say("br-1", "hk-1", b"found")
    net.settle()
    assert [row[3] for row in net.delivered] == [b"found"]


def test_without_a_key_for_the_next_hop() -> None:
    net = world(CHAINS[1])
    rows = net.plan.peers("us-1")
    del rows["hk-1"]
    net.nodes["us-1"].set_peers(rows)
    net.say("br-1", "hk-1", b"lost")
    net.settle()
    assert net.nodes["us-1"].drops == {"no_key": 1}
    assert net.delivered == []


def test_an_ingress_without_the_primary_key_takes_the_backup() -> None:
    net = World(Plan(NODES, [["br-1", "us-1", "hk-1"], ["br-1", "sg-1", "hk-1"]]))
    rows = net.plan.peers("br-1")
    del rows["us-1"]
    net.nodes["br-1"].set_peers(rows)
    net.say("br-1", "hk-1", b"media")
    net.settle()
    assert [(a, b) for a, b, _ in net.passed] == [("br-1", "sg-1"), ("sg-1", "hk-1")]


def test_keys_rotate_without_a_lost_packet() -> None:
    net = world(CHAINS[0])
    new = "ab" * 32

    def keys(node: str, *texts: str) -> None:
        rows = net.plan.peers(node)
        for row in rows.values():
            assert isinstance(row, dict)
            row["keys"] = [*texts] if texts else row["keys"]
        net.nodes[node].set_peers(rows)

    old = pair_key("br-1", "hk-1").hex()
    for step in (("hk-1", old, new), ("br-1", new, old), ("hk-1", new), ("br-1", new)):
        keys(*step)
        net.say("br-1", "hk-1", b"media")
        net.say("hk-1", "br-1", b"media")
        net.settle()
    assert len(net.delivered) == 8
    net.nodes["hk-1"].set_peers(net.plan.peers("hk-1"))  # back to the old key alone: the new one is forged
    net.say("br-1", "hk-1", b"media")
    net.settle()
    assert net.nodes["hk-1"].drops == {"forged": 1}


@pytest.mark.parametrize(
    "row",
    [
        3,
        {"address": "relay.example", "overlay_port": 1, "stamp_port": 1, "keys": []},
        {"address": "192.0.2.1", "overlay_port": 0, "stamp_port": 1, "keys": []},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": "1", "keys": []},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": 1, "keys": "ab" * 32},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": 1, "keys": ["ab" * 31]},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": 1, "keys": ["zz" * 32]},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": 1, "keys": [7]},
        {"address": "192.0.2.1", "overlay_port": 1, "stamp_port": 1, "keys": [], "also": 1},
    ],
)
def test_a_bad_peers_file_changes_nothing_and_tells_no_key(row: object) -> None:
    net = world(CHAINS[0])
    with pytest.raises(ValueError, match="peer hk-1") as caught:
        net.nodes["br-1"].set_peers({**net.plan.peers("br-1"), "hk-1": row})
    assert "zz" * 32 not in str(caught.value)
    assert "ab" * 31 not in str(caught.value)
    net.say("br-1", "hk-1", b"media")
    net.settle()
    assert len(net.delivered) == 1


THREE = [["br-1", "us-1", "hk-1"], ["br-1", "sg-1", "hk-1"], ["br-1", "hk-1"]]
BACK = [path[::-1] for path in THREE]


def to_hk(net: World) -> dict[str, Any]:
    """What br-1 says of its paths to hk-1."""
    paths: Any = net.nodes["br-1"].status()["paths"]
    found: dict[str, Any] = paths["hk-1"]
    return found


def gaps(net: World, node: str) -> float:
    """The longest time between two deliveries at a node."""
    times = [float(payload) for where, _, _, payload in net.delivered if where == node]
    return max(b - a for a, b in itertools.pairwise(times))


def test_the_death_of_an_intermediate_costs_a_short_gap_and_it_returns_after_30_s() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    talk = {"br-1": "hk-1", "hk-1": "br-1"}
    net.run(5, talk)
    assert to_hk(net)["active"] == "primary"
    net.stopped.add("us-1")
    net.run(10, talk)
    for node in ("br-1", "hk-1"):
        assert gaps(net, node) < 0.4
    assert (to_hk(net)["active"], to_hk(net)["path"]) == ("backup", THREE[1])
    (switch,) = to_hk(net)["switches"]
    assert (switch["from"], switch["to"]) == ("primary", "backup")
    assert 0 < switch["unix"] - (UNIX_0 + 105) < 0.4
    net.stopped.clear()
    net.run(20, talk)
    assert to_hk(net)["active"] == "backup"
    net.run(15, talk)
    assert to_hk(net)["active"] == "primary"
    ridden = [row["path"] for row in net.nodes["br-1"].flows() if row["role"] == "ingress"]
    assert THREE[0] in ridden
    assert THREE[1] in ridden
    assert THREE[2] not in ridden


def test_a_death_in_our_direction_alone_is_noticed_while_media_still_comes_in() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    talk = {"br-1": "hk-1", "hk-1": "br-1"}
    net.run(5, talk)
    net.delay_s = lambda a, b: None if (a, b) == ("us-1", "hk-1") else 0.01
    net.run(3, talk)
    assert to_hk(net)["active"] == "backup"


def test_all_intermediates_dead_leaves_the_last_resort() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    net.run(5, {"br-1": "hk-1"})
    net.stopped |= {"us-1", "sg-1"}
    net.run(5, {"br-1": "hk-1"})
    assert to_hk(net)["active"] == "last_resort"
    assert gaps(net, "hk-1") < 0.8


def test_loss_of_ten_percent_each_way_moves_nothing_while_media_flows() -> None:
    count = iter(range(10**9))

    def delay_s(_sender: str, _receiver: str) -> float | None:
        return None if hashlib.blake2s(b"%d" % next(count)).digest()[0] < 26 else 0.01

    net = World(Plan(NODES, [*THREE, *BACK]), delay_s)
    net.run(60, {"br-1": "hk-1", "hk-1": "br-1"})
    assert to_hk(net)["switches"] == []


def test_a_stall_of_our_own_process_is_nobodys_death() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]), lambda _a, _b: 0.1)  # several probes are under way at any time
    net.run(5, {"br-1": "hk-1"})
    net.now += 3  # nobody ran
    net.run(2, {"br-1": "hk-1"})
    assert to_hk(net)["switches"] == []


def test_probes_measure_the_path_and_are_few_while_nobody_talks() -> None:
    net = World(Plan(NODES, THREE))
    net.run(10)
    assert to_hk(net)["rtt_ms"] == pytest.approx(40, abs=0.1)  # two segments of 10 ms each way
    probes = [data for sender, _, data in net.passed if sender == "br-1" and data[0] == 0x12]
    assert 27 <= len(probes) <= 33  # three paths, one a second
    net.passed.clear()
    net.run(6, {"br-1": "hk-1"})
    by_hops = [data[1] >> 4 for sender, _, data in net.passed if sender == "br-1" and data[0] == 0x12]
    to_primary = [b for _, b, data in net.passed if data[0] == 0x12 and _ == "br-1" and b == "us-1"]
    assert 90 <= len(to_primary) <= 110  # one in 60 ms, on the path in use alone
    assert by_hops.count(2) <= 7


def test_a_new_table_keeps_what_is_known_of_paths_that_stay() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    net.run(5, {"br-1": "hk-1"})
    net.stopped.add("us-1")
    net.run(5, {"br-1": "hk-1"})
    net.nodes["br-1"].set_shard(Plan(NODES, THREE, serial=8).shard("br-1"))
    assert net.nodes["br-1"].status()["serial"] == 8
    row = to_hk(net)
    assert row["active"] == "backup"
    assert len(row["switches"]) == 1
    assert row["candidates"]["primary"]["state"] == "dead"


def test_echoes_that_nobody_asked_for() -> None:
    net = world(CHAINS[0])
    message = header(["hk-1", "br-1"], 1, 5, kind=3) + struct.pack(">IQ", 99, 0)
    net.hand("br-1", sealed(message, "hk-1", "br-1"), net.plan.overlay("hk-1"))
    assert net.nodes["br-1"].drops == {"unasked_echo": 1}


def test_a_probe_is_answered_over_the_same_relays_and_never_with_more() -> None:
    net = world(CHAINS[2])
    message = header(CHAINS[2], 3, 5, kind=2) + struct.pack(">IQ", 99, 1234)
    net.hand("hk-1", sealed(message, "sg-1", "hk-1"), net.plan.overlay("sg-1"))
    ((sender, receiver, echo),) = net.passed
    assert (sender, receiver) == ("hk-1", "sg-1")
    assert len(echo) == len(message) + 16
    assert echo[0] == 0x13
    assert echo[24:40] == b"".join(number(node) for node in CHAINS[2][::-1])
    assert struct.unpack(">IQ", echo[40:52]) == (99, 1234)


def test_a_table_of_many_routes_does_not_probe_all_at_once() -> None:
    many = [f"n{place}-1" for place in range(200)]
    plan = Plan(["br-1", *many], [["br-1", node] for node in many])
    overlay = Overlay("br-1", bytes)
    overlay.set_peers(plan.peers("br-1"))
    overlay.set_shard(plan.shard("br-1"))
    sizes = [len(overlay.tick(step * 0.02, UNIX_0 + step * 0.02)) for step in range(500)]
    assert max(sizes) == MAX_PROBES_A_TICK
    assert 200 * 9 <= sum(sizes) <= 200 * 10


def test_status_is_json_and_bounded() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    for port in range(40000, 41500):
        net.say("br-1", "hk-1", b"media", port)
    net.settle()
    status = net.nodes["br-1"].status()
    assert json.loads(json.dumps(status)) == status
    assert len(net.nodes["br-1"].flows()) == 1000


def test_paths_of_a_relay_gone_bad_do_not_fill_the_memory() -> None:
    net = world(CHAINS[0])
    overlay = net.nodes["us-1"]
    for place in range(MAX_STEPS + 100):
        hops = number("br-1") + number("us-1") + struct.pack(">I", place)
        message = struct.pack(">BBHIQQ", 0x11, 0x31, 0, 7, 10 + place, int(net.unix * 1e6)) + hops
        overlay.receive(
            sealed(message + body(net.plan, "br-1", "hk-1"), "br-1", "us-1"),
            net.plan.overlay("br-1"),
            0,
            net.unix,
        )
    assert overlay.drops == {"unknown_hop": MAX_STEPS + 100}
    assert len(overlay._steps) <= MAX_STEPS


def test_a_full_flow_table_forwards_and_says_so() -> None:
    table = FlowTable(limit=2)

    def flow(unix: float) -> Flow:
        return Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), b"", unix)

    table.add("a", flow(0))
    table.add("b", flow(10))
    assert table.add("c", flow(20)).packets == 0
    assert (table.find("c"), table.uncounted) == (None, 1)
    table.add("d", flow(35))  # a has been idle for more than 30 s by now
    assert table.find("a") is None
    assert table.find("d") is not None
    table.expire(400)
    assert table.rows() == []


def test_a_clock_that_was_set_back_leaves_no_flow_for_ever() -> None:
    table = FlowTable()
    for key, unix in (("before", 1000.0), ("after", 90.0)):
        table.add(key, Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), b"", unix))
    table.expire(100.0)
    assert table.find("before") is None
    assert table.find("after") is not None


def test_a_full_flow_table_is_not_searched_for_every_packet() -> None:
    table = FlowTable(limit=1)

    def flow(unix: float) -> Flow:
        return Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), b"", unix)

    table.add("a", flow(0))
    table.add("b", flow(29.9))  # looks, and finds nothing idle for 30 s
    table.add("b", flow(30.5))  # does not look
    assert table.find("a") is not None
    table.add("b", flow(31))
    assert table.find("a") is None


@given(st.lists(st.integers(0, 60), max_size=200))
def test_the_replay_window_against_a_set(steps: list[int]) -> None:
    """Against the plainest model: remember everything, refuse what is too old."""
    window, seen, highest = ReplayWindow(100, size=16), set(range(101)), 100
    for step in steps:
        sequence = highest - 30 + step
        fine = sequence not in seen and sequence > highest - 16
        assert window.accept(sequence) == fine
        if fine:
            seen.add(sequence)
            highest = max(highest, sequence)


SMALL = World(Plan(NODES, [*CHAINS, *(path[::-1] for path in CHAINS)]))
BR = SMALL.plan.overlay("br-1")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_never_raises(data: bytes) -> None:
    assert SMALL.nodes["us-1"].receive(data, BR, 0.0, UNIX_0) == []
    assert SMALL.nodes["us-1"].receive(data, ("203.0.113.9", 1), 0.0, UNIX_0) == []


SEQUENCES = iter(range(int(UNIX_0 * 1e6), 1 << 62))


@settings(max_examples=500)
@given(
    st.integers(0, 255), st.integers(0, 255), st.binary(min_size=2, max_size=2),
    st.lists(st.sampled_from([*NODES, "zz"]), max_size=5), st.binary(max_size=60),
)  # fmt: skip
def test_garbage_under_a_good_key_never_raises_and_never_leaves_the_fleet(
    first: int, second: int, zero: bytes, path: list[str], tail: bytes
) -> None:
    fixed = bytes([first, second]) + zero + struct.pack(">IQQ", 7, next(SEQUENCES), int(UNIX_0 * 1e6))
    message = fixed + b"".join(number(node) for node in path) + tail
    before = sum(SMALL.nodes["us-1"].drops.values())
    effects = SMALL.nodes["us-1"].receive(sealed(message, "br-1", "us-1"), BR, 0.0, UNIX_0)
    for effect in effects:
        if effect[0] == "send":
            assert SMALL.names[effect[1]] in path
    assert bool(effects) != (sum(SMALL.nodes["us-1"].drops.values()) > before)


@given(st.binary(max_size=100))
def test_any_number_of_an_id_is_32_bits(name: bytes) -> None:
    assert 0 <= node_number(name.hex()) < 1 << 32


def test_probe_ids_begin_anywhere() -> None:
    plan = Plan(NODES, [CHAINS[0]])
    overlay = Overlay("br-1", lambda size: b"\xff" * size)
    overlay.set_peers(plan.peers("br-1"))
    overlay.set_shard(plan.shard("br-1"))
    ((_, probe),) = overlay.tick(0.0, UNIX_0)
    assert probe[32:36] == bytes(4)  # the one after 0xffffffff
