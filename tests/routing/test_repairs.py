from __future__ import annotations

from typing import Any

from commcli.routing.repairs import of_calls

NOW = 1_800_000_000.0


def call(age_s: float, **segment: int | None) -> dict[str, Any]:
    """A call's document, both directions over sg-1; only the first segment was counted."""
    hops = [
        {"from": "ae-1", "to": "sg-1", "segment": segment},
        {"from": "sg-1", "to": "kr-1", "segment": None},
    ]
    there = {"paths": [{"nodes": ["ae-1", "sg-1", "kr-1"], "hops": hops}, {"nodes": [], "hops": hops}]}
    return {"unix": NOW - age_s, "directions": {"there": there, "back": {"paths": []}}}


def test_each_segment_of_a_call_counts_once() -> None:
    found = list(of_calls([call(10, lost=40, repaired=38), call(20, lost=2, repaired=2)], now_unix=NOW))
    assert found == [("ae-1", "sg-1", 40, 38), ("ae-1", "sg-1", 2, 2)]


def test_what_is_old_or_was_not_counted_says_nothing() -> None:
    rows = [call(90_000, lost=40, repaired=38), call(10, lost=0, repaired=0), call(10, lost=5, repaired=None)]
    assert list(of_calls([*rows, {"unix": NOW}, {"unix": NOW, "directions": None}], now_unix=NOW)) == []
