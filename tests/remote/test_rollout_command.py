"""`commcli play run` in waves, as it is typed, over a real OpenSSH server."""

from __future__ import annotations

import getpass
import signal
import sys

from tests.remote.test_play import appears
from tests.remote.test_play_command import Desk, desk
from tests.remote.test_program import gone

__all__ = ["desk"]

PLAY = """
name: config
steps:
  - name: config
    file: {path: "{{ base }}/config", content: "one\\n", mode: "0644"}
  - name: good
    command: {argv: [test, "!", -e, "{{ base }}/bad"], changed_when: "false"}
"""


def write_nodes(desk: Desk, *names: str) -> None:
    """More nodes on the one server; base folders of their own, and a region each."""
    rows = "".join(
        f"  {name}: {{region: sgp, address: 127.0.0.{number}, base: {desk.folder}/{name}, ssh: {{host: 127.0.0.1,"
        f" port: {desk.host.port}, user: {getpass.getuser()}, python: {sys.executable}}}}}\n"
        for number, name in enumerate(names, 1)
    )
    (desk.folder / "inventory/nodes.yaml").write_text(f"nodes:\n{rows}")
    (desk.folder / "inventory/markets.yaml").write_text("markets: {}\n")
    for name in names:
        (desk.folder / name).mkdir(exist_ok=True)


async def test_stopped_by_a_failure_then_resumed(desk: Desk) -> None:
    write_nodes(desk, "a", "b", "c")
    (desk.folder / "b/bad").touch()
    file = desk.play(PLAY)
    ran = await desk.type("run", file, "--yes", "--json", "--wave", "1")
    assert ran.code == 1 and [(row["node"], row["state"]) for row in ran.doc["nodes"]] == [
        ("a", "done"),
        ("b", "failed"),
    ]
    assert ran.doc["rollout"]["not_tried"] == ["c"] and ran.doc["rollout"]["stopped"].startswith("b: failed")
    shown = await desk.type("show", noun="runs")
    assert "not tried: c" in shown.out and f"--resume {ran.doc['run']}" in shown.out
    again = await desk.type("run", file, "--yes", "--json", "--limit", "@failed")
    assert [row["node"] for row in again.doc["nodes"]] == ["b"]
    (desk.folder / "b/bad").unlink()
    desk.play(PLAY.replace("one", "two"))
    refused = await desk.type("run", file, "--yes", "--resume", ran.doc["run"])
    assert refused.code == 5 and "--even-changed" in refused.err
    desk.play(PLAY)
    resumed = await desk.type("run", file, "--yes", "--json", "--resume", ran.doc["run"])
    assert resumed.code == 0 and [row["node"] for row in resumed.doc["nodes"]] == ["b", "c"]
    assert (desk.folder / "c/config").exists()


async def test_a_rollout_that_is_resumed_in_parts_forgets_nobody(desk: Desk) -> None:
    write_nodes(desk, "a", "b", "c")
    (desk.folder / "a/bad").touch()
    file = desk.play(PLAY)
    assert (await desk.type("run", file, "--yes", "--canary", "a")).code == 1
    (desk.folder / "a/bad").unlink()
    part = await desk.type("run", file, "b", "--yes", "--json", "--resume", "last")
    assert part.code == 0 and [row["node"] for row in part.doc["nodes"]] == ["b"]
    known = desk.host.known_hosts.rename(desk.folder / "away")
    assert (await desk.type("run", file, "--yes", "--resume", "last")).code == 3
    known.rename(desk.host.known_hosts)
    rest = await desk.type("run", file, "--yes", "--json", "--resume", "last")
    assert rest.code == 0 and [row["node"] for row in rest.doc["nodes"]] == ["a", "c"]
    over = await desk.type("run", file, "--yes", "--resume", "last")
    assert over.code == 3 and "is done on all of its nodes" in over.err


async def test_stopped_and_rolled_back_is_6(desk: Desk) -> None:
    write_nodes(desk, "a", "b", "c")
    (desk.folder / "b/bad").touch()
    back = await desk.type(
        "run", desk.play(PLAY), "--yes", "--canary", "a", "--wave", "1", "--rollback-on-fail"
    )
    assert back.code == 6 and "rolled back  2 things on 2 nodes" in back.out
    assert not any((desk.folder / name / "config").exists() for name in "abc")
    listed = await desk.type("list", "--json", noun="runs")
    assert [row["result"] for row in listed.doc["rows"]] == ["done", "exit 6"]


async def test_resumed_and_rolled_back_puts_back_both_runs(desk: Desk) -> None:
    write_nodes(desk, "a", "b", "c")
    (desk.folder / "b/bad").touch()
    file = desk.play(PLAY)
    # As cron has it: one line.
    ran = await desk.type("run", file, "--yes", "-q", "--wave", "1", "--canary", "a")
    assert ran.code == 1 and not ran.err and len(ran.out.splitlines()) == 1
    assert ran.out.startswith('play config on desk: 1 of 2 nodes done; b: failed: step "good": ')
    back = await desk.type("run", file, "--yes", "--json", "--resume", "last", "--rollback-on-fail")
    assert back.code == 6 and [row["node"] for row in back.doc["nodes"]] == ["b"]
    assert not any((desk.folder / name / "config").exists() for name in "abc")
    (desk.folder / "b/bad").unlink()
    again = await desk.type("run", file, "--yes", "--json", "--resume", back.doc["run"])
    assert again.code == 0 and sorted(row["node"] for row in again.doc["nodes"]) == ["a", "b", "c"]


async def test_killed_in_a_wave_and_resumed(desk: Desk) -> None:
    write_nodes(desk, "a", "b")
    slow = PLAY + (
        "  - {name: slow, command: {argv: [sh, -c, 'echo $$ > {{ base }}/pid; test -e {{ base }}/go || sleep 60']}}\n"
    )
    (desk.folder / "a/go").touch()
    file = desk.play(slow)
    child = await desk.start("run", file, "--yes", "--canary", "a")
    pid = await appears(desk.folder / "b/pid")
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await gone(pid)
    (desk.folder / "b/go").touch()
    resumed = await desk.type("run", file, "--yes", "--json", "--resume", "last")
    assert resumed.code == 0 and [row["node"] for row in resumed.doc["nodes"]] == ["b"]


async def test_for_cron_drift_is_a_line_and_gauges(desk: Desk) -> None:
    file = desk.play(PLAY)
    gauges = desk.folder / "play.prom"
    drifted = await desk.type("run", file, "--check", "--plugin", "--splay", "0s", "--textfile", str(gauges))
    assert drifted.code == 1 and drifted.out.startswith(
        "WARNING - desk: play config: 1 of 1 nodes looked at; 1 things"
    )
    assert "commcli_play_run_changed 1\n" in gauges.read_text()
    await desk.type("run", file, "--yes", "-q")
    good = await desk.type("run", file, "--check", "--plugin")
    assert (good.code, good.out.split(" |")[0]) == (
        0,
        "OK - desk: play config: 1 of 1 nodes looked at, nothing differs",
    )
    wrong = await desk.type("run", file, "--plugin", "--yes")
    assert wrong.code == 3 and wrong.out.startswith("UNKNOWN - --plugin")
