"""Hops put together from recorded flow documents of relays."""

from __future__ import annotations

from typing import Any

from commcli.probe.hops import reconstruct

A, B = ("127.77.0.1", 50001), ("127.77.0.2", 50002)
VIA_SG = ["ae-1", "sg-1", "kr-1"]
VIA_HK = ["ae-1", "hk-1", "kr-1"]


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
