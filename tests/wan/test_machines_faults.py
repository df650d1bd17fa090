"""Plays that are interrupted on bare machines: reboots, cut connections, a killed desk. Root, sudo with a password and
without; whatever comes, no file is half written, nothing of the play stays behind, and the next run completes it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.remote.sshd import SSHD
from tests.wan.globe import Place

# Root, sudo that asks for a password, and sudo that does not, behind the bastion.
VICTIMS = ("de-1", "in-1", "kr-1")
WELL = "sg-1"
# From the issue: for how long what a play started may outlive whoever asked for it.
GONE_WITHIN_S = 1.0
OF_SYSTEMD = ("/lib/systemd/", "/usr/bin/dbus-daemon")
PATIENCE_S = 30.0

FOLDER, HOLD = "srv/files", "srv/hold"
# Where HOLD is, it stands between its two files: with a child in the background, one to which sudo gives a terminal and
# a session of its own, and one that does not listen to SIGTERM.
PLAY = """\
name: interrupted
steps:
  - name: folder
    directory: {path: /srv/files}
  - name: one
    file: {path: /srv/files/one, content: "CONTENT"}
    notify: note it
  - name: hold
    command:
      argv: [sh, -c, "[ ! -e /srv/hold ] || { sleep 601 & sudo -n sleep 602 & trap '' TERM; sleep 603; }"]
      changed_when: "false"
    timeout_s: 600
  - name: two
    file: {path: /srv/files/two, content: "CONTENT"}
handlers:
  - name: note it
    command: {argv: [cp, /srv/files/one, /srv/files/noted]}
"""
CHILDREN = {"sleep 601", "sleep 602", "sleep 603"}

# So large that there is time to look on while one is written.
MANY, BYTES = 6, 4 << 20
MANY_FILES = """\
name: many
steps:
  - name: folder
    directory: {path: /srv/many}
  - name: file
    file: {path: "/srv/many/{{ item }}", content: "{{ 'CONTENT' * BYTES }}"}
    loop: "{{ range(MANY) | list }}"
  - name: hold
    command: {argv: [sh, -c, "[ ! -e /srv/hold ] || { touch /srv/held; sleep 601; }"], changed_when: "false"}
""".replace("BYTES", str(BYTES)).replace("MANY", str(MANY))


@dataclass(frozen=True)
class Held:
    """`play run` at work on VICTIMS and WELL: there it is done, on the others it stands between its two files.

    old, new: what the files held before, and are to hold. latest: what they hold when no play is at work, if known.
    """

    place: Place
    file: Path
    old: str
    new: str
    running: subprocess.Popen[str]
    latest: list[str]

    def ended(self) -> tuple[int, dict[str, Any], str]:
        """Exit code, document ({} where there is none) and what was said on stderr."""
        out, err = self.running.communicate(timeout=PATIENCE_S)
        return self.running.returncode, json.loads(out) if out else {}, err

    def files(self, node: str) -> dict[str, str]:
        """What the files hold that the play writes, by name; with power or without."""
        return {
            path.name: path.read_text() for path in (self.place.machines.written(node) / FOLDER).iterdir()
        }

    @property
    def half_done(self) -> dict[str, str]:
        """The files on a node on which it stands between the two, and its handler is still to come."""
        return {"one": self.new, "two": self.old, "noted": self.old}

    def complete(self) -> str:
        """Nothing holds it any more: the next run does the rest, and no more than that. Returns the run's name."""
        release(self.place)
        again = run(self.place, self.file)
        for row in again["nodes"]:
            changed = [step["name"] for step in row["steps"] if step["state"] == "changed"]
            assert changed == ([] if row["node"] == WELL else ["two", "note it"]), row
            assert self.files(row["node"]) == dict.fromkeys(("one", "two", "noted"), self.new)
        self.latest.append(self.new)
        name: str = again["run"]
        return name


@pytest.fixture(scope="module")
def latest() -> list[str]:
    """What the files hold since the last test, nothing if that is not certain."""
    return []


@pytest.fixture
def held(place: Place, tmp_path: Path, latest: list[str]) -> Iterator[Held]:
    release(place)
    file = tmp_path / "interrupted.yml"
    old = latest[-1] if latest else f"old {tmp_path}"
    if not latest:
        file.write_text(PLAY.replace("CONTENT", old))
        run(place, file)
    latest.clear()
    new = f"new {tmp_path}"
    file.write_text(PLAY.replace("CONTENT", new))
    for node in VICTIMS:
        (place.machines.root(node) / HOLD).touch()
    running = place.desk.popen("play", "run", str(file), ",".join((*VICTIMS, WELL)), "--yes", "--json")
    held = Held(place, file, old, new, running, latest)
    try:
        until(lambda: all(children(place, node) == CHILDREN for node in VICTIMS), running)
        until(lambda: held.files(WELL) == dict.fromkeys(("one", "two", "noted"), new), running)
        yield held
    finally:
        if running.poll() is None:
            running.kill()
            running.communicate()
        release(place)


def run(place: Place, file: Path) -> dict[str, Any]:
    """The play, to its end on every node."""
    document = place.desk.document("play", "run", str(file), ",".join((*VICTIMS, WELL)), "--yes")
    assert {row["node"]: row["state"] for row in document["nodes"]} == dict.fromkeys((*VICTIMS, WELL), "done")
    return document


def release(place: Place) -> None:
    for node in VICTIMS:
        (place.machines.root(node) / HOLD).unlink(missing_ok=True)


def children(place: Place, node: str) -> set[str]:
    """What the play's command has started there and still runs."""
    return {line for line in place.machines.processes(node).values() if line in CHILDREN}


