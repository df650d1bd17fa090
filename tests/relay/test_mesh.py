"""The mesh against a network that loses, repeats and overtakes exactly what the test says."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.relay.mesh import stamp
from commcli.relay.mesh.budget import Budget
from commcli.relay.mesh.losses import BACK, FORWARD, NEW_SESSION, UNCERTAIN, Mark, Record, forget, judge
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import MEMORY, Reflector
from commcli.relay.mesh.session import MOST_WINDOWS
from commcli.relay.mesh.window import Jitter
from tests.relay.mesh_world import (
    HERE,
    KEYS,
    SENDER,
    STAMP_0,
    THERE,
    UNIX_0,
    UNKNOWN,
    A,
    B,
    Fate,
    Pair,
    lose,
    peers,
    windows,
)


@pytest.mark.parametrize("keys", [KEYS, []], ids=["sealed", "open"])
def test_a_quiet_network(keys: list[str]) -> None:
    pair = Pair(keys=keys, skew_s=3600.0).run(35)
    assert [window["start"] for window in pair.windows] == [UNIX_0, UNIX_0 + 10, UNIX_0 + 20]
    for window in pair.windows:
        assert window["peer"] == B
        assert window["seconds"] == 10
        assert window["sent"] == window["received"] == 50
        assert window["loss"] == window["loss_fwd"] == window["loss_back"] == 0
        assert window["rtt_ms"] == {
            name: pytest.approx(99, abs=0.01) for name in ("min", "p50", "p95", "p99")
        }
        assert window["jitter_fwd_ms"] == pytest.approx(0, abs=0.01)
        assert window["jitter_back_ms"] == pytest.approx(0, abs=0.01)
        assert window["reordered"] == window["duplicates"] == 0
    assert pair.mesh.latest() == {B: {"rtt_ms": pytest.approx(99, abs=0.01)}}


@pytest.mark.parametrize("keys", [KEYS, []], ids=["sealed", "open"])
@pytest.mark.parametrize(
    ("forward", "back"),
    [
        ([10], []),
        ([], [10]),
        ([10, 11, 12, 30], []),
        ([], [10, 11, 12, 30]),
        ([10, 20, 30, 40, 45], [5, 6]),
        ([0, 1], []),  # the first ones of all
        ([], [0, 1]),
        ([49], []),  # the last one of a window
        ([], [49]),
        ([48, 49], [47]),
    ],
)
def test_losses_have_a_direction(keys: list[str], forward: list[int], back: list[int]) -> None:
    """Places of `back` are those of replies; without loss before them they are those of packets."""
    first, *others = Pair(lose(*forward), lose(*back), keys=keys).run(25).windows
    arrived = 50 - len(forward)
    assert (first["sent"], first["received"]) == (50, arrived - len(back))
    assert first["loss"] == pytest.approx((len(forward) + len(back)) / 50, abs=1e-6)
    assert first["loss_fwd"] == pytest.approx(len(forward) / 50, abs=1e-6)
    assert first["loss_back"] == pytest.approx(len(back) / arrived, abs=1e-6)
    for other in others:
        assert other["loss"] == other["loss_fwd"] == other["loss_back"] == 0


def test_overtaking_is_counted_and_is_no_loss() -> None:
    """Every tenth packet takes 300 ms more, so that one overtakes it; on the way back every seventh."""
    pair = Pair(
        lambda place: [0.35 if place % 10 == 3 else 0.05], lambda place: [0.3 if place % 7 == 2 else 0.05]
    ).run(60)
    assert len(pair.windows) == 5
    for window in pair.windows:
        assert window["loss"] == window["loss_fwd"] == window["loss_back"] == 0
        assert window["reordered"] > 0
        assert window["duplicates"] == 0


def test_one_packet_overtaken_is_one_reordered() -> None:
    first = Pair(lambda place: [0.3 if place == 20 else 0.05]).run(20).windows[0]
    assert first["reordered"] == 1


def test_overtaking_across_the_end_of_a_window() -> None:
    pair = Pair(lambda place: [0.35 if place in (49, 98) else 0.05], lose(60)).run(35)
    assert [window["loss_fwd"] for window in pair.windows] == [0, 0, 0]
    assert [window["loss_back"] for window in pair.windows] == [0, pytest.approx(0.02), 0]


@pytest.mark.parametrize("direction", ["forward", "back"])
def test_duplicates_are_counted_and_are_no_loss(direction: str) -> None:
    def twice(place: int) -> list[float]:
        return [0.05, 0.08] if place % 10 == 0 else [0.05]

    # One reply of a packet that came twice is lost too: its number is not a hole.
    pair = Pair(twice, lose(1)) if direction == "forward" else Pair(back=twice)
    first, second = pair.run(25).windows
    assert first["loss"] == first["loss_fwd"] == first["loss_back"] == 0
    assert first["duplicates"] == (4 if direction == "forward" else 5)
    assert second["duplicates"] == 5
    assert (first["sent"], first["received"]) == (50, 50)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([0.02, 0.2]), st.booleans())
def test_the_sums_are_exact_under_everything_at_once(seed: int, loss: float, is_jittery: bool) -> None:
    chance = random.Random(seed)
    lost = {"forward": 0, "back": 0}
    duplicates = 0

    def fate(direction: str) -> Fate:
        def decide(place: int) -> list[float]:
            nonlocal duplicates
            delay_s = chance.uniform(0.02, 0.5) if is_jittery else 0.05
            if 10 <= place <= 200 and chance.random() < loss:
                lost[direction] += 1
                return []
            if direction == "back" and chance.random() < 0.05:
                duplicates += 1
                return [delay_s, delay_s + 0.01]
            return [delay_s]

        return decide

    windows = Pair(fate("forward"), fate("back"), tick_s=0.1).run(73).windows
    assert len(windows) == 7
    sent = sum(window["sent"] for window in windows)
    answered = sum(window["received"] for window in windows)
    assert sent - answered == lost["forward"] + lost["back"]
    forward = sum(window["loss_fwd"] * window["sent"] for window in windows)
    back = sum(window["loss_back"] * (1 - window["loss_fwd"]) * window["sent"] for window in windows)
    assert forward == pytest.approx(lost["forward"], abs=0.01)
    assert back == pytest.approx(lost["back"], abs=0.01)
    assert sum(window["duplicates"] for window in windows) <= duplicates


def test_an_outage_is_loss_in_a_direction_that_nobody_knows() -> None:
    pair = Pair(lambda place: [] if place >= 75 else [0.05]).run(65)
    first, second, third, *_ = pair.windows
    assert first["loss"] == first["loss_fwd"] == 0
    assert (second["loss"], second["loss_fwd"], second["loss_back"]) == (0.5, None, None)
    assert second["rtt_ms"]["p50"] == pytest.approx(99, abs=0.01)
    assert (third["sent"], third["received"], third["loss"]) == (50, 0, 1.0)
    assert third["rtt_ms"] is None
    assert (
        third["loss_fwd"] is third["loss_back"] is third["jitter_fwd_ms"] is third["jitter_back_ms"] is None
    )
    assert pair.mesh.latest() == {B: {"rtt_ms": None}}


@pytest.mark.parametrize("direction", ["forward", "back"])
def test_after_an_outage_the_direction_is_known_again(direction: str) -> None:
    def hole(place: int) -> list[float]:
        return [] if 60 <= place < 110 else [0.05]

    pair = Pair(hole) if direction == "forward" else Pair(back=hole)
    windows = pair.run(45).windows
    assert [window["loss"] for window in windows] == [0, 0.8, 0.2, 0]
    assert windows[1]["loss_fwd"] is None  # closed in the middle of it
    if direction == "forward":
        assert (windows[2]["loss_fwd"], windows[2]["loss_back"]) == (0.2, 0)
    else:
        assert (windows[2]["loss_fwd"], windows[2]["loss_back"]) == (0, 0.2)
    assert windows[3]["loss_fwd"] == windows[3]["loss_back"] == 0


def test_a_long_outage_is_forgotten_and_bounded() -> None:
    pair = Pair(lambda place: [] if 60 <= place < 1000 else [0.05]).run(240)
    assert pair.mesh._sessions[B].held < 400
    assert [window["loss"] for window in pair.windows[-3:]] == [0, 0, 0]
    assert [window["loss_fwd"] for window in pair.windows[-2:]] == [0, 0]


def test_a_reflector_that_restarts_begins_again_at_zero() -> None:
    pair = Pair(lose(130), lose(90)).run(15)
    pair.new_reflector()
    windows = pair.run(30).windows
    assert [window["loss"] for window in windows] == [0, 0.02, 0.02, 0]
    assert [window["loss_back"] for window in windows] == [0, 0.02, 0, 0]
    assert [window["loss_fwd"] for window in windows] == [0, 0, 0.02, 0]


def test_a_sender_that_restarts_from_the_same_port_is_a_new_session() -> None:
    pair = Pair().run((MEMORY + 50) / 5)
    pair.mesh = Mesh(A, lambda size: bytes(size))
    pair.mesh.set_peers(peers((B, THERE), keys=KEYS))
    assert len(pair.run(30).windows) == 2
    for window in pair.windows:
        assert window["loss"] == window["loss_fwd"] == window["loss_back"] == 0


def test_answers_later_than_two_seconds_are_lost() -> None:
    pair = Pair(back=lambda place: [5.0 if place == 49 else 0.05]).run(35)
    first = pair.windows[0]
    assert (first["received"], first["loss"], first["loss_back"]) == (49, 0.02, 0.02)
    assert pair.mesh.drops == {"late": 1}
    assert [window["loss"] for window in pair.windows[1:]] == [0, 0]


def test_windows_are_closed_aligned_bounded_and_asked_for_by_time() -> None:
    pair = Pair(now=7.0)
    assert pair.run(4.9).windows == []
    assert [window["start"] for window in pair.run(0.2).windows] == [UNIX_0]
    assert pair.windows[0]["sent"] == 15  # it began in the middle: the count says so
    pair.run((MOST_WINDOWS[10] + 5) * 10)
    starts = [window["start"] for window in pair.windows]
    assert len(starts) == MOST_WINDOWS[10]
    assert starts == list(range(starts[0], starts[0] + MOST_WINDOWS[10] * 10, 10))
    assert len(windows(pair.mesh, starts[-2])) == 2
    assert windows(pair.mesh, starts[-1] + 10) == []
    assert type(starts[0]) is int


def test_peers_are_asked_in_phases_of_their_own() -> None:
    mesh = Mesh(A, random.Random(1).randbytes, Budget(1000, 10))
    mesh.set_peers(peers(*((f"n{place}", f"198.51.100.{place}") for place in range(50)), keys=KEYS))
    busiest = max(len(mesh.tick(step * 0.01, UNIX_0 + step * 0.01)) for step in range(100))
    assert busiest < 15


@pytest.mark.parametrize("rate", [1.0, 5.0, 20.0])
def test_the_rate_is_kept(rate: float) -> None:
    mesh = Mesh(A, bytes, Budget(1000, rate))
    mesh.set_peers(peers((B, THERE), keys=KEYS))
    packets = sum(len(mesh.tick(step * 0.013, UNIX_0 + step * 0.013)) for step in range(int(100 / 0.013)))
    assert packets == pytest.approx(100 * rate, abs=1)


def test_many_peers_share_a_bound_and_a_stall_is_not_made_up_for() -> None:
    mesh = Mesh(A, random.Random(1).randbytes, Budget(1000, 100))
    mesh.set_peers(
        peers(*((f"n{place}", f"10.0.{place // 250}.{place % 250}") for place in range(500)), keys=[])
    )
    assert mesh.interval_s == 0.5
    assert sum(len(mesh.tick(step * 0.02, UNIX_0 + step * 0.02)) for step in range(50)) == pytest.approx(
        1000, abs=50
    )
    assert len(mesh.tick(60.0, UNIX_0 + 60)) <= 500


def reply_to(pair: Pair, data: bytes, source: tuple[str, int] = SENDER) -> bytes | None:
    return pair.reflector.receive(data, source, UNIX_0, UNIX_0)


def one_packet(pair: Pair) -> bytes:
    ((_, _, data),) = pair.mesh.tick(pair.now, pair.unix)
    return data


def test_the_reflector_answers_known_peers_only() -> None:
    pair = Pair()
    data = one_packet(pair)
    assert reply_to(pair, data, ("198.51.100.9", 50000)) is None
    assert pair.reflector.drops == {"unknown_peer": 1}
    assert reply_to(pair, data[:-1]) is None
    assert reply_to(pair, data[:-1] + b"x") is None
    assert reply_to(pair, data[:44]) is None  # no open packet where there is a key
    assert (
        reply_to(pair, stamp.pack_request(0, STAMP_0, UNKNOWN, stamp.Seal(bytes.fromhex("ab" * 32)))) is None
    )
    assert pair.reflector.drops == {"unknown_peer": 1, "forged": 4}
    assert reply_to(pair, data) is not None


@pytest.mark.parametrize("size", [0, 13, 37])
def test_too_short_a_question(size: int) -> None:
    assert reply_to(Pair(keys=[]), bytes(size)) is None


@pytest.mark.parametrize("size", [38, 41, 44, 200])
def test_the_answer_is_never_longer_than_the_question(size: int) -> None:
    data = (stamp.pack_request(0, STAMP_0, UNKNOWN, None) + bytes(200))[:size]
    reply = reply_to(Pair(keys=[]), data)
    assert reply is not None
    assert len(reply) == min(size, 44)


def test_the_reflector_numbers_what_it_answers_and_knows_repeats() -> None:
    pair = Pair()
    packets = [
        stamp.pack_request(
            place, stamp.to_timestamp(UNIX_0 + place), UNKNOWN, pair.mesh._sessions[B].request_seal
        )
        for place in range(MEMORY + 10)
    ]
    keys = pair.mesh._sessions[B].reply_seals

    def number(data: bytes, port: int = 50000) -> int | None:
        reply = reply_to(pair, data, (HERE, port))
        read = None if reply is None else stamp.unpack_reply(reply, keys[0])
        return None if read is None else read.sequence

    assert [number(data) for data in packets[:4]] == [0, 1, 2, 3]
    assert number(packets[1]) == 1
    assert number(packets[9]) == 4  # 4 to 8 are late or lost
    assert number(packets[5]) == 5
    assert number(packets[0], port=50001) == 0  # another session
    assert [number(data) for data in packets[10:]] == list(range(6, MEMORY + 6))
    assert number(packets[0]) is None
    assert pair.reflector.drops == {"replayed": 1}


@pytest.mark.parametrize("keys", [KEYS, []], ids=["sealed", "open"])
def test_two_reflectors_do_not_answer_each_other_for_ever(keys: list[str]) -> None:
    """One datagram in the name of a peer's reflector: without keys, each answer would be a request to the other."""
    here, there = Reflector(A), Reflector(B)
    here.set_peers(peers((B, THERE), keys=keys))
    there.set_peers(peers((A, HERE), keys=keys))
    forged = stamp.pack_request(5, STAMP_0, UNKNOWN, None)
    assert there.receive(forged, (HERE, 3480), UNIX_0, UNIX_0) is None
    assert there.drops == {"from_reflector": 1}
    # A sender there is answered all the same, and its answer would be none of the other reflector's business.
    answer = there.receive(forged, SENDER, UNIX_0, UNIX_0)
    assert (answer is None) is bool(keys)
    assert here.receive(answer or forged, (THERE, 3480), UNIX_0, UNIX_0) is None
    assert here.drops == {"from_reflector": 1}


