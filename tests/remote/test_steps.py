"""The steps' pure parts as tables, and what they do to a disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commcli.remote.onnode import command as commands
from commcli.remote.onnode import files
from commcli.remote.onnode.files import Have
from commcli.remote.onnode.pending import Pending
from commcli.remote.onnode.step import Place, StepFailed
from commcli.remote.steps import command, directory, file, require, service, wait_for


def place(**changed: Any) -> Place:
    facts = {"python": sys.executable, "systemd": False, "uid": os.getuid()}
    plain = {
        "checking": False, "diff": True, "facts": facts, "values": {"facts": facts}, "blobs": {},
        "started": set(), "changed_before": False, "untold": frozenset(),
        "guard": lambda pid: contextlib.nullcontext(), "indivisible": contextlib.nullcontext, "timeout_s": 5.0,
    }  # fmt: skip
    return Place(**{**plain, **changed})


DIRECTORIES = [
    (None, 0o755, "create, mode 0755"),
    (None, None, "create, mode 0755"),
    (Have("directory", 0o700), None, ""),
    (Have("directory", 0o755), 0o755, ""),
    (Have("directory", 0o700), 0o755, "mode 0700 -> 0755"),
    (Have("file", 0o644, b""), 0o755, StepFailed),
    (Have("link", 0o777), 0o755, StepFailed),
]
FILES = [
    (None, b"new", 0o600, "create, 3 bytes, mode 0600"),
    (None, b"new", None, "create, 3 bytes, mode 0644"),
    (Have("file", 0o600, b"new"), b"new", None, ""),
    (Have("file", 0o600, b"old!"), b"new", None, "content, 4 -> 3 bytes"),
    (Have("file", 0o600, b"new"), b"new", 0o600, ""),
    (Have("file", 0o600, b"old!"), b"new", 0o600, "content, 4 -> 3 bytes"),
    (Have("file", 0o644, b"old"), b"new", 0o600, "content, 3 -> 3 bytes, mode 0644 -> 0600"),
    (Have("file", 0o644, b"new"), b"new", 0o600, "mode 0644 -> 0600"),
    (Have("directory", 0o755), b"new", 0o600, StepFailed),
    (Have("link", 0o777), b"new", 0o600, StepFailed),
]
SERVICES = [  # state, running, fresh, unit differs -> actions
    ("running", False, False, False, ["start"]),
    ("running", True, False, False, []),
    ("running", True, False, True, ["unit", "restart"]),
    ("running", False, False, True, ["unit", "start"]),
    ("restarted", True, False, False, ["restart"]),
    ("restarted", True, True, False, []),
    ("restarted", False, True, False, []),
    ("restarted", False, False, False, ["start"]),
    ("reloaded", True, False, False, ["reload"]),
    ("reloaded", True, False, True, ["unit", "restart"]),
    ("reloaded", True, True, False, []),
    ("reloaded", False, False, False, ["start"]),
    ("upgraded", True, False, False, ["upgrade"]),
    ("upgraded", True, False, True, ["unit", "restart"]),
    ("upgraded", True, True, False, []),
    ("upgraded", False, False, False, ["start"]),
    ("stopped", True, False, True, ["stop"]),
    ("stopped", False, False, True, []),
]
NEEDLESS = [
    (True, None, "what it creates is there"),
    (False, 0, "unless holds"),
    (False, 1, ""),
    (False, None, ""),
]


@pytest.mark.parametrize(("have", "mode", "change"), DIRECTORIES)
def test_directory_decides(have: Have | None, mode: int | None, change: str | type[Exception]) -> None:
    if not isinstance(change, str):
        with pytest.raises(change, match="in the way"):
            directory.decide(have, mode)
        return
    assert directory.decide(have, mode) == change


@pytest.mark.parametrize(("have", "data", "mode", "change"), FILES)
def test_file_decides(
    have: Have | None, data: bytes, mode: int | None, change: str | type[Exception]
) -> None:
    if not isinstance(change, str):
        with pytest.raises(change, match="in the way"):
            file.decide(have, data, mode)
        return
    assert file.decide(have, data, mode) == change


@pytest.mark.parametrize(("state", "running", "fresh", "unit", "actions"), SERVICES)
def test_service_decides(state: str, running: bool, fresh: bool, unit: bool, actions: list[str]) -> None:
    assert service.decide(state, running=running, fresh=fresh, unit_differs=unit) == actions


@pytest.mark.parametrize(("creates", "unless", "why"), NEEDLESS)
def test_command_is_needless(creates: bool, unless: int | None, why: str) -> None:
    assert command.needless(creates, unless) == why


DIFFS = [
    (b"a\nb\n", b"a\nc\n", False, "--- f (now)\n+++ f (wanted)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"),
    (b"", b"a\n", False, "--- f (now)\n+++ f (wanted)\n@@ -0,0 +1 @@\n+a\n"),
    (b"old", b"new", True, "f: the secret content differs, not shown\n"),
    (b"same", b"same", False, ""),
]


@pytest.mark.parametrize(("old", "new", "secret", "text"), DIFFS)
def test_differences(old: bytes, new: bytes, secret: bool, text: str) -> None:
    assert file.difference("f", old, new, secret=secret) == text


@pytest.mark.parametrize("new", [b"\0binary", b"\xff\xfe", b"x" * (file.LONGEST_DIFF + 1)])
def test_differences_of_what_is_no_short_text(new: bytes) -> None:
    assert file.difference("f", b"", new, secret=False).startswith("f: nothing -> sha256 ")


def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(str(tmp_path / "f"), b"x", 0o664)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o664


def test_what_a_killed_run_left_aside_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".f.commcli-deadbeef").write_text("half")
    (tmp_path / ".g.commcli-deadbeef").write_text("another file's")
    files.write(str(tmp_path / "f"), b"x", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".g.commcli-deadbeef", "f"]


def test_no_room_leaves_the_old_file(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow over 4 kB."""
    path = tmp_path / "f"
    path.write_text("old")
    code = (
        "import sys; from commcli.remote.onnode import files, step\n"
        "try: files.write(sys.argv[1], b'x' * 100_000, 0o600)\n"
        "except step.StepFailed as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )  # fmt: skip
    assert done.stdout == f"{path}: file too large; the old file is untouched\n"
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="there is no folder"):
        files.write(str(tmp_path / "absent/f"), b"x", 0o600)


