from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from commcli.report import lab


def drawn(verb: str, **document: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(lab.DRAW[verb]({"schema": 1, "kind": f"lab.{verb}", **document}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_what_down_left_is_named() -> None:
    left = {
        "processes": [{"pid": 4711, "command": "sleep 60"}],
        "ports": ["127.77.0.1:3478/udp"],
        "files": ["notes.txt"],
    }
    text = drawn("down", clean=False, ended=3, left=left, folder="/x")
    assert "process 4711: sleep 60" in text and "port 127.77.0.1:3478/udp" in text
    assert "file /x/notes.txt" in text and "no process" not in text


def test_a_dead_hosts_process_and_degraded_links_show() -> None:
    node = {
        "node": "sg-1",
        "city": "Singapore",
        "address": "127.77.0.3",
        "ssh": False,
        "relay": True,
        "processes": 2,
    }
    link = {
        "pair": ["ae-1", "sg-1"],
        "rtt_ms": 500.0,
        "jitter_ms": 0.6,
        "loss": 0.25,
        "burst": 3.0,
        "rate_kbit": None,
    }
    text = drawn("status", folder="/x", hosts=None, nodes=[node], degraded=[link])
    assert "commcli lab up starts it again" in text
    assert "ae-1 - sg-1" in text and "25.0 %" in text and "synthetic" in text


def test_a_story_shows_each_step_and_whether_it_is_true() -> None:
    steps = [
        {"step": 1, "title": "lab up", "true": True, "seconds": 1.2, "reason": None, "facts": {"nodes": 8}},
        {
            "step": 2,
            "title": "provision",
            "true": False,
            "seconds": 3.4,
            "reason": "nothing changed",
            "facts": {},
        },
    ]
    untrue = drawn("demo", true=False, seconds=4.6, steps=steps)
    assert "nodes 8" in untrue and "nothing changed" in untrue and "not true" in untrue
    path = [{**steps[0], "facts": {"path": ["ae-1", "sg-1"], "mos": 4.25}}]
    told = drawn("demo", true=True, seconds=1.2, steps=path)
    assert "ae-1 → sg-1" in told and "mos 4.25" in told and "Every step is true" in told