def test_ports_without_end_do_not_fill_the_memory() -> None:
    pair = Pair()
    data = one_packet(pair)
    for port in range(1024, 1200):
        assert reply_to(pair, data, (HERE, port)) is not None
    (asker,) = pair.reflector._askers[HERE]
    assert len(asker._sessions) == 4


def test_replies_that_are_none() -> None:
    pair = Pair()
    request = one_packet(pair)
    reply = reply_to(pair, request)
    assert reply is not None
    receive = pair.mesh.receive_reply
    receive(reply, (HERE, 3480), 0.1, UNIX_0)
    receive(reply, (THERE, 3481), 0.1, UNIX_0)
    receive(reply[:-1] + bytes([reply[-1] ^ 1]), (THERE, 3480), 0.1, UNIX_0)
    receive(request, (THERE, 3480), 0.1, UNIX_0)  # our own, reflected by nobody
    receive(b"", (THERE, 3480), 0.1, UNIX_0)
    assert pair.mesh.drops == {"unknown_peer": 2, "forged": 3}
    assert reply_to(pair, reply) is None  # and a reply is no question: nothing can bounce


def test_an_open_reply_must_repeat_what_was_asked() -> None:
    pair = Pair(keys=[])
    one_packet(pair)
    for sequence, unix in ((0, UNIX_0 + 1), (1, UNIX_0)):
        asked = stamp.Request(sequence, stamp.to_timestamp(unix), 1)
        guess = stamp.pack_reply(0, STAMP_0, STAMP_0, UNKNOWN, asked, 255, None)
        pair.mesh.receive_reply(guess, (THERE, 3480), 0.1, UNIX_0)
    assert pair.mesh.drops == {"unasked": 2}