def test_renames_that_are_made_to_last_late(tmp_path: Path) -> None:
    gone, is_file_now = tmp_path / "gone", tmp_path / "was"
    for folder in (gone, is_file_now):
        folder.mkdir()
        files.write(str(folder / "f"), b"x", 0o600, late=True)
    shutil.rmtree(gone)
    files.sync_late()  # what is gone has nothing to keep
    files.write(str(is_file_now / "f"), b"y", 0o600, late=True)
    shutil.rmtree(is_file_now)
    is_file_now.touch()
    with pytest.raises(StepFailed, match="was: not a directory; what was changed there may not last"):
        files.sync_late()
    files.sync_late()  # told once


def test_a_command_that_creates_nothing_failed(tmp_path: Path) -> None:
    args = {"argv": ["true"], "creates": str(tmp_path / "made")}
    verdict = command.check(args, place())
    assert verdict.apply is not None
    with pytest.raises(StepFailed, match="did not create"):
        verdict.apply()
    (tmp_path / "made").touch()
    assert command.check(args, place()).skipped == "what it creates is there"


def test_a_command_changed_only_when_its_condition_says_so() -> None:
    verdict = command.check({"argv": ["echo", "same"], "changed_when": "stdout != 'same'"}, place())
    assert verdict.apply is not None
    result = verdict.apply()
    assert result == {"status": 0, "stdout": "same", "stderr": "", "changed": False}


def test_the_python_of_the_play_has_a_name() -> None:
    argv = ["<python>", "-c", "import sys; print(sys.executable)"]
    verdict = command.check({"argv": argv, "changed_when": "false"}, place())
    assert verdict.result["stdout"] == sys.executable


def test_long_output_keeps_head_and_tail() -> None:
    code = "import sys; sys.stdout.write('<' + 'x' * 300_000 + '>')"
    ran = commands.run([sys.executable, "-c", code], place())
    assert ran.stdout.startswith("<x") and ran.stdout.endswith("x>") and "bytes cut" in ran.stdout
    assert len(ran.stdout) < 3 * commands.KEPT


def test_a_daemon_that_keeps_our_pipe_does_not_keep_us() -> None:
    ran = commands.run(["sh", "-c", "sleep 600 & echo $!"], place())
    os.kill(int(ran.stdout), 9)
    assert ran.status == 0


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(StepFailed, match=r"/nonexistent: No such file or directory"):
        commands.run(["/nonexistent"], place())


def test_require_tells_its_message() -> None:
    require.check({"that": ["facts.uid >= 0"]}, place())
    with pytest.raises(StepFailed, match="not here"):
        require.check({"that": ["facts.uid >= 0", "facts.uid < 0"], "message": "not here"}, place())


