"""The overlay among enemies: rubbish, recordings, forgeries, stolen keys and floods."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from commcli.relay.overlay import hello, telemetry, train, wire
from commcli.relay.overlay.wire import Addr
from commcli.relay.protect import resend
from commcli.relay.protect.plan import Plan as Protection
from commcli.relay.table.shard import Shard
from tests.relay.bad_days_world import (
    DELAY_S,
    NODES,
    TALK,
    WAYS,
    BadWorld,
    BoundPlan,
    sealed,
    sealed_by,
    section,
    with_keys,
    world,
)
from tests.relay.overlay_world import pair_key

ENDS = (wire.node_number("ae-1"), wire.node_number("sg-1"))

# --- rubbish -----------------------------------------------------------------------------------------------


Spoil = Callable[[bytes, random.Random], bytes]


def cut_short(data: bytes, chance: random.Random) -> bytes:
    """Within what the tag covers: a cut further behind is a changed payload."""
    return data[: chance.randrange(wire.HEADER_BYTES + int.from_bytes(data[14:16], "big"))]


def other_header(data: bytes, chance: random.Random) -> bytes:
    """One bit of what the tag covers, or of the tag, is another one."""
    covered = int.from_bytes(data[14:16], "big")
    at = chance.randrange(wire.HEADER_BYTES + covered)
    return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]


def other_tag(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(wire.TAG_BYTES) + data[wire.TAG_BYTES :]


def garbage(data: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(len(data))


def longer(data: bytes, chance: random.Random) -> bytes:
    return other_tag(data, chance) + chance.randbytes(1000)


@pytest.mark.parametrize("spoil", [cut_short, other_header, other_tag, garbage, longer])
def test_rubbish_in_front_of_each_datagram_costs_nothing(spoil: Spoil) -> None:
    net, chance = world(), random.Random(7)
    put = net.put

    def put_both(source: Addr, to: Addr, data: bytes) -> None:
        put(source, to, spoil(data, chance))
        put(source, to, data)

    net.put = put_both  # type: ignore[method-assign]
    net.run(3.0, TALK)
    assert net.missing() == [] and net.switches() == 0
    assert set(net.drops()["sg-1"]) <= {"forged", "length", "shape"}
    assert sum(net.drops()["sg-1"].values()) > 200


def other_payload(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def cut_payload(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize(("change", "reason"), [(other_payload, "end_forged"), (cut_payload, "shape")])
def test_a_payload_that_was_changed_on_the_way_costs_itself_alone(
    change: Callable[[bytes], bytes], reason: str
) -> None:
    net, chance = world(), random.Random(7)
    put, changed = net.put, 0

    def put_changed(source: Addr, to: Addr, data: bytes) -> None:
        nonlocal changed
        if data[wire.HEADER_AT] == wire.kind_byte(wire.DATA) and chance.random() < 0.05:
            changed += 1
            data = change(data)
        put(source, to, data)

    net.put = put_changed  # type: ignore[method-assign]
    net.run(3.0, TALK)
    lost = net.missing()
    refused = {node: drops[reason] for node, drops in net.drops().items()}
    assert 0 < len(lost) == sum(refused.values()) <= changed
    if reason == "end_forged":
        assert set(refused) == {"ae-1", "kr-1"}, "a relay in the middle does not look at payloads"


def test_what_was_recorded_never_arrives_again() -> None:
    net = world()
    net.run(2.0, TALK)
    recorded = list(net.passed)
    assert net.missing() == []
    net.forget()
    for pause_s in (0.0, 1.0, 130.0):
        net.run(pause_s)
        for sender, receiver, data in recorded:
            net.hand(receiver, data, net.plan.overlay(sender))
        assert net.delivered == []
    for node in ("sg-1", "jp-1", "kr-1"):
        assert set(net.drops()[node]) <= {"replayed", "repeated"}


def test_a_recording_does_not_open_the_book_of_a_relay_that_begins_again() -> None:
    net = world()
    net.run(2.0, TALK)
    recorded = list(net.passed)
    net.run(61.0)
    net.forget()
    for node in ("sg-1", "jp-1", "kr-1"):
        net.begin_again(node)
        for sender, receiver, data in recorded:
            if receiver == node:
                net.hand(receiver, data, net.plan.overlay(sender))
        assert set(net.drops()[node]) <= {"stale", "repeated"}
    assert net.delivered == []
    net.run(1.0)
    net.forget()
    net.run(1.0, TALK)
    assert net.missing() == []


def test_what_we_said_ourselves_is_nothing_that_a_neighbour_says() -> None:
    """One key serves both directions of a pair; the tag says which."""
    net = world()
    net.run(1.0, TALK)
    said = list(net.passed)
    net.run(0.5)
    net.forget()
    for sender, receiver, data in said:
        net.hand(sender, data, net.plan.overlay(receiver))
    assert net.delivered == []
    assert {reason for drops in net.drops().values() for reason in drops} == {"forged"}


def test_keys_of_another_fleet_open_nothing() -> None:
    net, chance = world(), random.Random(5)
    strange = BadWorld(_OtherKeys(NODES, WAYS))
    strange.run(2.0, TALK)
    for sender, receiver, data in chance.sample(strange.passed, 500):
        net.hand(receiver, data, net.plan.overlay(sender))
    assert net.delivered == []
    assert {reason for drops in net.drops().values() for reason in drops} == {"forged"}


class _OtherKeys(BoundPlan):
    def peers(self, node: str) -> dict[str, object]:
        return with_keys(self, node, "stolen")


# --- no open proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("ae-1 sg-1 jp-1 kr-1", None),  # the primary
        ("ae-1 sg-1 kr-1", "not_in_table"),  # lawful, short, and in nobody's row
        ("ae-1 sg-1 hk-1 kr-1", "not_in_table"),
        ("ae-1 sg-1 jp-1", "not_in_table"),
        ("ae-1 sg-1 xx-1", "not_in_table"),
        ("ae-1 sg-1", "not_in_table"),
        ("kr-1 ae-1 sg-1 jp-1", "not_in_table"),
    ],
)
def test_with_all_its_keys_a_relay_gone_bad_has_no_proxy(path: str, refusal: str | None) -> None:
    net = world()
    net.run(0.5)
    data = sealed(net, "ae-1", "sg-1", wire.DATA, section(net, path.split(), 1 << 60), b"media")
    net.hand("sg-1", data, net.plan.overlay("ae-1"))
    drops = dict(net.nodes["sg-1"].drops)
    net.run(0.1)
    assert drops == ({} if refusal is None else {refusal: 1})
    assert [row[3] for row in net.delivered].count(b"media") == (refusal is None)


def test_only_an_echo_may_take_a_row_backwards() -> None:
    """The way there is in the table of ae-1, the way back in nobody's."""
    net = BadWorld(BoundPlan(NODES, [["ae-1", "sg-1", "kr-1"]]))
    net.run(1.0)
    assert net.nodes["ae-1"].paths()["kr-1"]["state"] == "up"  # type: ignore[index]
    back = ["kr-1", "sg-1", "ae-1"]
    data = sealed(net, "kr-1", "sg-1", wire.DATA, section(net, back, 1 << 60), b"media")
    net.hand("sg-1", data, net.plan.overlay("kr-1"))
    assert net.nodes["sg-1"].drops == {"not_in_table": 1} and net.delivered == []