def test_keys_rotate_without_a_lost_packet() -> None:
    pair = Pair().run(3)
    new = "cd" * 32
    pair.reflector.set_peers(peers((A, HERE), keys=[*KEYS, new]))
    pair.run(3)
    pair.mesh.set_peers(peers((B, THERE), keys=[new, *KEYS]))
    pair.run(3)
    pair.reflector.set_peers(peers((A, HERE), keys=[new]))
    windows = pair.run(13).windows
    assert windows[0]["loss"] == windows[0]["loss_fwd"] == 0
    assert not pair.reflector.drops


def test_a_node_does_not_measure_itself() -> None:
    mesh = Mesh(A, bytes)
    mesh.set_peers(peers((A, HERE), (B, THERE), keys=KEYS))
    assert [peer for peer, _, _ in mesh.tick(0.0, UNIX_0)] == [B]


def test_a_peer_that_left_is_asked_no_more() -> None:
    pair = Pair().run(15)
    pair.mesh.set_peers({})
    assert pair.mesh.tick(pair.now + 10, pair.unix + 10) == []
    assert windows(pair.mesh) == []


def test_a_reflector_whose_clock_steps_does_not_bend_the_round_trip() -> None:
    pair = Pair()
    request = one_packet(pair)
    for sent_unix in (UNIX_0 - 50, UNIX_0 + 50):
        read = stamp.unpack_request(request, pair.mesh._sessions[B].request_seal)
        assert read is not None
        reply = stamp.pack_reply(
            0,
            STAMP_0,
            stamp.to_timestamp(sent_unix),
            UNKNOWN,
            read,
            255,
            pair.mesh._sessions[B].reply_seals[0],
        )
        pair.mesh.receive_reply(reply, (THERE, 3480), 0.08, UNIX_0 + 0.08)
        assert pair.mesh.latest() == {B: {"rtt_ms": pytest.approx(80)}}


