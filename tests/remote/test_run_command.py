"""`commcli run` as it is typed."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.cli.run import gathered
from commcli.fleet.model import Node, SshTarget
from commcli.remote import adhoc
from commcli.remote.outcome import Event, Outcome
from commcli.remote.ssh import Pool
from commcli.report.run import grouped
from tests.remote.ops import desk_of
from tests.remote.sshd import Host
from tests.remote.test_play import appears
from tests.remote.test_play_command import Desk
from tests.remote.test_program import gone

NODES = ("a-1", "b-1", "c-1")


@pytest.fixture
def desk(host: Host, tmp_path: Path) -> Desk:
    return desk_of(tmp_path, host, NODES)


async def test_equal_outputs_are_told_once_and_failures_last(desk: Desk) -> None:
    # All three are this machine: whoever makes the folder first is the one that differs.
    line = f"echo same; mkdir {desk.folder}/first || {{ echo late >&2; exit 3; }}"
    ended = await desk.type("all", "--", line, noun="run")
    assert ended.code == 1
    words = ended.out.splitlines()
    assert words[1] == "same" and words[0] in NODES
    assert words[3].endswith("(2 nodes)  failed: exit status 3") and words[4] == "same"
    assert words[5].endswith("File exists") and words[6] == "late"
    assert words[-1] == "3 nodes of desk: 1 done, 2 failed"


async def test_words_are_arguments_and_one_word_is_a_line(desk: Desk) -> None:
    several = await desk.type("a-1", "--json", "--", "echo", "a  b", "$HOME;", noun="run")
    [row] = several.doc["nodes"]
    assert (several.doc["kind"], row["stdout"], row["exit_status"]) == ("run.command", "a  b $HOME;\n", 0)
    one = await desk.type("a-1", "--json", "--", "echo a  b | tr a c", noun="run")
    assert one.doc["nodes"][0]["stdout"] == "c b\n"


async def test_one_nodes_output_comes_byte_by_byte(desk: Desk) -> None:
    child = await desk.start("b-1", "--", "printf 'a\\n\\033[0m'; echo err >&2; exit 4", noun="run")
    out, err = await child.communicate()
    assert (child.returncode, out) == (1, b"a\n\x1b[0m")
    assert err == b"err\nb-1: failed: exit status 4\n"


async def test_what_is_long_is_cut_in_the_middle_and_lines_are_not_wrapped(desk: Desk) -> None:
    ended = await desk.type("all", "--", f"echo {'x' * 300}; seq 100000", noun="run")
    assert ended.code == 0 and "x" * 300 + "\n" in ended.out
    assert "bytes cut" in ended.out and "\n100000\n" in ended.out and "\n50000\n" not in ended.out


async def test_the_audit_says_what_was_run_where(desk: Desk) -> None:
    await desk.type("all", "--reason", "INC-1", "--", "false", noun="run")
    with sqlite3.connect(desk.folder / "state/commcli.sqlite3") as database:
        [row] = database.execute("SELECT command, reason, result, detail FROM audit").fetchall()
    database.close()
    assert row[:3] == ("run", "INC-1", "exit 1")
    assert json.loads(row[3])["command"] == "false" and json.loads(row[3])["nodes"] == [*NODES]


async def test_production_asks(host: Host, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, host, NODES, production=True)
    refused = await desk.type("a-1", "--", "true", noun="run")
    assert (refused.code, refused.out) == (2, "") and "--yes" in refused.err
    assert (await desk.type("a-1", "--yes", "--", "true", noun="run")).code == 0


async def test_ctrl_c_ends_what_runs_there(desk: Desk) -> None:
    line = f"echo $$ >{desk.folder}/pid.new; mv {desk.folder}/pid.new {desk.folder}/pid; sleep 600 & wait"
    child = await desk.start("a-1", "--", line, noun="run")
    pid = await appears(desk.folder / "pid")
    child.send_signal(signal.SIGINT)
    _, err = await child.communicate()
    assert child.returncode == 130 and b"not known how far: a-1 (at work)" in err
    await gone(pid)


async def test_outcomes_are_there_as_nodes_end(host: Host, tmp_path: Path) -> None:
    # Only the first one there goes on.
    line = f"mkdir {tmp_path}/first 2>/dev/null && sleep 600; echo quick"
    nodes = [host.node(name) for name in NODES]
    ended: dict[str, Outcome[adhoc.Said]] = {}
    two = asyncio.Event()

    def hear(_: Event) -> None:
        if len(ended) == 2:
            two.set()

    async with Pool(host.fleet(*nodes)) as pool:
        running = asyncio.create_task(adhoc.run_on(nodes, line, pool, ended=ended, on_event=hear))
        await two.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {(o.state, o.value) for o in ended.values()} == {("done", adhoc.Said(0, "quick\n", ""))}
    assert len(ended) == 2


def test_what_was_said_until_ctrl_c_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = Host(tmp_path, 22)
    host.known_hosts.touch()
    fleet = host.fleet(ssh=replace(host.defaults(), identities=()))

    async def stopped(ended: dict[str, Outcome[adhoc.Said]], **_: object) -> list[Outcome[adhoc.Said]]:
        ended["sg-1"] = Outcome("sg-1", "done", adhoc.Said(0, "quick\n", ""), "", 0.1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gathered(fleet, stopped, "x", quiet=True, tell=True)
    assert capsys.readouterr().out.startswith("sg-1\nquick\n")


async def test_a_dropped_connection_and_a_deadline_end_it_too(host: Host) -> None:
    node = host.node()
    async with Pool(host.fleet(node)) as pool:
        connection = await pool.connect(node)
        began = asyncio.Event()
        line = "echo $$; exec sleep 600"
        said: list[bytes] = []

        def hear(_node: str, _stream: str, data: bytes) -> None:
            said.append(data)
            began.set()

        running = asyncio.create_task(adhoc.run_on([node], line, pool, on_output=hear))
        await began.wait()
        connection.abort()
        [outcome] = await running
        assert (outcome.state, outcome.value) == ("lost", adhoc.Said(None, said[0].decode(), ""))
        await gone(int(said[0]))
        [late] = await adhoc.run_on([node], line, pool, node_timeout_s=2)
        assert late.state == "timeout" and late.value is not None
        await gone(int(late.value.stdout))


def test_groups_put_failures_last_and_the_common_first() -> None:
    said = adhoc.Said(0, "a\n", "")
    outcomes = [
        Outcome("n-1", "failed", adhoc.Said(1, "", "no\n"), "exit status 1", 0.1, 1),
        Outcome("n-2", "done", adhoc.Said(0, "b\n", ""), "", 0.1),
        Outcome("n-3", "done", said, "", 0.2),
        Outcome("n-4", "done", said, "", 0.3),
        Outcome("n-5", "unreachable", adhoc.Said(), "connection refused", 0.1, 4),
    ]
    target = SshTarget("127.0.0.1", "ops")
    nodes = [Node(o.node, "r", "sg", "127.0.0.1", target) for o in outcomes]
    doc = adhoc.document(Host(Path("/nonexistent"), 22).fleet(*nodes), "x", outcomes)
    assert doc["exit_code"] == 1
    assert [names for _, names in grouped(doc["nodes"])] == [["n-3", "n-4"], ["n-2"], ["n-1"], ["n-5"]]
