"""A fixed share of the mesh's budget for the peers that a reader names."""

from __future__ import annotations

from collections import Counter

import pytest

from commcli.relay.mesh.budget import USUAL, Budget
from commcli.relay.mesh.mesh import EXPLORED, MOST_EXPLORED, Mesh
from tests.relay.test_mesh_fleet import big, turns

SECONDS = 50


def sent(mesh: Mesh) -> Counter[str]:
    return Counter(session.peer.id for tick in turns(mesh, SECONDS) for session in tick)


def test_the_explored_have_their_share_and_all_others_the_rest() -> None:
    mesh = big(Budget(500.0, 50.0))
    names = [f"n{n}" for n in range(1, 9)]
    mesh.explore(names)
    counts = sent(mesh)
    assert sum(counts.values()) == pytest.approx(500 * SECONDS, rel=0.01)
    explored = [counts.pop(name) for name in names]
    even = (1 - EXPLORED) * SECONDS / 2  # of five hundred packets a second for a thousand peers
    assert all(count == pytest.approx(even + EXPLORED * 500 / 8 * SECONDS, rel=0.02) for count in explored)
    assert len(counts) == 992 and all(abs(count - even) <= 1 for count in counts.values())


def test_no_peer_gets_more_than_one_may() -> None:
    mesh = big(Budget(1000.0, 5.0))
    mesh.explore(["n1", "n2"])
    counts = sent(mesh)
    assert counts["n1"] == pytest.approx(5 * SECONDS, rel=0.02)
    assert sum(counts.values()) <= 1000 * SECONDS


def test_what_suffices_for_all_is_not_shared_out_anew() -> None:
    few = big(USUAL, 20)
    before = few.interval_s
    few.explore(["n1"])
    assert few.interval_s == before
    assert len(set(sent(few).values()) - {5 * SECONDS - 1, 5 * SECONDS, 5 * SECONDS + 1}) == 0


def test_it_ends_when_nobody_is_named_and_when_the_peer_leaves() -> None:
    mesh = big(Budget(1000.0, 50.0))
    even = mesh.interval_s
    mesh.explore(["n1", "nobody"])
    assert mesh.interval_s > even
    mesh.explore([])
    assert mesh.interval_s == even
    mesh.explore(["n1"])
    mesh.set_peers({})
    assert list(turns(mesh, 1))[-1] == []


@pytest.mark.parametrize("said", ["n1", {"n1": 1}, [1], [f"n{n}" for n in range(MOST_EXPLORED + 1)]])
def test_what_is_no_short_list_of_names_is_refused(said: list[str]) -> None:
    mesh = big(Budget(1000.0, 50.0))
    with pytest.raises(ValueError, match="explore"):
        mesh.explore(said)