def test_jitter_of_rfc_3550() -> None:
    jitter = Jitter()
    jitter.add([0.016 * (place % 2) for place in range(400)])  # |D| is always 16 ms
    assert jitter.value_s == pytest.approx(0.016, abs=1e-6)
    step = Jitter()
    step.add([5.0, 5.016])
    assert step.value_s == pytest.approx(0.001)


def test_jitter_has_a_direction() -> None:
    pair = Pair(lambda place: [0.05 + 0.02 * (place % 2)], skew_s=-500).run(60)
    window = pair.windows[-1]
    assert window["jitter_fwd_ms"] == pytest.approx(20, abs=0.5)
    assert window["jitter_back_ms"] == pytest.approx(0, abs=0.5)


def record(sequence: int, number: int | None, t2: float | None = None) -> Record:
    return Record(sequence, float(sequence), number, float(sequence) if t2 is None else t2)


NOTHING = Mark(0, None)


def after(highest: int) -> Mark:
    return Mark(0, highest, -1.0)


@pytest.mark.parametrize(
    ("numbers", "mark", "labels"),
    [
        ([0, 1, 2], NEW_SESSION, [None] * 3),
        ([0, None, 1], NEW_SESSION, [None, FORWARD, None]),
        ([0, None, 2], NEW_SESSION, [None, BACK, None]),
        ([None, 1], NEW_SESSION, [BACK, None]),
        ([None, 0], NEW_SESSION, [FORWARD, None]),
        ([0, None], NEW_SESSION, [None, UNCERTAIN]),
        ([None, None], NEW_SESSION, [UNCERTAIN, UNCERTAIN]),
        ([None, 7], NOTHING, [UNCERTAIN, None]),  # what was before is not known
        ([None, 7, None, 8], NOTHING, [UNCERTAIN, None, FORWARD, None]),
        ([None, None, 8, None, 9], after(6), [FORWARD, BACK, None, FORWARD, None]),
        ([None, 9], after(6), [UNCERTAIN, None]),  # two holes, one packet: it counts something else
        ([0, None, 0], NEW_SESSION, [None, FORWARD, None]),  # it restarted, and whatever came before is gone
        ([5, None, 1], after(4), [None, BACK, None]),
        ([4_000_000_000], NEW_SESSION, [None]),
        ([], after(3), []),
    ],
)
def test_labels(numbers: list[int | None], mark: Mark, labels: list[str | None]) -> None:
    records = [record(place, number) for place, number in enumerate(numbers)]
    judge(records, mark, last=99)
    assert [made.lost for made in records] == labels


