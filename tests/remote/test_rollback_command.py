"""`commcli rollback` and `commcli runs` as they are typed, over a real OpenSSH server."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tests.remote.test_play import STUCK, appears
from tests.remote.test_play_command import Desk, desk
from tests.remote.test_program import gone

__all__ = ["desk"]

PLAY = """
name: config
steps:
  - name: folder
    directory: {path: "{{ base }}/etc"}
  - name: config
    file: {path: "{{ base }}/etc/config", content: "one\\n", mode: "0644"}
    notify: restart
  - name: build
    command: {argv: [sh, -c, "echo $$ > {{ base }}/built"], creates: "{{ base }}/built"}
handlers:
  - name: restart
    command: {argv: [sh, -c, "cat {{ base }}/etc/config >> {{ base }}/restarted; true"]}
"""


def log_of(path: str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


async def test_put_back_as_a_script_does(desk: Desk) -> None:
    (desk.base / "etc").mkdir()
    (desk.base / "etc/config").write_text("zero\n")
    ran = await desk.type("run", desk.play(PLAY), "--yes", "--json")
    run = ran.doc["run"]
    assert (desk.base / "runs" / run / "journal").exists() and log_of(ran.doc["log"])[-1]["result"] == "done"
    asked = await desk.type(run, noun="rollback")
    assert asked.code == 2 and "add --yes (or --check)" in asked.err
    checked = await desk.type(run, "--check", "--diff", noun="rollback")
    assert checked.code == 0 and "-one\n+zero\n" in checked.out.replace(" ", "")
    assert (desk.base / "etc/config").read_text() == "one\n"
    back = await desk.type(run[:-2], "--yes", "--reason", "INC-7", "--json", noun="rollback")
    assert (back.code, back.err) == (0, "")
    [row] = back.doc["nodes"]
    assert [(step["name"], step["state"]) for step in row["steps"]] == [
        ("build", "skipped"), ("config", "changed"), ("restart", "changed"),
    ]  # fmt: skip
    assert (desk.base / "etc/config").read_text() == "zero\n"
    assert (desk.base / "restarted").read_text() == "one\nzero\n"
    again = await desk.type(run, "--yes", noun="rollback")
    assert again.code == 0 and "1 of 1 nodes done, nothing to put back" in again.out
    assert "stays as it is" in again.out and "not put back: run sh" in again.out
    # A rollback is a run like any other.
    forth = await desk.type(back.doc["run"], "--yes", noun="rollback")
    assert forth.code == 0 and (desk.base / "etc/config").read_text() == "one\n"
    listed = await desk.type("list", "--json", noun="runs")
    assert [row["command"] for row in listed.doc["rows"]] == [
        f"rollback {back.doc['run']}", f"rollback {run}", f"rollback {run}", "play run config",
    ]  # fmt: skip
    assert (listed.doc["rows"][2]["changed"], listed.doc["rows"][2]["result"]) == (2, "done")
    audit = await desk.type("list", "--json", noun="audit")
    assert (
        audit.doc["rows"][2]["detail"]["run"] == back.doc["run"] and audit.doc["rows"][2]["reason"] == "INC-7"
    )
    shown = await desk.type("show", run, "--node", "sg-1", noun="runs")
    assert shown.code == 0 and "config on desk: 1 of 1 nodes done" in shown.out and run in shown.out


async def test_what_was_changed_since_is_refused_with_its_own_exit_code(desk: Desk) -> None:
    ran = await desk.type("run", desk.play(PLAY), "--yes", "--json")
    (desk.base / "etc/config").write_text("by hand\n")
    refused = await desk.type("last", "--yes", noun="rollback")
    assert refused.code == 5 and "changed since by somebody else" in " ".join(refused.out.split())
    # What cron mails: the run, and where its log is.
    assert refused.err.startswith("run ") and ": log " in refused.err
    assert log_of(refused.err.split(": log ")[1].strip())[-1]["result"] == "exit 5"
    assert (desk.base / "etc/config").read_text() == "by hand\n"
    forced = await desk.type(ran.doc["run"], "--yes", "--force", "--json", noun="rollback")
    assert forced.code == 0 and not (desk.base / "etc").exists()


async def test_a_run_whose_commcli_was_killed_is_put_back(desk: Desk) -> None:
    killed = PLAY.split("handlers:")[0].replace("    notify: restart\n", "") + STUCK.split("steps:")[1]
    child = await desk.start("run", desk.play(killed), "--yes")
    pid = await appears(desk.base / "pid")
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await gone(pid)
    shown = await desk.type("show", noun="runs")
    assert shown.code == 0 and "not ended, or killed" in shown.out
    assert "as far as its log goes" in shown.out and "quick" in shown.out
    back = await desk.type("last", "--yes", noun="rollback")
    assert back.code == 0 and not (desk.base / "etc").exists()


async def test_a_node_out_of_reach_is_named(desk: Desk) -> None:
    await desk.type("run", desk.play(PLAY), "--yes")
    desk.write_inventory(port=1)
    back = await desk.type("last", "--yes", noun="rollback")
    assert back.code == 4 and "unreachable  sg-1" in back.out


async def test_a_node_that_the_inventory_has_no_more_is_named(desk: Desk) -> None:
    ran = await desk.type("run", desk.play(PLAY), "--yes", "--json")
    nodes = desk.folder / "inventory/nodes.yaml"
    nodes.write_text(nodes.read_text().replace("sg-1", "sg-2"))
    (nodes.parent / "markets.yaml").write_text("markets:\n  sg: {name: Singapore, edges: [sg-2]}\n")
    back = await desk.type(ran.doc["run"], "--yes", noun="rollback")
    assert back.code == 4 and "unreachable  sg-1: not in the inventory any more" in back.out
    other = await desk.type(ran.doc["run"], "sg-2", "--yes", noun="rollback")
    assert other.code == 3 and "was on none of these nodes, but on sg-1" in other.err


async def test_a_run_that_nobody_knows(desk: Desk) -> None:
    unknown = await desk.type("20260101T000000Z-0000", "--yes", noun="rollback")
    assert unknown.code == 3 and 'no run "20260101T000000Z-0000" is kept here' in unknown.err
    # On another operator's desk the nodes' own journals are enough.
    ran = await desk.type("run", desk.play(PLAY), "--yes", "--json")
    (desk.folder / "state").rename(desk.folder / "other")
    back = await desk.type(ran.doc["run"], "sg-1", "--yes", noun="rollback")
    assert back.code == 0 and not (desk.base / "etc").exists()
