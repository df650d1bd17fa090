"""`commcli relay status|drain|undrain` as they are typed, on nodes with the real relay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from commcli.lab import control, incident
from commcli.lab.folder import LabFolder, Record
from tests.lab.test_power import provision


def typed(folder: LabFolder, *words: str, stdin: int = subprocess.DEVNULL) -> tuple[int, Any, str]:
    """Exit code, the JSON document if there is one, and what was said on stderr."""
    command = [
        sys.executable,
        "-m",
        "commcli",
        "relay",
        *words,
        "--json",
        "--inventory",
        str(folder.inventory),
    ]
    done = subprocess.run(
        [*command, "--state", str(folder.state)], stdin=stdin, capture_output=True, text=True, timeout=60
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def states(document: Any) -> dict[str, tuple[str, bool | None]]:
    return {
        row["node"]: (row["state"], row["answer"]["drain"] if row["answer"] else None)
        for row in document["nodes"]
    }


def test_drain_is_asked_for_audited_and_seen(lab: tuple[LabFolder, Record]) -> None:
    folder, _ = lab
    provision(folder)
    code, refused, _ = typed(folder, "drain", "sg-1")
    assert code == 2
    assert "add --yes" in refused["error"]["messages"][0]
    code, drained, _ = typed(folder, "drain", "sg-1", "--yes", "--reason", "INC-123")
    assert code == 0
    assert states(drained) == {"sg-1": ("done", True)}
    code, shown, _ = typed(folder, "status")
    assert code == 0
    assert states(shown) == {"ae-1": ("done", False), "kr-1": ("done", False), "sg-1": ("done", True)}
    code, back, _ = typed(folder, "undrain", "all", "--yes")
    assert code == 0
    assert {drain for _, drain in states(back).values()} == {False}


@pytest.mark.parametrize(("answer", "code", "drains"), [("y", 0, True), ("n", 1, False)])
def test_at_a_terminal_it_asks(lab: tuple[LabFolder, Record], answer: str, code: int, drains: bool) -> None:
    folder, _ = lab
    provision(folder)
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer.encode() + b"\n")
        ended, _, said = typed(folder, "drain", "sg-1", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended == code
    assert "drain sg-1, fleet lab" in said
    assert states(typed(folder, "status", "sg-1")[1]) == {"sg-1": ("done", drains)}


def test_a_dead_node_is_a_row_and_not_the_end(lab: tuple[LabFolder, Record]) -> None:
    folder, _ = lab
    provision(folder)
    control.ask(folder, "kill", node="sg-1")
    code, shown, _ = typed(folder, "status")
    assert code == 4
    assert states(shown) == {"ae-1": ("done", False), "kr-1": ("done", False), "sg-1": ("unreachable", None)}


def test_drained_down_to_a_number_then_gone_and_still_drained_when_it_is_back(
    lab: tuple[LabFolder, Record],
) -> None:
    folder, _ = lab
    provision(folder)
    code, drained, _ = typed(folder, "drain", "sg-1", "--sessions", "2", "--wait", "--yes")
    answer = drained["nodes"][0]["answer"]
    assert (code, answer["drained"], answer["draining"]["sessions"]) == (0, True, 2)
    code, reloaded, _ = typed(folder, "reload", "sg-1", "--yes")
    assert code == 0
    assert reloaded["nodes"][0]["answer"] == {"ok": True, "changed": [], "restart": []}
    code, gone, _ = typed(folder, "drain", "sg-1", "--stop", "--wait", "--yes")
    assert (code, gone["nodes"][0]["answer"]["stopped"]) == (0, True)
    assert typed(folder, "status", "sg-1")[0] == 1
    control.ask(folder, "start", node="sg-1")
    incident.ask_patiently(folder, "sg-1", "status", timeout_s=20)
    code, shown, _ = typed(folder, "status", "sg-1")
    assert (code, states(shown)) == (0, {"sg-1": ("done", True)})


def test_a_wrong_configuration_is_refused_and_said_by_its_node(lab: tuple[LabFolder, Record]) -> None:
    folder, _ = lab
    provision(folder)
    (folder.base("sg-1") / "etc/relay.json").write_text("{")
    code, told, _ = typed(folder, "reload", "all", "--yes")
    assert code == 1
    assert {row["node"]: row["state"] for row in told["nodes"]} == {
        "ae-1": "done", "kr-1": "done", "sg-1": "failed",
    }  # fmt: skip
    assert "relay.json" in told["nodes"][2]["reason"]
    code, shown, _ = typed(folder, "status", "sg-1")
    assert code == 0
    assert shown["nodes"][0]["answer"]["reload"]["last_ok"] is False


def test_an_upgrade_of_the_whole_fleet(lab: tuple[LabFolder, Record]) -> None:
    folder, _ = lab
    provision(folder)
    before = {row["node"]: row["answer"]["pid"] for row in typed(folder, "status")[1]["nodes"]}
    code, upgraded, _ = typed(folder, "upgrade", "all", "--yes", "--reason", "CHG-7")
    assert code == 0
    answers = {row["node"]: row["answer"] for row in upgraded["nodes"]}
    assert {node: answer["cut"] for node, answer in answers.items()} == dict.fromkeys(before, 0)
    after = {row["node"]: row["answer"]["pid"] for row in typed(folder, "status")[1]["nodes"]}
    assert after == {node: answer["pid"] for node, answer in answers.items()}
    assert not set(after.values()) & set(before.values())
    assert (upgraded["stopped"], upgraded["not_tried"]) == ("", [])
    assert typed(folder, "upgrade", "sg-1", "--tls", "perhaps", "--yes")[0] == 2
    (folder.base("ae-1") / "etc/relay.json").write_text("{")  # the canary's next program does not start
    code, stopped, _ = typed(folder, "upgrade", "all", "--yes")
    assert code == 1 and [row["state"] for row in stopped["nodes"]] == ["failed"]
    assert stopped["stopped"].startswith("ae-1: failed: ") and stopped["not_tried"] == ["kr-1", "sg-1"]
    told = {row["node"]: row["answer"] for row in typed(folder, "status")[1]["nodes"]}
    assert {node: answer["pid"] for node, answer in told.items()} == after
    assert told["ae-1"]["upgrade"]["last_failed"] and told["kr-1"]["upgrade"]["last_failed"] is None
