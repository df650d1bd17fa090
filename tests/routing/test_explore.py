from __future__ import annotations

from pathlib import Path

from commcli.relay.mesh.mesh import MOST_EXPLORED
from commcli.routing.explore import edges, wanted
from commcli.store.sqlite import Store
from tests.routing.fleets import fleet
from tests.routing.worlds import NOW, RTT_MS, decision, small_fleet, windows

FAR = {**RTT_MS, ("ae-1", "kr-1"): 1000.0, ("ae-1", "hk-1"): 400.0, ("hk-1", "kr-1"): 400.0}


def test_edges_of_near_contests_are_named() -> None:
    """By hk-1 costs 8 ms more than by sg-1, which is within 5 %: their edges decide ae-1 > kr-1."""
    near = {**RTT_MS, ("ae-1", "hk-1"): 95.0}
    found = edges(decision(rtt_ms=near))
    assert {"sg-1", "hk-1"} <= set(found["ae-1"])
    assert "kr-1" in found["hk-1"] and "kr-1" in found["sg-1"]
    assert all(node not in peers for node, peers in found.items())


def test_what_is_decided_by_far_needs_no_closer_look() -> None:
    rtt = dict.fromkeys(RTT_MS, 100.0) | {("ae-1", "kr-1"): 101.0}
    assert all(not peers for peers in edges(decision(rtt_ms=rtt)).values())


def test_no_node_has_more_than_it_may() -> None:
    names = {f"n{k:02}": "ae" for k in range(30)}
    rows = windows({(a, b): 100.0 + (int(a[1:]) * 7 + int(b[1:])) % 5 for a in names for b in names if a < b})
    from commcli.routing.decision import decide

    made = decide(fleet(names), rows, in_force=None, serial=1, now_unix=NOW)
    found = edges(made)
    assert max(map(len, found.values())) <= MOST_EXPLORED
    assert found == edges(made)


def test_it_goes_by_what_the_store_holds(tmp_path: Path) -> None:
    near = {**RTT_MS, ("ae-1", "hk-1"): 95.0}
    with Store(tmp_path / "db", clock=lambda: NOW) as store:
        assert not any(wanted(small_fleet(), store, NOW).values())
        for node in small_fleet().nodes:
            store.record_mesh(node, [row for row in windows(near) if row["node"] == node])
        assert "hk-1" in wanted(small_fleet(), store, NOW)["ae-1"]