def others(place: Place, node: str) -> list[str]:
    """What runs there beside SSH and systemd: the node's part of a play, sudo, shells, children."""
    lines = place.machines.processes(node).values()
    return [line for line in lines if not line.startswith(("sshd:", str(SSHD), *OF_SYSTEMD))]


def sessions(place: Place, node: str) -> list[int]:
    """The processes of its SSH server that serve a connection."""
    found = place.machines.processes(node).items()
    return [pid for pid, line in found if line.startswith("sshd:") and "[listener]" not in line]


def asides(place: Place, node: str) -> list[str]:
    """Files that were being written, anywhere on the machine but in the journals: those go with their run."""
    top = place.machines.written(node)
    found = [str(path.relative_to(top)) for path in top.rglob("*.commcli-*")]
    return [path for path in found if not path.startswith("opt/commcli/runs/")]


def until(
    done: Callable[[], object], running: subprocess.Popen[str] | None = None, every_s: float = 0.01
) -> None:
    """Raises AssertionError when it does not come to that, or the command that should bring it about has ended."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        if running is not None and running.poll() is not None:
            raise AssertionError(running.communicate())
        assert time.monotonic() < end
        time.sleep(every_s)


def half_written(folder: Path, name: str) -> bool:
    """Is it, or the file that is to become it, there in part?"""
    for path in (folder / name, *folder.glob(f".{name}.commcli-*")):
        # Renamed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if 0 < path.stat().st_size < BYTES:
                return True
    return False


@contextlib.contextmanager
def nothing_outlives_this(place: Place) -> Iterator[None]:
    """The body ends somebody: a second later at most nothing of the play runs on the VICTIMS."""
    began = time.monotonic()
    yield
    until(lambda: not any(others(place, node) for node in VICTIMS))
    took_s = time.monotonic() - began
    assert took_s <= GONE_WITHIN_S


def test_a_reboot_is_lost_and_the_next_run_completes(held: Held) -> None:
    machines, desk = held.place.machines, held.place.desk
    for node in VICTIMS:
        machines.power_off(node)
    found = {node: held.files(node) for node in VICTIMS}
    code, document, _ = held.ended()
    for node in VICTIMS:
        machines.power_on(node)
    for node in VICTIMS:
        held.place.wait(node)
    assert found == dict.fromkeys(VICTIMS, held.half_done)
    states = {row["node"]: row["state"] for row in document["nodes"]}
    assert (code, states) == (4, {**dict.fromkeys(VICTIMS, "lost"), WELL: "done"})
    completed = held.complete()
    # One after the other they are put back; then, too, the handler runs of the run that had notified it.
    for name, two, one in ((completed, held.old, held.new), (document["run"], held.old, held.old)):
        assert desk.document("rollback", name, "--yes")["exit_code"] == 0
        for node in VICTIMS:
            assert held.files(node) == {"one": one, "two": two, "noted": one}
            assert asides(held.place, node) == []
    held.latest[:] = [held.old]


def test_a_reboot_while_a_file_is_written_leaves_it_whole(place: Place, tmp_path: Path) -> None:
    node, file = VICTIMS[1], tmp_path / "many.yml"
    machines = place.machines
    folder, held = machines.written(node) / "srv/many", machines.written(node) / "srv/held"

    def is_time(name: str) -> bool:
        # On a machine that is too busy to see it being written, after it.
        return half_written(folder, name) or held.exists()

    for version, name in (("1", "4"), ("2", "2")):
        file.write_text(MANY_FILES.replace("CONTENT", version))
        (machines.root(node) / HOLD).touch()
        (machines.root(node) / "srv/held").unlink(missing_ok=True)
        running = place.desk.popen("play", "run", str(file), node, "--yes")
        until(partial(is_time, name), running, every_s=0.0001)
        machines.power_off(node)
        running.communicate(timeout=PATIENCE_S)
        found = {path.name: path.read_text() for path in folder.glob("[!.]*")}
        machines.power_on(node)
        place.wait(node)
        assert running.returncode == 4
        assert [name for name, text in found.items() if text not in (BYTES * "1", BYTES * "2")] == []
    release(place)
    assert place.desk.document("play", "run", str(file), node, "--yes")["exit_code"] == 0
    assert {path.name for path in folder.iterdir()} == {f"{number}" for number in range(MANY)}
    assert {path.read_text() for path in folder.iterdir()} == {BYTES * "2"}
    assert asides(place, node) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_nothing_outlives_the_desk_and_the_next_run_completes(held: Held, number: int, code: int) -> None:
    with nothing_outlives_this(held.place):
        held.running.send_signal(number)
    ended, document, said = held.ended()
    assert ended == code
    if number == signal.SIGINT:
        assert (document["kind"], document["error"]["exit_code"]) == ("error", code)
        assert "not known how far: " in said and all(f"{node} (" in said for node in VICTIMS)
    assert {node: held.files(node) for node in VICTIMS} == dict.fromkeys(VICTIMS, held.half_done)
    held.complete()


def test_nothing_outlives_a_connection_that_is_cut_and_the_next_run_completes(held: Held) -> None:
    cut = [pid for node in VICTIMS for pid in sessions(held.place, node)]
    with nothing_outlives_this(held.place):
        for pid in cut:
            os.kill(pid, signal.SIGKILL)
    code, document, _ = held.ended()
    states = {row["node"]: row["state"] for row in document["nodes"]}
    assert (code, states) == (4, {**dict.fromkeys(VICTIMS, "lost"), WELL: "done"})
    assert {node: held.files(node) for node in VICTIMS} == dict.fromkeys(VICTIMS, held.half_done)
    held.complete()