# --- floods: every buffer is bounded -----------------------------------------------------------------------

BUFFERS = {
    *("flows", "steps", "segments_reported", "sent", "blocks", "copies", "rebuilders", "trains", "missing"),
    "waiting",
}


def bounds(figures: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(what, how much, bound) of every figure of a buffer that has a bound."""
    for name, row in figures.items():
        assert any(key.startswith("most_") for key in row), f"{name} has no bound"
        for key, most in row.items():
            if key.startswith("most_"):
                yield f"{name}.{key}", row.get(key.removeprefix("most_"), 0), most


def test_every_buffer_is_in_the_status_with_its_bound() -> None:
    net = world()
    everything = Protection(True, (2, 0.05), (8, 4, 0.06, 1), False, False, "all of it")
    chance = random.Random(3)
    net.delay_s = lambda _a, _b: None if chance.random() < 0.1 else DELAY_S
    for overlay in net.nodes.values():
        for segment in overlay.routes.segments.values():
            segment.use(wire.OTHER, everything)
    net.run(0.2, TALK)
    status = json.loads(json.dumps(net.nodes["sg-1"].status()))
    assert set(status["buffers"]) >= BUFFERS
    for what, much, most in bounds(status["buffers"]):
        assert 0 <= much <= most, what


def _bodies(net: BadWorld, chance: random.Random) -> Iterator[tuple[int, bytes]]:
    """What a neighbour gone bad may say, as fast as it can."""
    while True:
        low = chance.getrandbits(60)
        path = ["ae-1", "sg-1", *chance.sample(("jp-1", "kr-1", "hk-1", "xx-1"), chance.randrange(1, 3))]
        yield wire.DATA, section(net, path, low)
        dead = [(chance.getrandbits(32), chance.getrandbits(32)) for _ in range(hello.MAX_SEGMENTS)]
        yield wire.HELLO, hello.pack(hello.Hello(low | 1, 0, 5, 5, 5, 5, 10, 10, False, dead))
        rows = [
            telemetry.Row(chance.getrandbits(32), chance.getrandbits(32), 0, low & 0xFFFF, 9, 0, 0, 3, 0, 0)
            for _ in range(telemetry.MAX_ROWS)
        ]
        yield wire.REPORT, telemetry.pack(rows)
        yield wire.NACK, resend.pack(chance.sample(range(low, low + 4000), 100))
        k, m = chance.randrange(1, 33), chance.randrange(1, 17)
        offsets = b"".join(n.to_bytes(2, "big") for n in sorted(chance.sample(range(1, 60000), k - 1)))
        yield (
            wire.PARITY,
            bytes((k, m, 0, 0)) + low.to_bytes(8, "big") + b"\0\0" + offsets + chance.randbytes(1200),
        )
        entry = section(net, ["ae-1", "sg-1", "jp-1", "kr-1"], low, bytes(900))
        yield wire.TRAIN, train.HEAD.pack(chance.randbytes(8), 1000) + entry
        yield wire.PROBE, bytes((len(path) << 4,)) + wire.path_bytes(path) + chance.randbytes(4)
        yield wire.MTU, bytes(100)


def test_a_neighbour_that_sends_as_fast_as_it_can_fills_no_memory() -> None:
    """Two million bytes a virtual second, for four: sequences with gaps, and bodies of every kind."""
    net, chance = world(), random.Random(11)
    node, source = net.nodes["sg-1"], net.plan.overlay("ae-1")
    sequence = node.routes.segments["ae-1"].peer.arrivals.highest  # type: ignore[union-attr]
    bodies = _bodies(net, chance)
    bound: dict[str, int] = {}
    for moment in range(80):
        net.now += 0.05
        for kind, body in itertools.islice(bodies, 100):
            sequence += chance.choice((1, 1, 2, 50, 5000))
            marks = chance.choice((0, 0x40, 0x80)) | wire.IN_BLOCK
            data = sealed_by(
                pair_key("ae-1", "sg-1"), ENDS, kind, sequence, net.unix, body, bytes(900), marks
            )
            if kind != wire.DATA and kind != wire.AGAIN:
                data = sealed_by(pair_key("ae-1", "sg-1"), ENDS, kind, sequence, net.unix, body, b"", marks)
            bare = (
                chance.randbytes(8) + bytes((0, 0, 0, 0, wire.kind_byte(wire.BARE))) + chance.randbytes(987)
            )
            node.receive(source, [data, bare], net.now, net.unix)
        node.tick(net.now, net.unix)
        node.flush(net.now, net.unix)
        if moment % 20 == 0:
            for what, much, most in bounds(node.buffers()):
                assert 0 <= much <= most, what
                bound[what] = max(bound.get(what, 0), much)
    assert bound["trains.most_entries"] > 0 and bound["missing.most_entries"] > 0
    longest = max(_containers(node), key=len)
    assert len(longest) <= 20_000, type(longest)


def _containers(root: object) -> Iterator[Any]:
    """Every list, dict, set and deque that is reachable from an object of ours by objects of ours."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop()
        is_ours = type(found).__module__.startswith("commcli")
        is_container = isinstance(found, list | dict | set | tuple | deque)
        if (
            id(found) in seen
            or isinstance(found, Shard)
            or not (is_ours or is_container or inspect.ismethod(found))
        ):
            continue
        seen.add(id(found))
        if is_container:
            yield found
        waiting += gc.get_referents(found)