def test_only_what_is_closed_is_labelled_and_what_came_after_helps() -> None:
    records = [record(0, 0), record(1, None), record(2, 2), record(3, None), record(4, 3)]
    judge(records, NEW_SESSION, last=2)
    assert [made.lost for made in records] == [None, BACK, None, UNCERTAIN, None]
    judge(records, NEW_SESSION, last=4)
    assert [made.lost for made in records] == [None, BACK, None, FORWARD, None]


def test_an_answer_lost_after_its_packet_was_overtaken() -> None:
    """1 came after 2 and its answer is lost: the hole stands behind 2, where nothing is missing."""
    records = [record(0, 0), record(1, None), record(2, 1), record(3, 3)]
    judge(records, NEW_SESSION, last=99)
    assert [made.lost for made in records] == [None, BACK, None, None]


def test_a_coarse_clock_is_no_restart() -> None:
    """Two packets of one batch have the same t2, and came in the other order."""
    records = [record(0, 1, 5.0), record(1, 0, 5.0), record(2, None), record(3, 2, 6.0)]
    judge(records, NEW_SESSION, last=99)
    assert records[2].lost == FORWARD


def test_a_guess_does_not_make_a_later_number_a_restart() -> None:
    records = [record(0, 0), record(1, None), record(2, 1), record(3, 2)]
    records[1].guess, records[1].lost = 4, BACK
    assert forget(records, NEW_SESSION, 3) == (3, Mark(0, 1, 2.0))
    assert forget(records[:3], NEW_SESSION, 3) == (3, Mark(0, 4, 2.0))


