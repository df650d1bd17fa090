"""Parity over blocks: any m losses of a block are repaired bit for bit, and no body does harm."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commcli.relay.protect.parity import MAX_DEPTH, Blocks, Rebuilder, excess_bytes

FIRST = 1_767_225_600_000_000


def blocks(k: int, m: int, longest_s: float = 1.0, depth: int = 1) -> Blocks:
    made = Blocks()
    made.use(k, m, longest_s, depth)
    return made


def datagrams(count: int, seed: int = 0) -> dict[int, bytes]:
    source = random.Random(seed)
    return {FIRST + number: source.randbytes(source.randrange(1, 300)) for number in range(count)}


def bodies_of(sender: Blocks, sent: dict[int, bytes], now: float = 0.0) -> list[bytes]:
    """All the parities for these, what is left open at the end included."""
    made = [body for sequence, datagram in sent.items() for body in sender.add(sequence, datagram, now)]
    return made + sender.due(now + 10)


def rebuilt_by(receiver: Rebuilder, came: dict[int, bytes], bodies: Iterable[bytes]) -> list[bytes]:
    found = [
        datagram for sequence, datagram in came.items() for datagram in receiver.keep(sequence, datagram, 0.0)
    ]
    return found + [datagram for body in bodies for datagram in receiver.parity(body, 0.0)]


@given(st.data(), st.integers(1, 12), st.integers(1, 6), st.integers(1, 30), st.integers(1, 4))
def test_as_many_losses_as_parities_are_repaired_in_any_order(
    data: st.DataObject, k: int, m: int, count: int, depth: int
) -> None:
    source = data.draw(st.randoms(use_true_random=False))
    sent = datagrams(count, source.randrange(1000))
    bodies = bodies_of(blocks(k, m, depth=depth), sent)
    events: list[tuple[int, bytes]] = []
    lost = {}
    for group in _by_block(bodies):
        members = _sequences(group[0])
        gone = source.sample(members, source.randint(0, min(len(group), len(members))))
        lost.update({sequence: sent[sequence] for sequence in gone})
        events += [(0, body) for body in source.sample(group, source.randint(len(gone), len(group)))]
    came = [(sequence, datagram) for sequence, datagram in sent.items() if sequence not in lost]
    events += came + source.sample(came, len(came) // 3)
    source.shuffle(events)
    receiver = Rebuilder()
    found = []
    for sequence, content in events:
        found += receiver.keep(sequence, content, 0.0) if sequence else receiver.parity(content, 0.0)
    # A datagram may be rebuilt before it comes, late; what is lost is rebuilt once, and nothing else is handed out.
    assert set(found) <= set(sent.values())
    assert len(found) == len(set(found))
    assert set(lost.values()) <= set(found)
    assert receiver.spoiled == 0
    assert receiver.figures()["bytes"] <= receiver.figures()["most_bytes"]


def _by_block(bodies: list[bytes]) -> list[list[bytes]]:
    groups: dict[bytes, list[bytes]] = {}
    for body in bodies:
        groups.setdefault(body[:2] + body[4 : 12 + 2 * body[0]], []).append(body)
    return list(groups.values())


def _sequences(body: bytes) -> list[int]:
    first = int.from_bytes(body[4:12], "big")
    return [
        first + int.from_bytes(body[12 + 2 * number : 14 + 2 * number], "big") for number in range(body[0])
    ]


def test_more_losses_than_parities_rebuild_nothing_until_one_comes_late() -> None:
    sent = datagrams(8)
    bodies = bodies_of(blocks(8, 2), sent)
    gone = [FIRST + 1, FIRST + 4, FIRST + 7]
    receiver = Rebuilder()
    assert rebuilt_by(receiver, {s: d for s, d in sent.items() if s not in gone}, bodies) == []
    assert receiver.keep(gone[1], sent[gone[1]], 0.0) == [sent[gone[0]], sent[gone[2]]]
    assert receiver.rebuilt == 2


def test_a_datagram_that_is_only_late_is_rebuilt_and_then_no_news() -> None:
    sent = datagrams(4)
    (body,) = bodies_of(blocks(4, 1), sent)
    receiver = Rebuilder()
    late = FIRST + 2
    assert rebuilt_by(receiver, {s: d for s, d in sent.items() if s != late}, [body]) == [sent[late]]
    assert receiver.keep(late, sent[late], 0.0) == []
    assert receiver.parity(body, 0.0) == []
    assert receiver.needless == 1


def test_a_lone_datagram_is_protected_by_one_copy_of_it() -> None:
    sender = blocks(8, 4, longest_s=0.03)
    assert sender.add(FIRST, b"lone", 5.0) == []
    assert sender.wish() == 5.03
    assert sender.due(5.02) == []
    (body,) = sender.due(5.03)
    assert sender.wish() is None and sender.due(9.0) == []
    assert len(body) == len(b"lone") + excess_bytes(1)
    assert Rebuilder().parity(body, 0.0) == [b"lone"]


@pytest.mark.parametrize(("count", "parities"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4), (8, 4)])
def test_a_short_block_gets_its_share_of_parities(count: int, parities: int) -> None:
    assert len(bodies_of(blocks(8, 4), datagrams(count))) == parities


def test_blocks_wait_from_their_own_first_datagram_on() -> None:
    sender = blocks(2, 1, longest_s=0.03)
    sender.add(FIRST, b"a", 1.0)
    assert len(sender.add(FIRST + 1, b"b", 1.01)) == 1
    assert sender.wish() is None
    sender.add(FIRST + 2, b"c", 1.02)
    assert sender.wish() == 1.05


def test_in_deep_blocks_a_burst_falls_on_all_of_them() -> None:
    sent = datagrams(40)
    bodies = bodies_of(blocks(10, 1, depth=4), sent)
    assert len(bodies) == 4
    burst = [FIRST + 17 + number for number in range(4)]
    receiver = Rebuilder()
    found = rebuilt_by(receiver, {s: d for s, d in sent.items() if s not in burst}, bodies)
    assert sorted(found) == sorted(sent[sequence] for sequence in burst)


def test_deep_blocks_that_are_not_due_stay_open() -> None:
    sender = blocks(4, 1, longest_s=0.1, depth=2)
    made = []
    for number, (sequence, datagram) in enumerate(datagrams(80).items()):
        now = number / 100
        made += sender.due(now) + sender.add(sequence, datagram, now)
    assert len(made) == 20
    assert all(body[0] == 4 for body in made)


def test_the_rests_of_deep_blocks_become_one_block() -> None:
    sender = blocks(8, 2, longest_s=0.05, depth=4)
    for sequence, datagram in datagrams(6).items():
        assert sender.add(sequence, datagram, 0.0) == []
    bodies = sender.due(0.05)
    assert [body[0] for body in bodies] == [6, 6]


def test_sequences_of_other_classes_lie_between() -> None:
    sent = {FIRST + step: b"%d" % step for step in (0, 3, 4, 90, 65535)}
    bodies = bodies_of(blocks(5, 2), sent)
    assert _sequences(bodies[0]) == list(sent)
    came = {s: d for s, d in sent.items() if s not in (FIRST, FIRST + 90)}
    assert rebuilt_by(Rebuilder(), came, bodies) == [b"0", b"90"]


def test_a_block_ends_where_a_sequence_is_too_far_off_for_it() -> None:
    sender = blocks(4, 1)
    sender.add(FIRST, b"a", 0.0)
    sender.add(FIRST + 1, b"b", 0.0)
    (body,) = sender.add(FIRST + 65536, b"c", 0.0)
    assert _sequences(body) == [FIRST, FIRST + 1]
    (rest,) = sender.due(10.0)
    assert _sequences(rest) == [FIRST + 65536]


def test_another_code_ends_the_open_block() -> None:
    sender = blocks(8, 1)
    sender.add(FIRST, b"a", 0.0)
    sender.use(8, 1, 1.0)
    assert sender.due(0.0) == []
    sender.use(8, 4, 1.0)
    assert sender.wish() == float("-inf")
    assert [body[:2] for body in sender.due(0.0)] == [bytes((1, 1))]
    assert sender.wish() is None


def test_off_means_no_parity_at_all() -> None:
    sender = Blocks()
    assert not sender.is_on and sender.add(FIRST, b"a", 0.0) == []
    sender.use(8, 2, 1.0)
    assert sender.is_on
    sender.add(FIRST, b"a", 0.0)
    sender.use(0, 0, 0.0)
    assert not sender.is_on and sender.due(9.0) == [] and sender.wish() is None
    assert sender.figures() == {"bytes": 0, "datagrams": 0, "most_bytes": 0}


@pytest.mark.parametrize("words", [(33, 1, 1.0, 1), (8, 17, 1.0, 1), (0, 1, 1.0, 1), (8, 1, 1.0, 0)])
def test_codes_that_do_not_exist_are_refused(words: tuple[int, int, float, int]) -> None:
    with pytest.raises(ValueError):
        Blocks().use(*words)
    with pytest.raises(ValueError):
        Blocks().use(8, 1, 1.0, MAX_DEPTH + 1)


GOOD = bodies_of(blocks(3, 2), {FIRST: b"one", FIRST + 1: b"two", FIRST + 2: b"three"})[0]


@given(st.binary(max_size=200))
@example(b"")
@example(GOOD[:12])
@example(GOOD[:18])
@example(GOOD[:19])
@example(bytes((0,)) + GOOD[1:])
@example(GOOD[:3] + b"\1" + GOOD[4:])
@example(GOOD[:4] + b"\xff" * 8 + GOOD[12:])
@example(GOOD[:12] + b"\0\1" + GOOD[14:])
@example(GOOD[:14] + b"\0\0" + GOOD[16:])
@example(GOOD + bytes(70000))
def test_garbage_is_a_value_error_or_does_no_harm(body: bytes) -> None:
    receiver = Rebuilder()
    try:
        found = receiver.parity(body, 0.0)
    except ValueError:
        found = []
    assert all(0 < len(datagram) < len(body) for datagram in found)


@pytest.mark.parametrize(
    "body",
    [
        GOOD[:18],
        GOOD[:3] + b"\1" + GOOD[4:],
        GOOD[:12] + b"\0\1" + GOOD[14:],
        GOOD[:14] + b"\0\0" + GOOD[16:],
    ],
)
def test_bodies_that_blocks_does_not_make_are_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        Rebuilder().parity(body, 0.0)


@given(st.data())
def test_a_changed_body_never_breaks_the_receiver(data: st.DataObject) -> None:
    source = data.draw(st.randoms(use_true_random=False))
    sent = datagrams(6, 3)
    bodies = bodies_of(blocks(6, 3), sent)
    receiver = Rebuilder()
    for sequence in source.sample(sorted(sent), 4):
        receiver.keep(sequence, sent[sequence], 0.0)
    for body in bodies:
        changed = bytearray(body)
        for _ in range(source.randrange(3)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        try:
            receiver.parity(bytes(changed), 0.0)
        except ValueError:
            continue
    assert receiver.figures()["bytes"] <= receiver.figures()["most_bytes"]


def test_shards_that_do_not_fit_together_give_nothing() -> None:
    sent = datagrams(4)
    (body,) = bodies_of(blocks(4, 1), sent)
    receiver = Rebuilder()
    came = {sequence: datagram for sequence, datagram in sent.items() if sequence != FIRST}
    came[FIRST + 1] = came[FIRST + 1] + b"not what was sent"
    assert rebuilt_by(receiver, came, [body]) == []
    assert receiver.spoiled == 1


def test_a_datagram_in_two_blocks_counts_in_the_later_one() -> None:
    sent = datagrams(4)
    one = bodies_of(blocks(3, 1), {s: sent[s] for s in list(sent)[:3]})
    two = bodies_of(blocks(3, 1), {s: sent[s] for s in list(sent)[1:]})
    receiver = Rebuilder()
    assert rebuilt_by(receiver, {}, one + two) == []
    assert receiver.given_up == 1
    assert receiver.keep(FIRST + 3, sent[FIRST + 3], 0.0) == []
    assert receiver.keep(FIRST + 2, sent[FIRST + 2], 0.0) == [sent[FIRST + 1]]


def test_a_flood_of_parities_for_nothing_is_bounded() -> None:
    receiver = Rebuilder()
    limit = receiver.figures()["most_bytes"]
    for number in range(1000):
        head = bytes((32, 16, 0, 0)) + (FIRST + 100 * number).to_bytes(8, "big")
        offsets = b"".join(step.to_bytes(2, "big") for step in range(32))
        assert receiver.parity(head + offsets + bytes(20000), 0.0) == []
        assert receiver.figures()["bytes"] <= limit
        assert len(receiver._open) <= receiver.MOST_OPEN
        assert len(receiver._awaited) <= 32 * receiver.MOST_OPEN
    assert receiver.given_up > 800


def test_a_parity_does_not_wait_for_ever() -> None:
    sent = datagrams(4)
    (body,) = bodies_of(blocks(4, 1), sent)
    receiver = Rebuilder(longest_s=1.0)
    receiver.parity(body, 5.0)
    receiver.forget(5.9)
    assert receiver.figures()["bytes"] > 0
    receiver.forget(6.1)
    assert receiver.figures()["bytes"] == 0 and receiver.given_up == 1
    assert not receiver._awaited


def test_a_block_whose_datagrams_were_forgotten_is_given_up() -> None:
    sent = datagrams(5)
    (body,) = bodies_of(blocks(5, 1), sent)
    receiver = Rebuilder(longest_s=1.0)
    for number in range(3):
        receiver.keep(FIRST + number, sent[FIRST + number], 5.0)
    receiver.parity(body, 5.9)
    assert receiver.keep(FIRST + 3, sent[FIRST + 3], 6.6) == []
    assert receiver.given_up == 1 and not receiver._awaited and not receiver._open
