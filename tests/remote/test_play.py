"""Plays over a real OpenSSH server, on good and on bad days."""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.fleet.secrets import Secret
from commcli.remote.outcome import Event, exit_code
from tests.remote import plays, sshd
from tests.remote.test_program import alive, gone

FILES = """
name: files
steps:
  - name: folder
    directory: {path: "{{ base }}/etc", mode: "0750"}
  - name: greeting
    file: {path: "{{ base }}/etc/greeting", content: "{{ greeting }}", mode: "0640"}
    notify: note it
  - name: query
    command: {argv: [cat, "{{ base }}/etc/greeting"], changed_when: "false"}
    register: said
    when: facts.uid >= 0
  - name: only when told
    command: {argv: ["true"]}
    when: said.stdout == "never"
handlers:
  - name: note it
    command: {argv: [sh, -c, "echo noted >> {{ base }}/etc/notes"]}
"""
STUCK = """
name: stuck
steps:
  - name: quick
    command: {argv: ["true"], changed_when: "false"}
  - name: long
    command: {argv: [sh, -c, "trap '' TERM HUP; echo $$ > {{ base }}/pid; sleep 600; sleep 600"]}
"""


@pytest.fixture
def node_folder(host: sshd.Host) -> Iterator[Path]:
    """Where sg-1 keeps its files."""
    folder = host.folder / "nodes/sg-1"
    folder.mkdir(parents=True)
    yield folder
    pid = folder / "pid"
    if pid.exists() and alive(int(pid.read_text())):
        os.killpg(int(pid.read_text()), signal.SIGKILL)


async def test_changes_notify_and_the_second_run_is_quiet(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, FILES)
    [first] = await plays.run(host.fleet(), play, greeting="hello")
    assert plays.states(first) == {
        "folder": "changed", "greeting": "changed", "query": "ok", "only when told": "skipped", "note it": "changed",
    }  # fmt: skip
    assert stat.S_IMODE((node_folder / "etc/greeting").stat().st_mode) == 0o640
    [second] = await plays.run(host.fleet(), play, greeting="hello")
    assert second.value is not None and second.value.changed == 0
    assert (node_folder / "etc/notes").read_text() == "noted\n"


async def test_check_shows_the_diff_and_changes_nothing(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, FILES)
    await plays.run(host.fleet(), play, greeting="hello\n")
    [checked] = await plays.run(host.fleet(), play, check=True, diff=True, greeting="hullo\n")
    assert plays.states(checked)["greeting"] == plays.states(checked)["note it"] == "changed"
    assert checked.value is not None
    # Its mode is 0600: what it holds is not for a log.
    assert "-(not shown)\n+hullo\n" in checked.value.steps[1].diff
    assert (node_folder / "etc/greeting").read_text() == "hello\n"
    assert (node_folder / "etc/notes").read_text() == "noted\n"


async def test_check_passes_over_what_only_a_change_could_tell(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, FILES + """\
checks:
  - name: said so
    assert: {that: [facts.uid >= 0, "'hello' in said.stdout"]}
""")  # fmt: skip
    [checked] = await plays.run(host.fleet(), play, check=True, greeting="hello")
    assert checked.value is not None
    told = {step.name: step.text for step in checked.value.steps if step.state == "skipped"}
    assert told == {
        "query": "not known before the change",
        "only when told": "not known before the change (said)",
        "said so": "not known before the change (said)",
    }
    assert (checked.state, in_folder(node_folder)) == ("done", [])
    [real] = await plays.run(host.fleet(), play, greeting="hello")
    assert plays.states(real)["said so"] == "ok"


