"""Chains of two, three and four relays: what arrives, what is refused and why, and what the counters say."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.overlay.arrivals import Arrivals
from commcli.relay.overlay.flows import Flow, FlowTable
from commcli.relay.overlay.overlay import MAX_PROBES_A_TICK, VISIT_PARTS, Overlay
from commcli.relay.overlay.routes import MAX_STEPS
from commcli.relay.overlay.wire import Addr, node_number
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


def tagged(message: bytes, sender: str, receiver: str, rest: bytes = b"") -> bytes:
    """With the hop tag of this segment, which does not cover `rest`."""
    return hop_tag(message, sender, receiver) + message + rest


def hop_tag(message: bytes, sender: str, receiver: str) -> bytes:
    key = pair_key(sender, receiver)
    way = number(sender) + number(receiver)
    return hashlib.blake2b(way + message, key=key, person=b"commov2", digest_size=12).digest()


def header(kind: int, covered: int, sequence: int, *, marks: int = 0, unix: float = UNIX_0 + 100) -> bytes:
    """A header by hand."""
    return struct.pack(">BBHQQ", 2 << 4 | kind, marks, covered, sequence, int(unix * 1e6))


def hops_of(path: Sequence[str], family: int = 4, hops: int | None = None) -> bytes:
    count = len(path) if hops is None else hops
    return bytes([count << 4 | family]) + b"".join(number(node) for node in path)


def ends(src: Addr, dst: Addr) -> bytes:
    packed = [ipaddress.ip_address(ip).packed for ip in (src[0], dst[0])]
    return b"".join(ip + struct.pack(">H", port) for ip, port in zip(packed, (src[1], dst[1]), strict=True))


def entry(head: bytes, src: Addr, dst: Addr, payload: bytes, ingress: str, egress: str, count: int) -> bytes:
    """One packet's line in a section, with the tag of the path's ends. count: its number."""
    fixed = ends(src, dst) + struct.pack(">QH", count, len(payload))
    key = pair_key(ingress, egress)
    return (
        fixed + hashlib.blake2b(head + fixed + payload, key=key, person=b"comme2e2", digest_size=12).digest()
    )


def media(
    plan: Plan, path: Sequence[str], sequence: int, payload: bytes = b"media", *, hops: int | None = None,
    src: Addr | None = None, dst: Addr | None = None, edges: tuple[str, str] | None = None,
) -> tuple[bytes, bytes]:  # fmt: skip
    """(what the hop tag covers, payload) of a DATA datagram by hand."""
    one, other = edges or (path[0], path[-1])
    src, dst = src or plan.relayed(one), dst or plan.relayed(other)
    head = hops_of(path, 6 if ":" in src[0] else 4, hops)
    section = head + b"\x01" + entry(head, src, dst, payload, one, other, 5)
    return header(1, len(section), sequence) + section, payload


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
    path = CHAINS[1]
    head = hops_of(path)
    here, there = net.plan.relayed("br-1"), net.plan.relayed("hk-1")
    start = int((UNIX_0 + 100) * 1e6)
    section = head + b"\x01" + entry(head, here, there, b"media", "br-1", "hk-1", start)
    assert first == tagged(header(1, len(section), start) + section, "br-1", "us-1", b"media")
    sequence, sent_us = struct.unpack_from(">QQ", second, 16)
    onward = header(1, len(section), sequence, unix=sent_us / 1e6)
    assert second == tagged(onward + section, "us-1", "hk-1", b"media")


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
    assert {data[12] for _, _, data in net.passed} <= {0x28, 0x2D, 0x2E}  # no probe of the path


def test_too_long_for_a_datagram() -> None:
    net = world(CHAINS[0])
    net.say("br-1", "hk-1", b"x" * 65500)
    assert net.passed == []
    assert net.nodes["br-1"].drops == {"too_long": 1}


Spoil = Callable[[bytes], bytes]


def first_segment(net: World) -> bytes:
    net.say("br-1", "hk-1", b"media")
    return net.passed[-1][2]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-1], "shape"),  # the tag says how long its payloads are
        (lambda data: data[:40], "length"),
        (lambda data: data[:32], "length"),
        (lambda data: data[:31], "length"),
        (lambda data: data[:12], "length"),
        (lambda data: b"", "length"),
        (lambda data: flipped(data, 0), "forged"),
        (lambda data: flipped(data, 11), "forged"),
        (lambda data: bytes(12) + data[12:], "forged"),
        (lambda data: flipped(data, 13), "forged"),
        (lambda data: flipped(data, 15), "forged"),
        (lambda data: flipped(data, 23), "forged"),
        (lambda data: flipped(data, 31), "forged"),
        (lambda data: flipped(data, 32), "forged"),
        (lambda data: flipped(data, -6), "forged"),  # of the end tag
        (lambda data: tagged(data[12:-5], "br-1", "sg-1", b"media"), "forged"),  # another pair's key
    ],
)
def test_a_spoiled_datagram_is_dropped_and_counted(spoil: Spoil, reason: str) -> None:
    net = world(CHAINS[1])
    net.hand("us-1", spoil(first_segment(net)), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {reason: 1}
    assert len(net.passed) == 1
    assert net.nodes["us-1"].flows() == []


def test_a_changed_payload_dies_at_the_egress() -> None:
    net = world(CHAINS[1])
    net.hand("us-1", first_segment(net)[:-5] + b"MEDIA", net.plan.overlay("br-1"))
    net.settle()
    assert net.nodes["us-1"].drops == {"replayed": 1}  # the right one came behind it
    assert net.delivered == []
    assert net.nodes["hk-1"].drops == {"end_forged": 1}


def test_what_stands_behind_the_payloads_is_nobodys() -> None:
    net = world(CHAINS[1])
    net.hand("us-1", first_segment(net) + b"more", net.plan.overlay("br-1"))
    net.settle()
    assert [row[3] for row in net.delivered] == [b"media"]


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
    net.nodes["br-1"].send("hk-1", src, dst, [b"old"], net.now, net.unix + 50)
    ((_, (old,), _, _),) = net.nodes["br-1"].flush(net.now, net.unix + 50)
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
    ("path", "hops", "reason"),
    [
        (["br-1", "us-1", "hk-1"], None, None),
        (["br-1", "us-1"], None, None),
        (["us-1", "hk-1", "br-1"], None, "not_for_us"),
        (["br-1", "hk-1"], None, "not_for_us"),
        (["br-1", "hk-1", "us-1"], None, "wrong_source"),
        (["sg-1", "us-1", "hk-1"], None, "wrong_source"),
        (["zz-9", "us-1", "hk-1"], None, "unknown_hop"),
        (["br-1", "us-1", "zz-9"], None, "unknown_hop"),
        (["br-1", "us-1", "zz-9", "hk-1"], None, "unknown_hop"),
        (["br-1", "us-1", "br-1"], None, "loop"),
        (["br-1", "us-1", "us-1", "hk-1"], None, "loop"),
        (["br-1", "us-1", "hk-1", "hk-1"], None, "loop"),
        (["br-1"], None, "hops"),
        (["br-1", "us-1", "sg-1", "xx-1", "hk-1"], None, "hops"),
        (["br-1", "us-1", "hk-1"], 15, "shape"),
        (["br-1", "us-1", "xx-1", "hk-1"], None, "zone"),
        (["br-1", "us-1", "xx-1"], None, "zone"),
    ],
)
def test_a_source_route_of_a_relay_gone_bad(path: list[str], hops: int | None, reason: str | None) -> None:
    """br-1 holds good keys and writes any header it likes; us-1 is the one who must notice."""
    net = world(CHAINS[1], zones=(Zone("no-xx", (frozenset({"br"}), frozenset({"*"})), frozenset({"xx"})),))
    edges = None if len(path) > 1 and "zz-9" not in path and path[0] != path[-1] else ("br-1", "hk-1")
    message, payload = media(net.plan, path, 5, b"media" * 20, hops=hops, edges=edges)
    net.hand("us-1", tagged(message, "br-1", "us-1", payload), net.plan.overlay("br-1"))
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
    message, payload = media(net.plan, CHAINS[1], 5)
    net.hand("us-1", tagged(message, "sg-1", "us-1", payload), net.plan.overlay("sg-1"))
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
    message, payload = media(net.plan, CHAINS[1], 5, src=src, dst=dst)
    net.hand("us-1", tagged(message, "br-1", "us-1", payload), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"endpoint": 1}
    assert net.passed == []


@pytest.mark.parametrize(
    "section",
    [
        hops_of(CHAINS[1], 5) + b"\x01" + bytes(34),
        hops_of(CHAINS[1], 0) + b"\x01" + bytes(34),
        hops_of(CHAINS[1]) + b"\x00",
        hops_of(CHAINS[1]) + b"\x01" + bytes(33),
        hops_of(CHAINS[1]) + b"\x01" + bytes(35),
        hops_of(CHAINS[1]) + b"\x02" + bytes(34),
        hops_of(CHAINS[1]) + b"\x01" + bytes(20) + b"\0\1" + bytes(12),  # a payload that is not there
        hops_of(CHAINS[1]),
        hops_of(CHAINS[1])[:-1],
    ],
)
def test_a_body_that_is_none(section: bytes) -> None:
    net = world(CHAINS[1])
    data = tagged(header(1, len(section), 5) + section, "br-1", "us-1")
    net.hand("us-1", data, net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops
    assert set(net.nodes["us-1"].drops) <= {"shape", "endpoint"}
    assert net.passed == []


def test_a_version_or_kind_that_does_not_exist() -> None:
    net = world(CHAINS[1])
    for place, first in enumerate((0x11, 0x20, 0x26, 0x2F, 0x31, 0x00)):
        message = bytes([first]) + header(1, 0, 5 + place)[1:]
        net.hand("us-1", tagged(message, "br-1", "us-1"), net.plan.overlay("br-1"))
    assert net.nodes["us-1"].drops == {"version": 6}


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
    assert net.nodes["br-1"].figures()["switched"] == {"primary": 1, "backup": 1, "last_resort": 0}
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
    probes = [data for sender, _, data in net.passed if sender == "br-1" and data[12] == 0x2B]
    assert 27 <= len(probes) <= 33  # three paths, one a second
    net.passed.clear()
    net.run(6, {"br-1": "hk-1"})
    by_hops = [data[32] >> 4 for sender, _, data in net.passed if sender == "br-1" and data[12] == 0x2B]
    to_primary = [b for a, b, data in net.passed if data[12] == 0x2B and (a, b) == ("br-1", "us-1")]
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


def control(kind: int, body: bytes, sender: str, receiver: str) -> bytes:
    return tagged(header(kind, len(body), 5) + body, sender, receiver)


def test_echoes_that_nobody_asked_for() -> None:
    net = world(CHAINS[0])
    echo = control(12, hops_of(["hk-1", "br-1"], 0) + struct.pack(">I", 99), "hk-1", "br-1")
    net.hand("br-1", echo, net.plan.overlay("hk-1"))
    assert net.nodes["br-1"].drops == {"unasked_echo": 1}


def test_a_probe_is_answered_over_the_same_relays_and_never_with_more() -> None:
    net = world(CHAINS[2])
    probe = control(11, hops_of(CHAINS[2], 0) + struct.pack(">I", 99), "sg-1", "hk-1")
    net.hand("hk-1", probe, net.plan.overlay("sg-1"))
    ((sender, receiver, echo),) = net.passed
    assert (sender, receiver) == ("hk-1", "sg-1")
    assert len(echo) == len(probe)
    assert echo[12] == 0x2C
    assert echo[32:] == hops_of(CHAINS[2][::-1], 0) + struct.pack(">I", 99)


def test_a_table_of_many_routes_does_not_probe_all_at_once() -> None:
    many = [f"n{place}-1" for place in range(200)]
    plan = Plan(["br-1", *many], [["br-1", node] for node in many])
    overlay = Overlay("br-1", bytes)
    overlay.set_peers(plan.peers("br-1"))
    overlay.set_shard(plan.shard("br-1"))
    sizes = []
    for step in range(500):
        now = step * 0.02
        overlay.tick(now, UNIX_0 + now)
        sizes.append(
            sum(data[12] == 0x2B for _, batch, _, _ in overlay.flush(now, UNIX_0 + now) for data in batch)
        )
    assert 0 < max(sizes) <= MAX_PROBES_A_TICK
    assert 200 * 9 <= sum(sizes) <= 200 * 10


def test_status_is_json_and_bounded() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    for port in range(40000, 41500):
        net.say("br-1", "hk-1", b"media", port=port)
    net.settle()
    status = net.nodes["br-1"].status()
    assert json.loads(json.dumps(status)) == status
    assert len(net.nodes["br-1"].flows()) == 1000


def test_paths_of_a_relay_gone_bad_do_not_fill_the_memory() -> None:
    net = world(CHAINS[0])
    overlay = net.nodes["us-1"]
    for place in range(MAX_STEPS + 100):
        head = bytes([0x34]) + number("br-1") + number("us-1") + struct.pack(">I", place)
        here = net.plan.relayed("br-1")
        section = head + b"\x01" + entry(head, here, here, b"", "br-1", "hk-1", place)
        message = header(1, len(section), 10 + place, unix=net.unix) + section
        overlay.receive(net.plan.overlay("br-1"), [tagged(message, "br-1", "us-1")], 0, net.unix)
    assert overlay.drops == {"unknown_hop": MAX_STEPS + 100}
    assert overlay.routes.steps <= MAX_STEPS


def test_a_full_flow_table_forwards_and_says_so() -> None:
    table = FlowTable(limit=2)

    def flow(unix: float) -> Flow:
        return Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), unix)

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
        table.add(key, Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), unix))
    table.expire(100.0)
    assert table.find("before") is None
    assert table.find("after") is not None


def test_a_full_flow_table_is_not_searched_for_every_packet() -> None:
    table = FlowTable(limit=1)

    def flow(unix: float) -> Flow:
        return Flow(("192.0.2.1", 1), ("192.0.2.2", 2), "transit", ("a", "b"), unix)

    table.add("a", flow(0))
    table.add("b", flow(29.9))  # looks, and finds nothing idle for 30 s
    table.add("b", flow(30.5))  # does not look
    assert table.find("a") is not None
    table.add("b", flow(31))
    assert table.find("a") is None


@given(st.lists(st.integers(0, 60), max_size=200))
def test_the_book_of_arrivals_against_a_set(steps: list[int]) -> None:
    """Against the plainest model: remember everything; what is before the first is taken as seen."""
    book, seen, highest = Arrivals(100), set(range(101)), 100
    for step in steps:
        sequence = highest - 30 + step
        fine = sequence not in seen
        assert book.accept(sequence, 0.0) == fine
        seen.add(sequence)
        highest = max(highest, sequence)
    assert book.expected == highest - 99
    assert book.lost == len(book.missing) == highest - 100 - (len(seen) - 101)


SMALL = World(Plan(NODES, [*CHAINS, *(path[::-1] for path in CHAINS)]))
BR = SMALL.plan.overlay("br-1")


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_never_raises(data: bytes) -> None:
    assert SMALL.nodes["us-1"].receive(BR, [data], 0.0, UNIX_0) == []
    assert SMALL.nodes["us-1"].receive(("203.0.113.9", 1), [data], 0.0, UNIX_0) == []


SEQUENCES = iter(range(int(UNIX_0 * 1e6), 1 << 62))


@settings(max_examples=500)
@given(
    st.integers(0, 15), st.integers(0, 255), st.lists(st.sampled_from([*NODES, "zz"]), max_size=5),
    st.binary(max_size=60), st.integers(0, 60),
)  # fmt: skip
def test_garbage_under_a_good_key_never_raises_and_never_leaves_the_fleet(
    kind: int, marks: int, path: list[str], tail: bytes, uncovered: int
) -> None:
    body = hops_of(path) + tail
    covered = max(0, len(body) - uncovered)
    message = header(kind, covered, next(SEQUENCES), marks=marks, unix=UNIX_0) + body[:covered]
    data = tagged(message, "br-1", "us-1", body[covered:])
    assert SMALL.nodes["us-1"].receive(BR, [data], 0.0, UNIX_0) == []
    for to, _, _, _ in SMALL.nodes["us-1"].flush(0.0, UNIX_0):
        assert SMALL.names[to] in {*path, "br-1"}  # who asks is answered


@given(st.binary(max_size=100))
def test_any_number_of_an_id_is_32_bits(name: bytes) -> None:
    assert 0 <= node_number(name.hex()) < 1 << 32


def test_probe_ids_begin_anywhere() -> None:
    plan = Plan(NODES, [CHAINS[0]])
    overlay = Overlay("br-1", lambda size: b"\xff" * size)
    overlay.set_peers(plan.peers("br-1"))
    overlay.set_shard(plan.shard("br-1"))
    for _ in range(VISIT_PARTS):
        overlay.tick(0.0, UNIX_0)
    (probe,) = (
        data for leaving in overlay.flush(0.0, UNIX_0) for data in leaving.datagrams if data[12] == 0x2B
    )
    assert probe[-4:] == bytes(4)  # the one after 0xffffffff


def test_a_switch_is_news_once() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    net.run(5, {"br-1": "hk-1", "hk-1": "br-1"})
    net.stopped.add("us-1")
    net.run(1, {"br-1": "hk-1", "hk-1": "br-1"})
    (news,) = net.nodes["br-1"].news
    assert (news["towards"], news["from"], news["to"]) == ("hk-1", "primary", "backup")
    assert "us-1" in str(news["reason"])


def test_an_upgrade_in_the_middle_of_a_failover_moves_nothing() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    talk = {"br-1": "hk-1", "hk-1": "br-1"}
    net.run(5, talk)
    net.stopped.add("us-1")
    net.run(5, talk)
    before = to_hk(net)
    kept = json.loads(json.dumps(net.nodes["br-1"].kept(net.now)))
    net.nodes["br-1"] = net.start("br-1")
    net.nodes["br-1"].take(kept, net.now)
    after = to_hk(net)
    assert (after["active"], after["switches"]) == ("backup", before["switches"])
    assert {label: row["state"] for label, row in after["candidates"].items()} == {
        label: row["state"] for label, row in before["candidates"].items()
    }
    began = len(net.delivered)
    net.run(3, talk)
    assert to_hk(net)["active"] == "backup"
    heard = [float(payload) for where, _, _, payload in net.delivered[began:] if where == "hk-1"]
    assert len(heard) >= 145  # of 150; some are still under way


def test_a_new_table_does_not_move_media_off_a_path_that_stays() -> None:
    net = World(Plan(NODES, [*THREE, *BACK]))
    net.run(5, {"br-1": "hk-1"})
    net.stopped.add("us-1")
    net.run(2, {"br-1": "hk-1"})
    net.stopped.clear()
    net.run(5, {"br-1": "hk-1"})
    assert to_hk(net)["candidates"]["primary"]["state"] == "recovering"
    net.nodes["br-1"].set_shard(Plan(NODES, [*THREE, *BACK], serial=8).shard("br-1"))
    assert to_hk(net)["active"] == "backup"


def test_who_leaves_the_file_takes_no_buffers_along_and_brings_no_recordings_back() -> None:
    net = world(CHAINS[0])
    data = first_segment(net)
    net.settle()
    rows = net.plan.peers("hk-1")
    net.nodes["hk-1"].set_peers({node: row for node, row in rows.items() if node != "br-1"})
    net.nodes["hk-1"].set_peers(rows)
    net.hand("hk-1", data, net.plan.overlay("br-1"))
    assert net.nodes["hk-1"].drops == {"replayed": 1}