def test_wait_for_in_check_mode_does_not_wait(tmp_path: Path) -> None:
    args = {"socket": str(tmp_path / "none.sock"), "until": "answer.ok"}
    assert wait_for.check(args, place(checking=True, changed_before=True)).skipped
    with pytest.raises(StepFailed, match="does not exist"):
        wait_for.check(args, place(checking=True))


def test_a_service_without_systemd_needs_its_commands() -> None:
    with pytest.raises(StepFailed, match="no start, stop given"):
        service.check({"name": "x", "pid_file": "/x"}, place())


def test_held_is_answered_by_the_lock_and_not_by_the_pid(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    assert not service.held(str(path))
    path.write_text(str(os.getpid()))
    assert not service.held(str(path))
    code = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"\n"
        assert service.held(str(path))
    assert not service.held(str(path))


def test_the_journal_survives_and_empties(tmp_path: Path) -> None:
    path = str(tmp_path / "run/play.pending")
    Pending(path).add(["restart", "reload"])
    again = Pending(path)
    assert again.names == ["restart", "reload"]
    again.done("restart")
    again.add(["reload"])
    assert Pending(path).names == ["reload"]
    again.done("reload")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_play_may_remove_the_folder_of_its_journal(tmp_path: Path) -> None:
    pending = Pending(str(tmp_path / "base/plays/remove.pending"))
    pending.add(["systemd knows"])
    shutil.rmtree(tmp_path / "base")
    pending.done("systemd knows")
    assert pending.names == []


def test_a_broken_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("{")
    with pytest.raises(StepFailed, match="is no journal"):
        Pending(str(tmp_path / "j"))


RELOADS = [
    (0, "needless", [], None),
    (9, "waits: realm", ["stop", "start"], {"did": "restart: waits: realm"}),
    (9, "", ["stop", "start"], {"did": "restart: the reload asked for it"}),
]


@pytest.mark.parametrize(("status", "said", "did", "result"), RELOADS)
def test_a_reload_restarts_only_where_it_must_and_says_so(
    tmp_path: Path, status: int, said: str, did: list[str], result: dict[str, str] | None
) -> None:
    def noting(word: str, status: int = 0) -> list[str]:
        return ["sh", "-c", f"echo {word} >> {tmp_path}/did; echo '{said}' >&2; exit {status}"]

    pid_file = tmp_path / "pid"
    args = {
        "name": "x", "state": "reloaded", "pid_file": str(pid_file), "start": noting("start"),
        "stop": noting("stop"), "reload": noting("reload", status),
    }  # fmt: skip
    with pid_file.open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        verdict = service.check(args, place())
        assert verdict.change == "reload" and verdict.apply is not None
        assert verdict.apply() == result
    assert (tmp_path / "did").read_text().split() == ["reload", *did]


def test_a_refused_reload_is_a_failed_step_and_no_restart(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    args = {
        "name": "x", "state": "reloaded", "pid_file": str(pid_file), "start": ["false"], "stop": ["false"],
        "reload": ["sh", "-c", "echo no realm >&2; exit 1"],
    }  # fmt: skip
    with pid_file.open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        verdict = service.check(args, place())
        assert verdict.apply is not None
        with pytest.raises(StepFailed, match="reload: exit status 1: no realm"):
            verdict.apply()


UPGRADES = [  # exit status, what ran besides, what the step says
    (0, "", [], "upgrade"),
    (9, "two processes", ["stop", "start"], "restart (two processes)"),
    (2, "invalid choice", ["stop", "start"], "restart (invalid choice)"),
    (9, "", ["stop", "start"], "restart (the upgrade asked for it)"),
]


def _upgradable(folder: Path, state: str, status: int, said: str) -> dict[str, object]:
    def noting(word: str, status: int = 0) -> list[str]:
        return ["sh", "-c", f"echo {word} >> {folder}/did; echo '{said}' >&2; exit {status}"]

    return {
        "name": "x", "state": state, "pid_file": str(folder / "pid"), "start": noting("start"),
        "stop": noting("stop"), "reload": noting("reload", 9), "upgrade": noting("upgrade", status),
    }  # fmt: skip


@pytest.mark.parametrize(("status", "said", "did", "says"), UPGRADES)
def test_an_upgrade_restarts_only_where_it_must_and_says_so(
    tmp_path: Path, status: int, said: str, did: list[str], says: str
) -> None:
    with (tmp_path / "pid").open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        verdict = service.check(_upgradable(tmp_path, "upgraded", status, said), place())
        assert verdict.change == "upgrade" and verdict.apply is not None
        assert verdict.apply() == {"did": says}
    assert (tmp_path / "did").read_text().split() == ["upgrade", *did]


def test_a_reload_that_asks_for_a_restart_gets_an_upgrade_where_there_is_one(tmp_path: Path) -> None:
    with (tmp_path / "pid").open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        verdict = service.check(_upgradable(tmp_path, "reloaded", 0, "waits: realm"), place())
        assert verdict.apply is not None and verdict.apply() == {"did": "upgrade: waits: realm"}
    assert (tmp_path / "did").read_text().split() == ["reload", "upgrade"]


@pytest.mark.parametrize(
    ("status", "said"), [(1, "a broken program"), (4, "it is slow to answer"), (2, "can not open file")]
)
def test_an_upgrade_that_fails_is_a_failed_step_and_no_restart(
    tmp_path: Path, status: int, said: str
) -> None:
    with (tmp_path / "pid").open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        verdict = service.check(_upgradable(tmp_path, "upgraded", status, said), place())
        assert verdict.apply is not None
        with pytest.raises(StepFailed, match=f"upgrade: exit status {status}: {said}$"):
            verdict.apply()
    assert (tmp_path / "did").read_text().split() == ["upgrade"]


PUTS_BACK = [  # state, exit status of its command, is the former program there again?
    ("upgraded", 0, False),
    ("upgraded", 1, True),
    ("upgraded", 9, False),
    ("reloaded", 1, True),
    ("restarted", 1, False),
]


@pytest.mark.parametrize(("state", "status", "is_back"), PUTS_BACK)
def test_a_program_that_can_not_take_over_does_not_stay(
    tmp_path: Path, state: str, status: int, is_back: bool
) -> None:
    program, kept = tmp_path / "program", tmp_path / "program.before"
    program.write_bytes(b"old")
    owner = 1234 if os.getuid() == 0 else os.getuid()
    os.chown(program, owner, -1)
    for content in (b"never ran", b"new"):  # what is kept is what ran
        args = {"path": str(program), "digest": "d", "mode": 0o644, "keep": "former"}
        verdict = file.check(args, place()._replace(blobs={"d": content}))
        assert verdict.apply is not None
        verdict.apply()
    assert (program.read_bytes(), kept.read_bytes()) == (b"new", b"old")
    with (tmp_path / "pid").open("w") as supervisor:
        fcntl.flock(supervisor, fcntl.LOCK_EX)
        args = {**_upgradable(tmp_path, state, status, "why"), "puts_back": str(program)}
        verdict = service.check(args, place())
        assert verdict.apply is not None
        with (
            pytest.raises(StepFailed, match="why; program is again what it was")
            if is_back
            else contextlib.nullcontext()
        ):
            verdict.apply()
    assert program.read_bytes() == (b"old" if is_back else b"new") and not kept.exists()
    assert program.stat().st_uid == owner


SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> {folder}/calls
case "$1" in
  is-active) exit "$(cat {folder}/status)";;
  enable) cp {folder}/status-when-started {folder}/status;;
