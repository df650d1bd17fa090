"""Probes that pin a relay: which paths may be pinned, at whose cost, and what somebody gone bad could make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from commcli.relay.overlay import train, wire
from commcli.relay.overlay.routes import MAX_PINNED
from commcli.relay.protect.plan import NOTHING
from commcli.relay.table.shard import Shard
from commcli.relay.table.zones import Zone
from commcli.relay.turn.limits import SHALLOWEST_BYTES
from tests.relay.bad_days_world import DELAY_S, NODES, TALK, BadWorld, BoundPlan, both_ways, sealed, section

WAYS = both_ways("sg-1 jp-1", "hk-1", "")
RATE_KBIT_S = 800
NO_XX = Zone("no-xx", (frozenset({"ae"}), frozenset({"kr"})), frozenset({"xx"}))


@dataclass
class _ProbePlan(BoundPlan):
    """A table that grants probes something. `closed` may not be in between."""

    probe_kbit_s: int = RATE_KBIT_S
    closed: Sequence[str] = ()

    def shard(self, node: str) -> Shard:
        made = super().shard(node)
        nodes = {name: replace(row, transit=name not in self.closed) for name, row in made.nodes.items()}
        return replace(made, nodes=nodes, probe_kbit_s=self.probe_kbit_s)


def _world(paths: list[list[str]] = WAYS, **changes: Any) -> BadWorld:
    net = BadWorld(_ProbePlan(NODES, paths, **changes), delay_s=lambda _a, _b: DELAY_S)
    net.run(2.0)
    net.forget()
    return net


def _say(net: BadWorld, via: str, *payloads: bytes, node: str = "ae-1", egress: str = "kr-1") -> None:
    ends = net.plan.relayed(node), net.plan.relayed(egress)
    net.nodes[node].send(egress, *ends, payloads, net.now, net.clock(node), via)
    net.flush(node)


def _heard(net: BadWorld) -> list[bytes]:
    net.settle()
    return [payload for _, _, _, payload in net.delivered]


@pytest.mark.parametrize("via", ["sg-1", "hk-1", "xx-1"], ids=["no row", "a backup", "nowhere in the table"])
def test_pinned_media_rides_its_relay_both_ways_and_every_hop_counts_it(via: str) -> None:
    net = _world()
    _say(net, via, b"there", b"!" * 1100)
    _say(net, via, b"back", node="kr-1", egress="ae-1")
    assert sorted(_heard(net)) == sorted([b"there", b"!" * 1100, b"back"])
    for node, role in (("ae-1", "ingress"), (via, "transit"), ("kr-1", "egress")):
        (row,) = [row for row in net.nodes[node].flows() if row["src"] == "192.0.2.1:40001"]
        assert (row["role"], row["path"]) == (role, ["ae-1", via, "kr-1"])
        assert (row["packets"], row["bytes"]) == (2, 1105)
    assert net.drops() == {}


def test_a_pin_leaves_the_way_of_others_alone() -> None:
    net = _world()
    net.run(1.0, TALK)
    net.forget()
    for _ in range(50):
        _say(net, "xx-1", b"probe")
        net.run(0.02, TALK)
    assert net.active() == ["ae-1", "sg-1", "jp-1", "kr-1"] and net.switches() == 0
    spoken = [row for row in net.nodes["jp-1"].flows() if row["role"] == "transit"]
    assert len(spoken) == 2, "the call's two directions, and nothing of the probe"


def test_a_pinned_relay_that_is_dead_is_left_by_nobody() -> None:
    net = _world()
    net.stopped.add("hk-1")
    for _ in range(100):
        _say(net, "hk-1", b"probe")
        net.run(0.02)
    assert _heard(net) == []


@pytest.mark.parametrize(
    ("via", "changes", "reason"),
    [
        ("zz-9", {}, "via_unknown"),
        ("ae-1", {}, "via_unknown"),
        ("kr-1", {}, "via_unknown"),
        ("", {}, "via_unknown"),
        ("xx-1", {"zones": (NO_XX,)}, "via_forbidden"),
        ("sg-1", {"zones": (Zone("no-kr", NO_XX.between, frozenset({"kr"})),)}, "via_forbidden"),
        ("sg-1", {"closed": ["sg-1"]}, "via_forbidden"),
        ("sg-1", {"blocked": [("ae-1", "kr-1")]}, "via_forbidden"),
        ("sg-1", {"probe_kbit_s": 0}, "via_not_in_table"),
        ("hk-1", {"probe_kbit_s": 0}, None),  # a row's path costs nobody anything new
        ("hk-1", {"closed": ["sg-1"]}, None),
    ],
)
def test_what_may_not_be_pinned_goes_nowhere_and_says_why(
    via: str, changes: dict[str, Any], reason: str | None
) -> None:
    net = _world(**changes)
    _say(net, via, b"probe", b"probe")
    assert len(_heard(net)) == (2 if reason is None else 0)
    assert net.nodes["ae-1"].drops == ({} if reason is None else {reason: 2})
    assert net.drops().keys() <= {"ae-1"}


def test_without_a_key_of_the_pinned_relay_nothing_leaves() -> None:
    net = _world()
    peers = {node: row for node, row in net.plan.peers("ae-1").items() if node != "sg-1"}
    net.nodes["ae-1"].set_peers(peers)
    _say(net, "sg-1", b"probe")
    assert _heard(net) == [] and net.drops() == {"ae-1": {"no_key": 1}}


def test_a_pin_follows_the_table_of_today() -> None:
    net = _world()
    _say(net, "sg-1", b"1")
    net.settle()
    for node in net.nodes:
        net.nodes[node].set_shard(replace(_ProbePlan(NODES, WAYS, closed=["sg-1"]).shard(node), serial=8))
    _say(net, "sg-1", b"2")
    assert _heard(net) == [b"1"] and net.drops() == {"ae-1": {"via_forbidden": 1}}


# --- the allowance -----------------------------------------------------------------------------------------


def _flood(net: BadWorld, seconds: float, via: str, *edges: tuple[str, str]) -> None:
    """Ten times what probes may use."""
    size = 1000
    for _ in range(round(seconds * 100)):
        for node, egress in edges:
            count = RATE_KBIT_S * 125 * 10 // 100 // size
            _say(net, via, *[bytes(size)] * count, node=node, egress=egress)
        net.run(0.01)


def test_probes_have_a_bound_at_every_relay_whoever_sends_them() -> None:
    net = _world()
    _flood(net, 5.0, "sg-1", ("ae-1", "kr-1"), ("kr-1", "ae-1"), ("ae-1", "hk-1"))
    carried = sum(len(payload) for payload in _heard(net))
    most = 5.2 * RATE_KBIT_S * 125 + SHALLOWEST_BYTES
    assert 0.85 * most < carried < most, "of all edges and directions together"
    assert set(net.drops()) == {"sg-1"}, "what it let through, the egresses let through"
    assert set(net.nodes["sg-1"].drops) == {"probe_rate"}


def test_the_egress_has_its_bound_too() -> None:
    net = _world()
    net.nodes["sg-1"].set_shard(replace(net.plan.shard("sg-1"), serial=8, probe_kbit_s=100 * RATE_KBIT_S))
    _flood(net, 2.0, "sg-1", ("ae-1", "kr-1"))
    carried = sum(len(payload) for payload in _heard(net))
    assert carried < 2.2 * RATE_KBIT_S * 125 + SHALLOWEST_BYTES
    assert set(net.drops()) == {"kr-1"} and set(net.nodes["kr-1"].drops) == {"probe_rate"}


def _padded_train(net: BadWorld, number: int, lengths: Sequence[int], size: int) -> list[bytes]:
    """From ae-1, which has good keys: payloads of these lengths in bare datagrams of `size`, and their head."""
    head = wire.section_head(["ae-1", "sg-1", "kr-1"], 4)
    ends = wire.pack_endpoints(net.plan.relayed("ae-1"), net.plan.relayed("kr-1"))[wire.FAMILY_BYTES :]
    loads = [
        (ends + wire.NUMBER_AND_LENGTH.pack((1 << 60) + place, length) + bytes(wire.TAG_BYTES), bytes(length))
        for place, length in enumerate(lengths)
    ]
    train_id = number.to_bytes(train.ID_BYTES, "big")
    bare, body = train.coupled(train_id, head, loads)
    made = len(bare) // len(loads)
    pieces = [bare[at : at + made].ljust(size, b"S") for at in range(0, len(bare), made)]
    body = train.HEAD.pack(train_id, size) + body[train.HEAD.size :]
    return [*pieces, sealed(net, "ae-1", "sg-1", wire.TRAIN, body)]


def _passed_on(net: BadWorld) -> list[bytes]:
    """What leaves sg-1 for kr-1 but control, as it is on the wire."""
    found = []
    for to, datagrams, trains, _ in net.nodes["sg-1"].flush(net.now, net.unix):
        if to == net.plan.overlay("kr-1"):
            found += [whole for whole, _ in trains]
            found += [data for data in datagrams if data[wire.HEADER_AT] == wire.kind_byte(wire.DATA)]
    return found


def _calm(net: BadWorld) -> None:
    """Trains pass sg-1 as they are."""
    net.nodes["sg-1"].routes.segments["kr-1"].use(wire.OTHER, NOTHING)
    net.nodes["sg-1"].flush(net.now, net.unix)


def test_the_padding_of_trains_is_charged() -> None:
    net = _world()
    _calm(net)
    began, carried = net.now, 0
    for number in range(300):
        datagrams = _padded_train(net, number, [33] + [1] * 52, train.BARE_BYTES + 33)
        net.nodes["sg-1"].receive(net.plan.overlay("ae-1"), datagrams, net.now, net.unix)
        carried += sum(len(data) - wire.HEADER_BYTES for data in _passed_on(net))
        net.now += 0.01
    most = (net.now - began) * RATE_KBIT_S * 125 + SHALLOWEST_BYTES
    assert 0.9 * most < carried < most
    assert set(net.nodes["sg-1"].drops) == {"probe_rate"}


@pytest.mark.parametrize(
    ("lengths", "size", "is_taken"),
    [
        ([1000] * 20, train.BARE_BYTES + 1000, True),
        ([1000] * 20, train.BARE_BYTES + 1001, False),
        ([1] * 20, 1300, False),
        ([1000, 968] + [1000] * 18, train.BARE_BYTES + 1000, True),
        ([1000, 967] + [1000] * 18, train.BARE_BYTES + 1000, False),
        ([1000] + [0] * 19, train.BARE_BYTES + 1000, False),
    ],
)
def test_nothing_rides_in_padding_that_no_sender_makes(lengths: list[int], size: int, is_taken: bool) -> None:
    net = _world()
    _calm(net)
    datagrams = _padded_train(net, 1, lengths, size)
    net.nodes["sg-1"].receive(net.plan.overlay("ae-1"), datagrams, net.now, net.unix)
    assert len(_passed_on(net)) == is_taken
    assert net.nodes["sg-1"].drops == ({} if is_taken else {"shape": 1})


def test_a_flood_of_probes_costs_calls_and_rows_nothing() -> None:
    net = _world()
    net.run(1.0, TALK)
    net.forget()
    for _ in range(100):
        _say(net, "xx-1", *[bytes(1000)] * 50)
        _say(net, "hk-1", *[bytes(1000)] * 20)
        net.run(0.01, TALK)
    words = [payload for _, _, _, payload in net.delivered if len(payload) < 1000]
    assert len(words) >= 2 * 45, "the call's, 50 a second each way"
    through = [row for row in net.nodes["hk-1"].flows() if row["role"] == "transit"]
    assert sum(int(str(row["packets"])) for row in through) == 2000, "a row's path, pinned or not, is free"


def test_a_table_that_comes_again_does_not_fill_the_bucket() -> None:
    net = _world()
    for serial in range(8, 28):
        _flood(net, 0.1, "sg-1", ("ae-1", "kr-1"))
        net.nodes["sg-1"].set_shard(replace(net.plan.shard("sg-1"), serial=serial))
    carried = sum(len(payload) for payload in _heard(net))
    assert carried < 2.2 * RATE_KBIT_S * 125 + SHALLOWEST_BYTES


# --- no open proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "changes", "refusal"),
    [
        ("ae-1 sg-1 kr-1", {}, None),
        ("ae-1 sg-1 xx-1", {}, None),
        ("ae-1 sg-1 kr-1", {"probe_kbit_s": 0}, "not_in_table"),
        ("ae-1 sg-1 kr-1", {"closed": ["sg-1"]}, "not_in_table"),
        ("ae-1 sg-1", {}, "not_in_table"),
        ("ae-1 sg-1 hk-1 kr-1", {}, "not_in_table"),
        ("kr-1 ae-1 sg-1 jp-1", {}, "not_in_table"),
        ("ae-1 sg-1 ae-1", {}, "loop"),
        ("ae-1 sg-1 zz-9", {}, "unknown_hop"),
        ("kr-1 sg-1 ae-1", {}, "wrong_source"),
        ("ae-1 sg-1 kr-1", {"zones": (Zone("no-sg", NO_XX.between, frozenset({"sg"})),)}, "zone"),
    ],
)
def test_stolen_keys_ride_on_the_allowance_and_no_further(
    path: str, changes: dict[str, Any], refusal: str | None
) -> None:
    """ae-1 holds good keys and writes any path it likes; sg-1 is the one who must notice."""
    rows = WAYS if "zones" not in changes else both_ways("")
    net = _world(rows, **changes)
    if net.nodes["sg-1"].routes.segments["ae-1"].peer.arrivals is None:
        net.run(2.0)
    hops = path.split()
    is_odd = hops[0] == hops[-1] or hops[-1] not in NODES
    body = section(net, ["ae-1", "sg-1", "kr-1"] if is_odd else hops, 1 << 60)
    if is_odd:
        body = wire.section_head(hops, 4) + body[13:]
    data = sealed(net, "ae-1", "sg-1", wire.DATA, body, b"media")
    net.hand("sg-1", data, net.plan.overlay("ae-1"))
    assert net.nodes["sg-1"].drops == ({} if refusal is None else {refusal: 1})
    net.settle()
    assert [row[3] for row in net.delivered].count(b"media") == (refusal is None)


@pytest.mark.parametrize("kind", [wire.PROBE, wire.ECHO])
def test_the_allowance_is_for_media_alone(kind: int) -> None:
    net = _world()
    hops = b"\x30" + wire.path_bytes(["ae-1", "sg-1", "kr-1"])
    net.hand("sg-1", sealed(net, "ae-1", "sg-1", kind, hops + bytes(4)), net.plan.overlay("ae-1"))
    assert net.nodes["sg-1"].drops == {"not_in_table": 1}


def test_an_echo_of_a_row_is_no_probe_that_costs_anything() -> None:
    """The way there is in a row, the way back in nobody's: its echoes come all the same, however many probes ride."""
    net = _world([["ae-1", "sg-1", "kr-1"]])
    for _ in range(100):
        _say(net, "sg-1", *[bytes(1000)] * 50, node="kr-1", egress="ae-1")
        net.run(0.02)
    assert net.nodes["sg-1"].drops["probe_rate"] > 100
    assert net.nodes["ae-1"].paths()["kr-1"]["state"] == "up"  # type: ignore[index]
    assert net.switches() == 0


def test_the_ends_of_a_pinned_path_are_its_edges_own_addresses() -> None:
    net = _world()
    net.nodes["ae-1"].send(
        "kr-1", ("192.0.2.9", 40001), net.plan.relayed("kr-1"), [b"x"], net.now, net.unix, "sg-1"
    )
    net.flush("ae-1")
    assert _heard(net) == [] and net.drops() == {"sg-1": {"endpoint": 1}}


def test_what_is_remembered_of_pins_is_bounded() -> None:
    net = _world()
    routes = net.nodes["ae-1"].routes
    for number in range(3 * MAX_PINNED):
        assert routes.pinned(f"n-{number}", "kr-1") == "via_unknown"
    assert len(routes._pinned) <= MAX_PINNED