def test_forgetting_carries_on_where_it_stops() -> None:
    records = [
        record(0, 0),
        record(1, 2, 2.5),
        record(2, 1, 2.0),
        record(3, None),
        record(4, 0),
        record(5, None),
    ]
    judge(records, NEW_SESSION, last=99)
    assert forget(records, NEW_SESSION, 0) == (0, NEW_SESSION)
    assert forget(records, NEW_SESSION, 2) == (2, Mark(0, 2, 2.5))
    assert forget(records, NEW_SESSION, 4) == (3, Mark(0, 2, 2.5))  # 3 is not needed, but does no harm
    count, mark = forget(records, NEW_SESSION, 99)
    assert (count, mark) == (5, Mark(3, 3, 4.0))
    rest = [records[5], record(6, 2)]
    judge(rest, mark, last=99)
    assert rest[0].lost == BACK
    # 2 is kept and older than what was forgotten: late, and no restart.
    kept = [records[2], record(7, 3)]
    judge(kept, Mark(0, 2, 2.5), last=99)
    assert [made.lost for made in kept] == [None, None]


def test_the_next_process_knows_the_closed_windows() -> None:
    pair = Pair()
    pair.run(25)
    heir = Mesh(A, random.Random(9).randbytes)
    heir.set_peers(peers((B, THERE), keys=KEYS))
    heir.take(json.loads(json.dumps({**pair.mesh.kept(), "gone-1": []})))
    assert windows(heir) == json.loads(json.dumps(windows(pair.mesh))) != []
    assert heir.latest() == pair.mesh.latest()