async def test_secrets_are_masked_by_value_everywhere(
    host: sshd.Host, node_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    play = plays.play(tmp_path, FILES + """\
checks:
  - name: the secret in an error
    command: {argv: [sh, -c, "cat {{ base }}/etc/greeting >&2; exit 1"]}
""")  # fmt: skip
    events: list[Event] = []
    [outcome] = await plays.run(
        host.fleet(), play, diff=True, on_event=events.append, greeting=Secret("tops3cret-value")
    )
    assert (node_folder / "etc/greeting").read_text() == "tops3cret-value"
    assert outcome.state == "failed" and outcome.reason.endswith("sh: exit status 1: ***")
    assert "***" in repr(outcome.value)
    assert "tops3cret" not in repr((outcome, events)) + caplog.text


async def test_a_cut_connection_is_lost_and_its_children_go(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    # The node's side of the connection dies, as when a route disappears for good.
    play = plays.play(tmp_path, STUCK)
    running = asyncio.create_task(plays.run(host.fleet(), play))
    pid = await appears(node_folder / "pid")
    os.kill(sshd_of(pid), signal.SIGKILL)
    [outcome] = await running
    assert (outcome.state, outcome.code) == ("lost", 4)
    assert plays.states(outcome) == {"quick": "ok"}
    await gone(pid)


async def test_a_killed_controller_leaves_nothing_running(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "play.yml").write_text(STUCK)
    controller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CONTROLLER, str(host.folder), str(host.port), str(tmp_path)
    )
    pid = await appears(node_folder / "pid")
    controller.kill()
    await controller.wait()
    await gone(pid)


CONTROLLER = """
import asyncio, sys
from pathlib import Path
from tests.remote import plays, sshd
host = sshd.Host(Path(sys.argv[1]), int(sys.argv[2]))
play = plays.play(Path(sys.argv[3]), Path(sys.argv[3], "play.yml").read_text())
asyncio.run(plays.run(host.fleet(), play))
"""


async def test_the_second_operator_is_told_who_is_at_work(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, STUCK)
    first = asyncio.create_task(plays.run(host.fleet(), play))
    pid = await appears(node_folder / "pid")
    outcomes = await plays.run(host.fleet(), play)
    assert (outcomes[0].state, exit_code(outcomes)) == ("refused", 75)
    assert outcomes[0].reason.startswith(f"play stuck by {getpass.getuser()}@")
    assert f"(pid {os.getpid()}) is at work there since 20" in outcomes[0].reason
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await gone(pid)


async def test_a_step_that_hangs_is_ended_with_its_children(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, STUCK + "    timeout_s: 0.3\n")
    [outcome] = await plays.run(host.fleet(), play)
    assert (outcome.state, outcome.reason) == ("failed", 'step "long": not finished after 0.3 s')
    await gone(int((node_folder / "pid").read_text()))


@pytest.mark.parametrize("limit", ["deadline_s", "node_timeout_s"])
async def test_deadlines_name_the_node(
    host: sshd.Host, node_folder: Path, tmp_path: Path, limit: str
) -> None:
    play = plays.play(tmp_path, STUCK)
    [outcome] = await plays.run(host.fleet(), play, **{limit: 1.5})  # type: ignore[arg-type]
    assert (outcome.state, outcome.code) == ("timeout", 4)
    assert "not finished" in outcome.reason
    if (node_folder / "pid").exists():
        await gone(int((node_folder / "pid").read_text()))


async def test_handlers_of_a_killed_play_run_next_time(
    host: sshd.Host, node_folder: Path, tmp_path: Path
) -> None:
    broken = FILES.replace('[cat, "{{ base }}/etc/greeting"]', '["false"]')
    [first] = await plays.run(host.fleet(), plays.play(tmp_path, broken), greeting="hello")
    assert first.state == "failed" and not (node_folder / "etc/notes").exists()
    [second] = await plays.run(host.fleet(), plays.play(tmp_path, FILES), greeting="hello")
    assert plays.states(second) == {
        "folder": "ok", "greeting": "ok", "query": "ok", "only when told": "skipped", "note it": "changed",
    }  # fmt: skip
    [third] = await plays.run(host.fleet(), plays.play(tmp_path, FILES), greeting="hello")
    assert "note it" not in plays.states(third)


@pytest.fixture
def small_disk(node_folder: Path) -> Iterator[Path]:
    """sg-1's folder on a disk of 200 kB."""
    done = mounted("-t", "tmpfs", "-o", "size=200k", "none", str(node_folder))
    if done:
        pytest.skip(f"no tmpfs for a disk of its own: {done}")
    yield node_folder
    subprocess.run(["umount", "-l", str(node_folder)], check=True)


def mounted(*words: str) -> str:
    """Why mount did not do it, "" if it did."""
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip()


async def test_a_full_disk_keeps_the_old_file(host: sshd.Host, small_disk: Path, tmp_path: Path) -> None:
    play = plays.play(tmp_path, FILES)
    await plays.run(host.fleet(), play, greeting="hello")
    [outcome] = await plays.run(host.fleet(), play, greeting="x" * 500_000)
    assert outcome.state == "failed"
    assert outcome.reason.endswith("disk full (no space left on device); the old file is untouched")
    assert (small_disk / "etc/greeting").read_text() == "hello"
    assert in_folder(small_disk / "etc") == ["greeting", "notes"]
    [again] = await plays.run(host.fleet(), play, greeting="hullo")
    assert (again.state, (small_disk / "etc/greeting").read_text()) == ("done", "hullo")


async def test_a_read_only_file_system_is_told_and_nothing_is_left(
    host: sshd.Host, small_disk: Path, tmp_path: Path
) -> None:
    play = plays.play(tmp_path, FILES)
    await plays.run(host.fleet(), play, greeting="hello")
    async with asyncio.timeout(20):
        # The play's process keeps its lock a moment longer.
        while mounted("-o", "remount,ro", str(small_disk)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    [outcome] = await plays.run(host.fleet(), play, greeting="hullo")
    [checked] = await plays.run(host.fleet(), play, check=True, greeting="hullo")
    assert not mounted("-o", "remount,rw", str(small_disk))
    assert (outcome.state, outcome.code) == ("failed", 1)
    assert outcome.reason == f"{small_disk}/plays/lock: read-only file system"
    assert plays.states(checked)["greeting"] == "changed"
    assert (small_disk / "etc/greeting").read_text() == "hello"
    [again] = await plays.run(host.fleet(), play, greeting="hullo")
    assert (again.state, plays.states(again)["greeting"]) == ("done", "changed")


@pytest.fixture
def usr(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk that is read-only."""
    folder = tmp_path / "usr"
    folder.mkdir()
    if why := mounted("-t", "tmpfs", "-o", "ro", "none", str(folder)):
        pytest.skip(f"no tmpfs for a disk of its own: {why}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_what_lies_on_a_read_only_disk_is_untouched(
    host: sshd.Host, node_folder: Path, usr: Path, tmp_path: Path
) -> None:
    text = f"name: usr\nsteps:\n  - name: it\n    file: {{path: {usr}/it, content: new}}\n"
    [outcome] = await plays.run(host.fleet(), plays.play(tmp_path, text))
    assert (outcome.state, outcome.code) == ("failed", 1)
    assert outcome.reason == f'step "it": {usr}/it: read-only file system; the old file is untouched'


async def appears(path: Path) -> int:
    """The process id in `path`, once it is there."""
    async with asyncio.timeout(20):
        while not (path.exists() and path.read_text().strip()):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    return int(path.read_text())  # noqa: ASYNC240


def sshd_of(pid: int) -> int:
    """The sshd process that serves the connection below which `pid` runs."""
    while True:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        parent = int(fields[1])
        if "sshd" in Path(f"/proc/{parent}/comm").read_text():
            return parent
        pid = parent


def in_folder(folder: Path) -> list[str]:
    """What is in it."""
    return sorted(path.name for path in folder.iterdir())
