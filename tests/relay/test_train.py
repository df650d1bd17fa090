"""Many packets under one tag: whole, in pieces, in the wrong order, spoiled, and how much of them is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.overlay import train
from commcli.relay.overlay.overlay import Departure
from commcli.relay.overlay.wire import CLASSES
from commcli.relay.protect.plan import NOTHING
from tests.relay.overlay_world import UNIX_0, Plan, World

PATH = ["br-1", "us-1", "hk-1"]
SIZES = [1000 + index % 3 for index in range(20)]  # as the packets of one video frame: alike, not equal


def world() -> World:
    """Where nothing is kept for repair, as on a segment that is known to be clean."""
    net = World(Plan(PATH, [PATH, PATH[::-1]]))
    for node in net.nodes.values():
        for segment in node.routes.segments.values():
            for word in CLASSES:
                segment.use(word, NOTHING)
    return net


def payloads(sizes: list[int] | None = None) -> list[bytes]:
    return [bytes([index]) * size for index, size in enumerate(SIZES if sizes is None else sizes)]


def departing(net: World, node: str = "br-1") -> Departure:
    (departure,) = net.nodes[node].flush(net.now, net.unix)
    return departure


def said(net: World, some: list[bytes]) -> Departure:
    net.nodes["br-1"].send(
        "hk-1", net.plan.relayed("br-1"), net.plan.relayed("hk-1"), some, net.now, net.unix
    )
    return departing(net)


def cut(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def heard(net: World, datagrams: list[bytes], source: str = "us-1") -> list[bytes]:
    found = net.nodes["hk-1"].receive(net.plan.overlay(source), datagrams, net.now, net.unix)
    return [payload for _, _, some in found for payload in some]


def test_a_whole_train_passes_as_it_is_but_for_its_head() -> None:
    net = world()
    _, datagrams, ((whole, size),), _ = said(net, payloads())
    assert datagrams == []
    assert net.nodes["us-1"].receive_train(net.plan.overlay("br-1"), whole, size, net.now, net.unix) == []
    _, _, ((onward, onward_size),), _ = departing(net, "us-1")
    assert onward_size == size
    bare = len(SIZES) * size
    assert onward[:bare] == whole[:bare]
    assert onward[bare:] != whole[bare:]
    ((src, dst, found),) = net.nodes["hk-1"].receive_train(
        net.plan.overlay("us-1"), onward, size, net.now, net.unix
    )
    assert (src, dst) == (net.plan.relayed("br-1"), net.plan.relayed("hk-1"))
    assert found == payloads()
    (row,) = net.nodes["us-1"].flows()
    assert (row["packets"], row["bytes"]) == (20, sum(SIZES))


def test_in_pieces_it_becomes_single_datagrams() -> None:
    net = world()
    net.say("br-1", "hk-1", *payloads())
    net.settle()
    assert sorted(row[3] for row in net.delivered) == sorted(payloads())
    assert all(not node.drops for node in net.nodes.values())


@pytest.mark.parametrize("at", [1, 8, 19, 20])
def test_a_train_that_was_read_in_two_passes_as_one(at: int) -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    us, source = net.nodes["us-1"], net.plan.overlay("br-1")
    for part in (whole[: at * size], whole[at * size :]):
        assert us.receive_train(source, part, size, net.now, net.unix) == []
    _, datagrams, ((onward, onward_size),), _ = departing(net, "us-1")
    assert (datagrams, onward_size) == ([], size)
    assert onward[: 20 * size] == whole[: 20 * size]
    assert us.routes.segments["br-1"].yard.figures()["entries"] == 0


def test_a_train_that_came_packet_by_packet_passes_as_one() -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    net.nodes["us-1"].receive(net.plan.overlay("br-1"), cut(whole, size), net.now, net.unix)
    _, datagrams, ((onward, onward_size),), _ = departing(net, "us-1")
    assert (datagrams, onward_size, onward[: 20 * size]) == ([], size, whole[: 20 * size])


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 19)))
def test_in_any_order_what_is_not_lost_arrives_once(random: object, lost: set[int]) -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    pieces = [piece for index, piece in enumerate(cut(whole, size)) if index not in lost]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    net.nodes["us-1"].receive(net.plan.overlay("br-1"), pieces * 2, net.now, net.unix)
    arrived = []
    while net.nodes["us-1"]._ready:
        _, datagrams, trains, _ = departing(net, "us-1")
        for onward, onward_size in trains:
            datagrams += cut(onward, onward_size)
        arrived += heard(net, datagrams)
    assert sorted(arrived) == sorted(p for index, p in enumerate(payloads()) if index not in lost)


def test_a_changed_payload_dies_at_the_egress_and_its_neighbours_do_not() -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    spoiled = whole[:100] + b"!" + whole[101:]
    net.nodes["us-1"].receive_train(net.plan.overlay("br-1"), spoiled, size, net.now, net.unix)
    _, _, ((onward, _),), _ = departing(net, "us-1")
    found = net.nodes["hk-1"].receive_train(net.plan.overlay("us-1"), onward, size, net.now, net.unix)
    assert found[0][2] == payloads()[1:]
    assert net.nodes["hk-1"].drops == {"end_forged": 1}


def test_a_forged_head_or_none_passes_nothing() -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    spoiled = whole[:-1] + bytes([whole[-1] ^ 1])
    source = net.plan.overlay("br-1")
    assert net.nodes["us-1"].receive_train(source, spoiled, size, net.now, net.unix) == []
    assert net.nodes["us-1"].drops == {"forged": 1}
    net.nodes["us-1"].receive(source, cut(whole, size)[:-1], net.now, net.unix)
    assert net.nodes["us-1"].flush(net.now, net.unix) == []


def test_a_replayed_train_passes_once() -> None:
    net = world()
    _, _, ((whole, size),), _ = said(net, payloads())
    for _ in range(3):
        net.nodes["us-1"].receive_train(net.plan.overlay("br-1"), whole, size, net.now, net.unix)
    _, _, trains, _ = departing(net, "us-1")
    assert len(trains) == 1
    assert net.nodes["us-1"].drops == {"replayed": 2}


@pytest.mark.parametrize(
    "sizes", [[1000] * 7, [200] * 20, [1000, 500] * 10, [1000 + 40 * n for n in range(9)]]
)
def test_few_small_or_unequal_packets_go_by_themselves(sizes: list[int]) -> None:
    net = world()
    _, datagrams, trains, _ = said(net, payloads(sizes))
    assert trains == []
    assert sorted(heard_over(net, datagrams)) == sorted(payloads(sizes))


def heard_over(net: World, datagrams: list[bytes]) -> list[bytes]:
    """By us-1 to hk-1."""
    net.nodes["us-1"].receive(net.plan.overlay("br-1"), datagrams, net.now, net.unix)
    return heard(net, departing(net, "us-1").datagrams)


def test_what_follows_a_train_leaves_after_it_and_sequences_only_grow() -> None:
    net = world()
    some = payloads([90, *SIZES, 80, *SIZES])
    net.nodes["br-1"].send(
        "hk-1", net.plan.relayed("br-1"), net.plan.relayed("hk-1"), some, net.now, net.unix
    )
    leaving: list[bytes] = []
    for _, datagrams, trains, _ in net.nodes["br-1"].flush(net.now, net.unix):
        leaving += datagrams
        for whole, size in trains:
            leaving += cut(whole, size)
    sequences = [int.from_bytes(data[16:24], "big") for data in leaving if data[12] != 0x24]
    assert sequences == sorted(sequences)
    net.nodes["us-1"].receive(net.plan.overlay("br-1"), leaving, net.now, net.unix)
    arrived = []
    for _, datagrams, trains, _ in net.nodes["us-1"].flush(net.now, net.unix):
        arrived += heard(net, datagrams)
        for whole, size in trains:
            arrived += heard(net, cut(whole, size))
    assert sorted(arrived) == sorted(some)
    arrivals = net.nodes["us-1"].routes.segments["br-1"].peer.arrivals
    assert arrivals is not None
    assert arrivals.reordered == 0


def test_longer_than_the_path_mtu_goes_by_itself() -> None:
    net = world()
    _, datagrams, trains, _ = said(net, payloads([1190] * 10))
    assert trains == []
    assert len(datagrams) == 10


def test_early_bare_datagrams_are_bounded_and_forgotten() -> None:
    net = world()
    source, yard = net.plan.overlay("br-1"), net.nodes["us-1"].routes.segments["br-1"].yard
    for index in range(2000):
        bare = index.to_bytes(8, "big") + bytes((0, 0, 0, 0, 0x24)) + bytes(1100)
        net.nodes["us-1"].receive(source, [bare], net.now, net.unix)
    figures = yard.figures()
    assert figures["entries"] <= figures["most_entries"]
    assert 0 < figures["bytes"] <= figures["most_bytes"]
    net.nodes["us-1"].flush(net.now + 1, net.unix)
    assert yard.figures()["entries"] == yard.figures()["bytes"] == 0
    assert not net.nodes["us-1"]._restless


def test_heads_without_their_datagrams_are_bounded_and_forgotten() -> None:
    net = world()
    source, yard = net.plan.overlay("br-1"), net.nodes["us-1"].routes.segments["br-1"].yard
    for _ in range(train.MOST_OPEN + 10):
        _, _, ((whole, size),), _ = said(net, payloads())
        net.nodes["us-1"].receive(source, cut(whole, size)[-1:], net.now, net.unix)
    assert yard.figures()["open_trains"] == train.MOST_OPEN
    net.nodes["us-1"].flush(net.now + 1, net.unix)
    assert yard.figures()["open_trains"] == 0
    assert yard.lost == 20 * (train.MOST_OPEN + 10)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 70_000), st.integers(300, 316)), min_size=1, max_size=80
    )
)
def test_a_head_says_of_each_packet_what_its_entry_did(packets: list[tuple[int, int, int]]) -> None:
    loads = [
        (
            bytes([flow]) * 12
            + (1 << 40 | number).to_bytes(8, "big")
            + size.to_bytes(2, "big")
            + bytes([flow]) * 12,
            bytes([number & 255]) * size,
        )
        for flow, number, size in packets
    ]
    head = bytes((3 << 4 | 4,)) + bytes(12)
    count = train.room(loads, len(head))
    assert 0 < count <= len(loads)
    bare, body = train.coupled(b"train id", head, loads[:count])
    found = train.head_of(body, 0)
    assert len(body) + 32 <= found.bare_bytes == len(bare) // count
    assert train.is_whole(bare, found.bare_bytes, found)
    assert [tuple(load) for load in train.loads_of(bare, found)] == loads[:count]
    for ends, some, size in found.by_flow():
        of_flow = [payload for entry, payload in loads[:count] if entry[:12] == ends]
        assert (some, size) == (len(of_flow), sum(map(len, of_flow)))


def test_a_train_of_few_flows_has_room_for_more() -> None:
    def room_of(flows: int) -> int:
        entries = [
            bytes([at % flows]) * 12 + at.to_bytes(8, "big") + (1000).to_bytes(2, "big") + bytes(12)
            for at in range(70)
        ]
        return train.room([(entry, bytes(1000)) for entry in entries], 13)

    assert [room_of(flows) for flows in (1, 3, 70)] == [55, 53, 32]


@given(st.binary(max_size=200))
def test_a_body_that_is_none_is_a_value_error(body: bytes) -> None:
    try:
        found = train.head_of(body, 0)
    except ValueError:
        return
    assert len(found.entries()) == len(found.lengths) > 0


def test_trains_do_not_begin_a_book() -> None:
    """A bare datagram has no tag: it must not count as a word from the neighbour."""
    net = world()
    peer = net.nodes["us-1"].routes.segments["br-1"].peer
    net.nodes["us-1"].receive(net.plan.overlay("br-1"), [bytes(12) + b"\x24" + bytes(900)], 1.0, UNIX_0)
    assert peer.arrivals is None
    assert peer.heard < 0
