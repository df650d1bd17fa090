"""What `commcli relay status` draws of the overlay."""

from __future__ import annotations

import io
from typing import Any

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
    assert line(text, "kr-1 > sg-1")[3] == "deaf"
    for hidden in ("de-1 > sg-1", "de-1  sg-1", "de-1  flows", "ae-1 < sg-1", "ae-1  flows"):
        assert hidden not in text
    assert "2 more segments without loss or protection" in text
    assert "2 more ways over a primary path that is up" in text


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
