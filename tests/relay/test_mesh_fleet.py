"""The mesh of a big fleet: its budget holds, nothing happens to all peers at once, and memory stays small."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.mesh import stamp
from commcli.relay.mesh.budget import USUAL, Budget
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import Reflector
from commcli.relay.mesh.session import MOST_WINDOWS, Session
from commcli.relay.mesh.window import ENOUGH_PACKETS, LENGTHS_S, length_s
from tests.relay.mesh_world import THERE, UNIX_0, A, B, Pair, peers, windows

TICK_S = 0.05


def rows(count: int, first: int = 0) -> dict[str, object]:
    numbers = range(first, first + count)
    return peers(
        *((f"n{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}") for number in numbers),
        keys=[],
    )


def turns(mesh: Mesh, seconds: float, start: float = 0.0) -> Iterator[list[Session]]:
    """What each tick sends."""
    for step in range(round(seconds / TICK_S)):
        yield mesh.due(start + step * TICK_S)


def big(budget: Budget = USUAL, count: int = 1000, seed: int = 1) -> Mesh:
    mesh = Mesh(A, random.Random(seed).randbytes, budget)
    mesh.set_peers(rows(count))
    return mesh


@pytest.mark.parametrize(
    ("budget", "a_second"), [(USUAL, 200), (Budget(1000.0, 5.0), 1000), (Budget(10_000.0, 2.0), 2000)]
)
def test_the_budget_holds_at_a_thousand_peers_and_is_spread_evenly(budget: Budget, a_second: int) -> None:
    sent = [len(tick) for tick in turns(big(budget), 20)]
    assert sum(sent) == pytest.approx(20 * a_second, abs=a_second * TICK_S + 2)
    assert max(sent) <= a_second * TICK_S + 1


def test_every_peer_has_the_same_share() -> None:
    counts = Counter(session.peer.id for tick in turns(big(Budget(1000.0, 5.0)), 20) for session in tick)
    assert set(counts.values()) <= {19, 20, 21} and len(counts) == 1000


def test_a_new_list_of_peers_makes_no_herd() -> None:
    """Half of them go, as many come: those that stay keep their turns, and no tick sends more than before."""
    mesh = big(Budget(1000.0, 5.0))
    list(turns(mesh, 7.3))
    before = [session.peer.id for session in mesh._turns.peers]
    mesh.set_peers(rows(1000, 500))
    stayed = set(before) & {session.peer.id for session in mesh._turns.peers}
    assert len(stayed) == 500
    assert [node for node in before if node in stayed] == [
        session.peer.id for session in mesh._turns.peers if session.peer.id in stayed
    ]
    sent = list(turns(mesh, 10, start=7.3))
    assert max(map(len, sent)) <= 1000 * TICK_S + 1
    assert {session.peer.id for tick in sent for session in tick} == set(rows(1000, 500))


def test_nodes_that_start_together_do_not_ask_one_together() -> None:
    """A hundred nodes of a hundred peers start at the same moment: how many of them ask n0 in the same 50 ms."""
    heard: Counter[int] = Counter()
    for node in range(1, 100):
        mesh = big(Budget(100.0, 1.0), 100, seed=node)
        for step, tick in enumerate(turns(mesh, 10)):
            heard[step] += sum(session.peer.id == "n0" for session in tick)
    assert sum(heard.values()) == pytest.approx(990, abs=99)
    assert max(heard.values()) < 20  # 5 on average; all in step would be 99


def test_a_stall_is_not_made_up_for() -> None:
    mesh = big(Budget(1000.0, 5.0))
    list(turns(mesh, 1))
    assert len(mesh.due(30.0)) <= 201
    assert len(mesh.due(30.05)) <= 51


def test_windows_of_a_thousand_peers_are_not_closed_in_one_tick() -> None:
    mesh = big(Budget(1000.0, 5.0))
    closed, most = 0, 0
    for step in range(round(155 / TICK_S)):
        now = step * TICK_S
        for session in mesh.due(now):
            mesh.request(session, now, UNIX_0 + now)
        found = sum(len(session.closed) for session in mesh._sessions.values())
        most, closed = max(most, found - closed), found
    assert closed == 2000
    assert most <= 2


def test_memory_of_a_peer_is_small() -> None:
    """At one packet a second, with a quarter of an hour of closed windows."""
    count = 20
    tracemalloc.start()
    try:
        mesh, reflector = big(Budget(20.0, 1.0), count), Reflector(A)
        reflector.set_peers(rows(count))
        error = stamp.UNKNOWN_CLOCK.pack()
        for step in range(round(20 * 60 / TICK_S)):
            now = step * TICK_S
            unix = UNIX_0 + now
            for session in mesh.due(now):
                sequence = session.sequence
                mesh.request(session, now, unix)
                asked = stamp.Request(sequence, stamp.to_timestamp(unix), error)
                there = stamp.to_timestamp(unix + 0.05)
                reply = stamp.pack_reply(sequence, there, there, error, asked, 255, None)
                mesh.receive_reply(reply, session.addr, now + 0.1, unix + 0.1)
                request = stamp.pack_request(sequence, there, error, None)
                assert reflector.receive(request, (session.addr[0], 9), unix, unix) is not None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(mesh.rows()) == count * MOST_WINDOWS[60]
    assert held / count < 40_000


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [(100.0, 10), (5.0, 10), (4.99, 10), (4.9, 30), (2.0, 30), (1.0, 60), (0.9, 60), (0.8, 300), (0.01, 300)],
)  # fmt: skip
def test_a_window_is_as_short_as_holds_fifty_packets(rate: float, seconds: int) -> None:
    assert length_s(rate, 0.0, UNIX_0) == seconds
    assert seconds == LENGTHS_S[-1] or rate * seconds >= ENOUGH_PACKETS - 1


@given(st.lists(st.tuples(st.floats(0.05, 20.0), st.floats(1.0, 400.0)), min_size=1, max_size=8))
def test_windows_never_overlap_however_the_rate_changes(phases: list[tuple[float, float]]) -> None:
    ended, unix = 0.0, UNIX_0 + 3.0
    for rate, lasting_s in phases:
        until = unix + lasting_s
        while unix < until:
            seconds = length_s(rate, ended, unix)
            start = unix // seconds * seconds
            assert start >= ended and start <= unix < start + seconds
            ended = unix = start + seconds


def test_slower_means_longer_windows_from_the_next_that_fits() -> None:
    pair = Pair().run(25)
    pair.mesh.spend(Budget(1.0, 5.0))
    pair.run(140)
    assert [(row["start"] - UNIX_0, row["seconds"]) for row in pair.windows] == [
        *((start, 10) for start in (0, 10, 20)),
        (30, 30),
        (60, 60),
    ]
    assert all(row["start"] % row["seconds"] == 0 for row in pair.windows)
    # A row that ends later than what was read last is told, though it began earlier.
    assert len(windows(pair.mesh, UNIX_0 + 60)) == 1


def test_a_budget_that_all_but_ends_leaves_open_windows_whole() -> None:
    pair = Pair().run(8)
    pair.mesh.spend(Budget(0.5, 0.5))
    assert next((row["sent"], row["received"]) for row in pair.run(20).windows) == (41, 41)


def test_a_clock_that_is_set_back_begins_a_short_window() -> None:
    mesh = Mesh(A, bytes, Budget(1.0, 1.0))
    mesh.set_peers(peers((B, THERE), keys=[]))
    for step in range(400):
        unix = UNIX_0 + step - (1000 if step >= 130 else 0)
        mesh.tick(float(step), unix)
    told = [(row["start"] - UNIX_0, row["seconds"], row["sent"]) for row in windows(mesh)]
    assert [row for row in told if row[0] >= 0] == [(0, 60, 60), (60, 60, 60), (120, 60, 10)]
    assert next(row for row in told if row[0] < 0)[1] == 10
    assert sum(row[2] for row in told) > 300


def test_a_reflector_of_a_thousand_forgets_ports_without_end() -> None:
    reflector = Reflector(A)
    reflector.set_peers(rows(50))
    error = stamp.UNKNOWN_CLOCK.pack()
    for place in range(5000):
        data = stamp.pack_request(0, stamp.to_timestamp(UNIX_0 + place), error, None)
        source = (f"10.0.0.{place % 50}", 10_000 + place)
        assert reflector.receive(data, source, UNIX_0, UNIX_0) is not None
    assert len(reflector._lines) <= 200
    assert sum(len(asker._sessions) for (asker,) in reflector._askers.values()) == 200