esac
"""
JOURNALCTL = "#!/bin/sh\nprintf 'one\\ntwo\\n'\n"


def systemd_node(folder: Path, monkeypatch: pytest.MonkeyPatch, status_when_started: str) -> Place:
    for name, text in {"systemctl": SYSTEMCTL.format(folder=folder), "journalctl": JOURNALCTL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "status").write_text("3")
    (folder / "status-when-started").write_text(status_when_started)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "UNITS", str(folder))
    return place(facts={"python": "/usr/bin/python3", "systemd": True, "uid": 0})


def test_a_unit_that_does_not_last_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = service.check({"name": "x", "unit": "[Service]\n"}, systemd_node(tmp_path, monkeypatch, "3"))
    assert verdict.apply is not None
    with pytest.raises(
        StepFailed, match=r"^x was started, and has ended; the journal ends with: one \| two$"
    ):
        verdict.apply()


def test_where_systemd_runs_the_unit_is_written_and_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd = systemd_node(tmp_path, monkeypatch, "0")
    args = {"name": "x", "unit": "[Service]\nExecStart=<python> -I x.pyz\n"}
    verdict = service.check(args, systemd)
    assert verdict.change == "unit, start" and verdict.apply is not None
    verdict.apply()
    assert (tmp_path / "x.service").read_text() == "[Service]\nExecStart=/usr/bin/python3 -I x.pyz\n"
    assert service.check(args, systemd).change == ""
    assert service.check({**args, "state": "restarted"}, systemd).change == ""  # this play has started it
    assert service.check({**args, "state": "restarted"}, systemd._replace(started=set())).change == "restart"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call for call in calls if not call.startswith("is-")] == ["daemon-reload", "enable --now x"]
