"""Hops put together from recorded flow documents of relays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from commcli.probe.hops import Address, PathUse, Reading, Row
from commcli.probe.hops import reconstruct as reconstruct_readings

A, B = ("127.77.0.1", 50001), ("127.77.0.2", 50002)
VIA_SG = ["ae-1", "sg-1", "kr-1"]
VIA_HK = ["ae-1", "hk-1", "kr-1"]


Flows = Mapping[str, Sequence[Mapping[str, Any]] | None]


def reconstruct(src: Address, dst: Address, before: Flows, after: Flows) -> list[PathUse]:
    readings = (
        {node: None if rows is None else Reading(rows) for node, rows in flows.items()}
        for flows in (before, after)
    )
    return reconstruct_readings(src, dst, *readings)


def flow(
    role: str, path: list[str], packets: int, *, back: bool = False, port: int = 50001
) -> dict[str, Any]:
    src, dst = f"127.77.0.1:{port}", "127.77.0.2:50002"
    if back:
        src, dst = dst, src
    return {
        "src": src, "dst": dst, "role": role, "path": path, "packets": packets, "bytes": 100 * packets,
        "first_unix": 10.0, "last_unix": 18.0,
    }  # fmt: skip


def test_one_path_as_every_relay_on_it_counted() -> None:
    after = {
        "ae-1": [flow("ingress", VIA_SG, 500), flow("egress", VIA_SG[::-1], 490, back=True)],
        "sg-1": [flow("transit", VIA_SG, 500), flow("transit", VIA_SG[::-1], 495, back=True)],
        "kr-1": [flow("egress", VIA_SG, 498), flow("ingress", VIA_SG[::-1], 495, back=True)],
    }
    (there,) = reconstruct(A, B, {}, after)
    assert there.path == ("ae-1", "sg-1", "kr-1")
    assert there.counted == {"ae-1": 500, "sg-1": 500, "kr-1": 498}
    assert there.packets == 498
    (back,) = reconstruct(B, A, {}, after)
    assert (back.path, back.packets) == (("kr-1", "sg-1", "ae-1"), 490)


def test_what_was_counted_before_the_call_is_not_the_calls() -> None:
    before = {"ae-1": [flow("ingress", VIA_SG, 400)], "kr-1": [flow("egress", VIA_SG, 400)]}
    after = {
        "ae-1": [flow("ingress", VIA_SG, 400), flow("ingress", VIA_HK, 30)],
        "hk-1": [flow("transit", VIA_HK, 30)],
        "kr-1": [flow("egress", VIA_SG, 400), flow("egress", VIA_HK, 29)],
    }
    (only,) = reconstruct(A, B, before, after)
    assert (only.path, only.packets) == (("ae-1", "hk-1", "kr-1"), 29)


def test_a_switch_in_the_middle_of_the_call_shows_both_paths() -> None:
    after = {
        "ae-1": [flow("ingress", VIA_SG, 300), flow("ingress", VIA_HK, 700)],
        "sg-1": None,  # the relay that died
        "hk-1": [flow("transit", VIA_HK, 700)],
        "kr-1": [flow("egress", VIA_SG, 280), flow("egress", VIA_HK, 699)],
    }
    most, less = reconstruct(A, B, {}, after)
    assert (most.path, most.packets) == (("ae-1", "hk-1", "kr-1"), 699)
    assert less.counted == {"ae-1": 300, "sg-1": None, "kr-1": 280}


def test_a_relay_that_counted_nothing_is_a_zero_and_not_unknown() -> None:
    (use,) = reconstruct(A, B, {}, {"ae-1": [flow("ingress", VIA_SG, 9)], "sg-1": [], "kr-1": []})
    assert use.counted == {"ae-1": 9, "sg-1": 0, "kr-1": 0}
    assert use.packets == 0


def test_a_restarted_relay_counts_from_zero() -> None:
    before = {"ae-1": [flow("ingress", VIA_SG, 1000)]}
    (use,) = reconstruct(A, B, before, {"ae-1": [flow("ingress", VIA_SG, 40)]})
    assert use.counted["ae-1"] == 40


def test_other_calls_and_relays_that_are_not_on_the_path_are_left_out() -> None:
    after = {"ae-1": [flow("ingress", VIA_SG, 5, port=50009)], "de-1": [flow("transit", VIA_SG, 5)]}
    assert reconstruct(A, B, {}, after) == []


def segment(src: str, dst: str, expected: int, lost: int, repaired: int, started: float = 1.0) -> Row:
    return {
        "from": src, "to": dst, "expected": expected, "lost": lost, "repaired": repaired, "unrepaired": 0,
        "reordered": 0, "duplicates": 0, "delay_ms": {"p50": 40.0, "p95": 41.0}, "rtt_ms": 80.0,
        "started_unix": started,
    }  # fmt: skip


def test_each_hop_has_the_calls_own_loss_and_what_its_segment_met_meanwhile() -> None:
    before = {
        "ae-1": Reading((), (), [{"from": "ae-1", "to": "sg-1", "sent_again": 9}]),
        "sg-1": Reading((), [segment("ae-1", "sg-1", 1000, 50, 49)]),
        "kr-1": Reading(),
    }
    after = {
        "ae-1": Reading(
            [flow("ingress", VIA_SG, 500)], (), [{"from": "ae-1", "to": "sg-1", "sent_again": 40}]
        ),
        "sg-1": Reading([flow("transit", VIA_SG, 495)], [segment("ae-1", "sg-1", 1600, 80, 74)]),
        "kr-1": Reading([flow("egress", VIA_SG, 495)]),
    }
    (use,) = reconstruct_readings(A, B, before, after)
    first, second = use.hops
    assert (first.src, first.dst, second.loss) == ("ae-1", "sg-1", 0.0)
    assert first.loss == pytest.approx(0.01)
    assert (
        first.segment is not None and second.segment is None
    )  # an older relay tells nothing of its segments
    told = {
        name: first.segment[name] for name in ("expected", "lost", "repaired", "loss", "rtt_ms", "sent_again")
    }
    assert told == {
        "expected": 600, "lost": 30, "repaired": 25, "loss": 0.05, "rtt_ms": 80.0, "sent_again": 31,
    }  # fmt: skip


def test_a_relay_that_began_anew_during_the_call_counts_from_its_start() -> None:
    before = {"sg-1": Reading((), [segment("ae-1", "sg-1", 1000, 50, 49)])}
    after = {
        "ae-1": Reading([flow("ingress", VIA_SG, 500)]),
        "sg-1": Reading([flow("transit", VIA_SG, 400)], [segment("ae-1", "sg-1", 2000, 60, 60, started=9.0)]),
    }
    (use,) = reconstruct_readings(A, B, before, after)
    assert use.hops[0].segment is not None and use.hops[0].segment["expected"] == 2000


def test_a_hop_that_was_not_counted_at_both_ends_has_no_loss() -> None:
    after = {
        "ae-1": Reading([flow("ingress", VIA_SG, 500)]),
        "sg-1": None,
        "kr-1": Reading([flow("egress", VIA_SG, 1)]),
    }
    (use,) = reconstruct_readings(A, B, {}, after)
    assert [hop.loss for hop in use.hops] == [None, None]
