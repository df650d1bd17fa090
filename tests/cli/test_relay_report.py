"""What `commcli relay status|drain|reload` draw of their documents."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from commcli.report.relay import DRAW
from tests.relay.test_metrics import figures


def drawn(verb: str, *rows: dict[str, Any], **more: Any) -> str:
    out = io.StringIO()
    doc = {"schema": 1, "kind": f"relay.{verb}", "fleet": "lab", "nodes": list(rows), **more}
    Console(file=out, width=120).print(DRAW[verb](doc))
    return out.getvalue()


def row(node: str, **answer: Any) -> dict[str, Any]:
    return {"node": node, "state": "done", "reason": "", "seconds": 0.1, "answer": answer}


def line(text: str, node: str, which: int = 0) -> list[str]:
    return [words for words in map(str.split, text.splitlines()) if words[:1] == [node]][which]


def test_status_shows_what_a_relay_did_and_refused() -> None:
    told = figures(unix=2_000_000_000.0 - 30 * 86400, drain=True, drained=False, draining={"sessions": 5})
    text = drawn("status", row("sg-1", **told))
    assert "3 (1 tcp, 2 udp)" in text and "to 5" in text
    assert line(text, "sg-1", 1) == [
        "sg-1", "123456.8", "0.0", "2", "7", "5", "9", "4", "2", "30", "days",
    ]  # fmt: skip
    assert all(len(words) <= 120 for words in text.splitlines())


def test_status_says_what_is_wrong_and_what_waits() -> None:
    told = figures(
        unix=0.0,
        reload={
            "ok": 0,
            "refused": 1,
            "last_ok": False,
            "error": "etc/relay.json: no 'realm'",
            "restart": ["workers"],
        },
        tls={"not_after_unix": None, "refused": "fullchain.pem: No such file"},
        upgrade={"last_failed": {"reason": "exit code 1", "unix": 0.0}},
    )
    text = drawn("status", row("sg-1", **told))
    assert "sg-1: reload refused, the old configuration is in force: etc/relay.json: no 'realm'" in text
    assert "sg-1: changed, and wait for a restart: workers" in text
    assert "sg-1: upgrade failed, the old program goes on: exit code 1" in text
    assert "sg-1: TLS: fullchain.pem: No such file" in text


def test_a_relay_that_measures_less_is_shown_all_the_same() -> None:
    old = {
        "version": "0.1", "uptime_s": 5.0, "allocations": 1, "drain": True, "unix": 0.0, "turn": {}, "drops": {},
        "table": {"serial": None, "refused": None}, "loop_lag_ms": {"p50": None, "p99": None},
    }  # fmt: skip
    gone = {"node": "de-1", "state": "unreachable", "reason": "no route", "seconds": 0.1, "answer": None}
    text = drawn("status", row("sg-1", **old), gone)
    assert line(text, "sg-1")[-3:] == ["yes", "none", "-"]
    assert "de-1: no route" in text


def test_drain_shows_what_is_left_and_what_is_forgotten() -> None:
    answer = {
        "drain": True,
        "drained": False,
        "draining": {"sessions": 2},
        "allocations": 9,
        "not_kept": None,
    }
    assert line(drawn("drain", row("sg-1", **answer)), "sg-1") == ["sg-1", "done", "9", "to", "2"]
    assert "drained" in drawn("drain", row("sg-1", **{**answer, "drained": True}))
    assert "stopped" in drawn("drain", row("sg-1", **{**answer, "stopped": True}))
    assert "ends with a restart: disk full" in drawn(
        "drain", row("sg-1", **{**answer, "not_kept": "disk full"})
    )


def test_reload_shows_what_changed_and_what_waits() -> None:
    text = drawn("reload", row("sg-1", ok=True, changed=["users", "workers"], restart=["workers"]))
    assert "users, workers" in text
    assert line(text, "sg-1")[-1] == "workers"


def test_upgrade_shows_what_went_on_and_what_did_not() -> None:
    went = row("sg-1", **{"from": "1.2.3", "version": "1.3.0", "allocations": 17, "cut": 2, "gap_ms": 0.6})
    stayed = {**row("hk-1"), "state": "failed", "reason": "relay: 3 live", "answer": None}
    assert "not tried" not in drawn("upgrade", went, stopped="", not_tried=[])
    text = drawn("upgrade", went, stayed, stopped="hk-1: failed: relay: 3 live", not_tried=["kr-1", "us-1"])
    assert "stopped at hk-1: failed" in text and "not tried, as they were: kr-1, us-1" in text
    assert line(text, "sg-1")[2:] == ["1.2.3", "1.3.0", "17", "2", "0.6"]
    assert line(text, "hk-1")[1:] == ["failed", "relay:", "3", "live"]
