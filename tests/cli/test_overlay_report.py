"""What `commcli relay status` draws of the overlay."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from commcli.report.overlay import protection
from commcli.report.relay import DRAW
from tests.relay.test_metrics import figures, overlay

PLAIN: dict[str, Any] = {
    "resend": False,
    "copies": None,
    "parity": None,
    "backup": False,
    "leave": False,
    "reason": "",
}


def drawn(*rows: dict[str, Any]) -> str:
    out = io.StringIO()
    doc = {"schema": 1, "kind": "relay.status", "fleet": "lab", "nodes": list(rows)}
    Console(file=out, width=120).print(DRAW["status"](doc))
    return out.getvalue()


def row(node: str, told: dict[str, Any] | None) -> dict[str, Any]:
    answer = {"unix": 2_000_000_000.0, **figures(overlay=told)}
    return {"node": node, "state": "done", "reason": "", "seconds": 0.1, "answer": answer}


def line(text: str, start: str) -> list[str]:
    return next(found.split() for found in text.splitlines() if found.startswith(start))


def test_one_node_shows_every_segment_path_and_buffer() -> None:
    further = {
        "from": "sg-1",
        "to": "hk-1",
        "loss": 0.01,
        "burst": 1.0,
        "queue_ms": 0.0,
        "jitter_ms": 0.2,
        "age_s": 0.3,
    }
    text = drawn(row("ae-1", {**overlay(), "further": [further]}))
    assert line(text, "ae-1 > sg-1")[3:14] == [
        "alive", "3.1", "%", "1.4", "2.5", "0.4", "80.5", "1500", "10", "%", "audio",
    ]  # fmt: skip
    assert line(text, "ae-1  sg-1 > hk-1")[4:] == ["1.0", "%", "1.0", "0.2", "0.0", "0.3"]
    assert line(text, "ae-1 < sg-1")[3:] == ["2000", "60", "3.00", "%", "58", "4", "50", "1.2", "1"]
    assert line(text, "ae-1  sg-1  backup")[2:5] == ["backup", "up", "96.3"]
    assert "primary dead" in " ".join(text.split())
    assert "01-01" not in text and "05-18 03:33:10Z" in " ".join(text.split())
    assert line(text, "ae-1  sent ")[2:] == ["512.0", "KiB", "1.0", "MiB", "50", "%"]
    assert line(text, "ae-1  flows")[2:] == ["12", "entries", "8192", "entries", "0", "%"]
    assert all(len(found) <= 120 for found in text.splitlines())


def test_many_nodes_show_what_is_remarkable_and_say_what_they_hide() -> None:
    calm = overlay()
    calm["segments"]["sg-1"]["out"].update(loss=0.0, plan={"audio": {**PLAIN, "resend": True}})
    calm["paths"]["sg-1"].update(active="primary", state="up", switches=[])
    deaf = overlay()
    deaf["segments"]["sg-1"]["out"].update(loss=None, plan={})
    deaf["segments"]["sg-1"]["hello"]["hears_us"] = False
    calm["buffers"] = {"flows": {"entries": 1, "most_entries": 9}}
    text = drawn(row("ae-1", overlay()), row("de-1", calm), row("jp-1", calm), row("kr-1", deaf))
    assert "ae-1 > sg-1" in text and "ae-1  sg-1  backup" in text and "ae-1  sent" in text
    assert line(text, "sg-1 ")[1:] == ["deaf", "to", "1", "of", "4", "neighbours", "(kr-1)"]
    for hidden in ("de-1 > sg-1", "de-1  sg-1", "de-1  flows", "ae-1 < sg-1", "ae-1  flows"):
        assert hidden not in text
    assert "2 more segments without loss or protection" in text
    assert "2 more ways over a primary path that is up" in text


CANDIDATES = {"state": "up", "rtt_ms": 80.0}


def bad_day(count: int, dead: str) -> list[dict[str, Any]]:
    """A fleet in which one relay has died that was in the middle of a tenth of the ways."""
    nodes = [f"n-{number}" for number in range(count)]
    at = {node: number for number, node in enumerate(nodes)}
    return [
        row(
            node,
            {
                "segments": mesh(node, nodes, dead),
                "paths": roads(node, nodes, dead, at),
                "drops": {"forged": 1},
            },
        )
        if node != dead
        else {
            "node": dead,
            "state": "unreachable",
            "reason": "no route to host",
            "seconds": 9.0,
            "answer": None,
        }
        for node in nodes
    ]


def mesh(node: str, nodes: list[str], dead: str) -> dict[str, Any]:
    def hello(peer: str) -> dict[str, Any]:
        return {"state": "silent" if peer == dead else "alive", "hears_us": True, "rtt_ms": 80.0}

    return {peer: {"out": {"loss": 0.0}, "in": {}, "hello": hello(peer)} for peer in nodes if peer != node}


def roads(node: str, nodes: list[str], dead: str, at: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for egress in nodes:
        if egress == node:
            continue
        has_moved = (at[node] + at[egress]) % 10 == 0
        middle = dead if has_moved else "n-1"
        primary = {**CANDIDATES, "path": [node, middle, egress], "state": "dead" if has_moved else "up"}
        backup = {**CANDIDATES, "path": [node, "n-2", egress]}
        active, used = ("backup", backup) if has_moved else ("primary", primary)
        reason = f"primary is dead from {node} to {dead}"
        switch = {"unix": 1_999_999_990.0, "from": "primary", "to": "backup", "reason": reason}
        found[egress] = {
            **(used if egress != dead else {**used, "state": "dead"}),
            "active": active,
            "straight": False,
            "switches": [switch] if has_moved and egress != dead else [],
            "candidates": {"primary": primary, "backup": backup},
        }
    return found


@pytest.mark.parametrize("count", [20, 100])
def test_a_bad_day_of_a_big_fleet_is_told_by_who_is_to_blame(count: int) -> None:
    bad = bad_day(count, "n-7")
    text = drawn(*bad)
    overlay_only = [found for found in text.splitlines() if not found.startswith("n-") or "silent" in found]
    assert line(text, "n-7   silent")[1:] == f"silent for {count - 1} of {count - 1} neighbours".split()
    told = " ".join(text.split())
    moved = sum(
        way["active"] == "backup" and way["state"] == "up"
        for one in bad
        for way in ((one["answer"] or {}).get("overlay") or {"paths": {}})["paths"].values()
    )
    assert moved > count * count / 15
    assert f"{moved} moved from primary to backup: primary is dead at n-7" in told
    assert f"{count - 1} dead: no path answers; n-7 is on each of these paths" in told
    assert len(overlay_only) < 30


def test_many_lossy_segments_and_full_buffers_are_capped_the_worst_first() -> None:
    def lossy(node: str) -> dict[str, Any]:
        told = overlay()
        out = told["segments"]["sg-1"]["out"]
        told["segments"] = {
            f"p-{peer}": {"out": {**out, "loss": peer / 100}, "hello": {"state": "alive"}}
            for peer in range(1, 9)
        }
        return {**told, "paths": {}}

    text = drawn(*(row(f"n-{number}", lossy(f"n-{number}")) for number in range(30)))
    assert "n-0 > p-8" in text and "p-7" not in text
    assert f"and {30 * 8 - 15} more (--json has all)" in text
    assert "and 15 more (--json has all)" in text  # buffers


def test_a_node_that_is_cut_off_is_one_line() -> None:
    def hearing(node: str) -> dict[str, Any]:
        return {"segments": mesh(node, ["a", "b", "c", "d", "e"], "c")}

    cut = hearing("c")
    for segment in cut["segments"].values():
        segment["hello"].update(state="silent")
    text = drawn(row("a", hearing("a")), row("b", hearing("b")), row("c", cut), row("d", hearing("d")))
    assert "silent for 3 of 3 neighbours (a, b, d), hears nothing of 4 of 4 neighbours" in text
    assert text.count("silent for") == 1


def test_ways_without_a_common_culprit_are_counted_and_flaps_are_told() -> None:
    def way(node: str, egress: str, reason: str, moves: int) -> dict[str, Any]:
        switch = {"unix": 1_999_999_000.0, "from": "primary", "to": "backup", "reason": reason}
        path = {**CANDIDATES, "path": [node, egress]}
        return {
            **path, "active": "backup", "straight": False, "switches": [switch] * moves,
            "candidates": {"primary": path, "backup": path},
        }  # fmt: skip

    reason = "primary is bad: loss {}.5 %, runs of 1.2 from {} to {}"
    rows = [
        row(f"i-{n}", {"paths": {f"e-{n}": way(f"i-{n}", f"e-{n}", reason.format(n, f"i-{n}", f"e-{n}"), 3)}})
        for n in range(20)
    ]
    told = " ".join(drawn(*rows).split())
    assert "20 moved from primary to backup: primary is bad: loss; 60 moves in an hour" in told
    straight = {**way("i-0", "e-0", "no path answers", 1), "straight": True}
    told = " ".join(drawn(*rows, row("z", {"paths": {"e-0": straight}})).split())
    assert "1 straight, since no path answers (z > e-0)" in told


def test_what_the_overlay_dropped_is_told_by_reason_and_the_usual_apart() -> None:
    told = {"drops": {"forged": 7, "repeated": 5000, "second_copy": 2, "endpoint": 0}}
    text = drawn(
        *(row(f"n-{number}", {"drops": {"forged": number}}) for number in range(1, 6)), row("ae-1", told)
    )
    assert " ".join(line(text, "forged")) == "forged 22 ae-1 7, n-5 5, n-4 4, and 3 more nodes"
    assert "5000 repeated, 2 second_copy" in text and "endpoint" not in text
    assert line(drawn(row("ae-1", told)), "forged")[1:] == ["7", "ae-1", "7"]


def test_what_is_unmeasured_is_a_dash_and_a_plain_relay_has_no_overlay() -> None:
    bare: dict[str, Any] = {"segments": {"sg-1": {"out": {}, "in": {}}}, "paths": {}, "buffers": {}}
    assert line(drawn(row("ae-1", bare)), "ae-1 > sg-1")[3:] == ["-"] * 8
    assert "segments" not in drawn(row("ae-1", None))


def test_protection_names_what_is_on_and_why_once_for_classes_alike() -> None:
    fec: dict[str, Any] = {**PLAIN, "resend": True, "parity": [8, 2, 1], "reason": "3 % loss"}
    plans = {"audio": {**PLAIN, "copies": 3, "reason": "3 % loss"}, "video": fec, "other": fec}
    assert protection(plans) == (
        "audio: copies after 3 packets (3 % loss); video other: resend, parity 8+2 (3 % loss)"
    )
    leave = {**PLAIN, "leave": True, "backup": True, "reason": "queue grows"}
    assert protection({"audio": leave}) == "audio: copy on the backup, asks for another route (queue grows)"
    deep = {**PLAIN, "parity": [8, 4, 3]}
    assert protection({"audio": deep}) == "audio: parity 8+4 in 3 blocks in turn"
    assert protection({"audio": PLAIN}) == "audio: none"
    assert protection({}) == ""
