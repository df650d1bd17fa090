"""The lab's processes, found by the marker in their environment: nothing is forgotten and nothing else is
hit.

A process file can lie, be stale or be gone; the environment that a process was started with stays readable
in /proc for as long as it lives, whatever became of its parents. Signals go through a pidfd that was opened
before the marker was read, so that a reused process id is never hit.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MARKER = "COMMCLI_LAB"
NODE_MARKER = "COMMCLI_LAB_NODE"
# Longer than an exec takes.
EXEC_S = 0.02
HOSTS = ""  # the `node` of the hosts process itself, which belongs to no node


@dataclass(frozen=True, slots=True)
class Found:
    """One process of a lab. `node` is "" for the hosts process and for what `lab up` itself runs."""

    pid: int
    folder: str
    node: str
    command: str


def find(folder: Path | None = None, node: str | None = None) -> list[Found]:
    """Own processes that carry the marker of the lab at `folder` (None: of any lab), of one node or of all."""
    opened = _open(folder, node)
    for _, pidfd in opened:
        os.close(pidfd)
    return [found for found, _ in opened]


def end(
    folder: Path, node: str | None = None, *, grace_s: float = 2.0, give_up_s: float = 10.0
) -> list[Found]:
    """TERM every marked process, KILL what is still there after `grace_s`; repeat until a look finds none, twice.

    Repeating matters: a supervisor may start a child between the look and the signal, and a process in the middle of
    its exec shows no environment. `grace_s` 0 kills at once. Returns what survived `give_up_s` (nothing, unless a
    process hangs in the kernel).
    """
    deadline = time.monotonic() + give_up_s
    kill_at = time.monotonic() + grace_s
    while opened := _open(folder, node) or _look_again(folder, node):
        late = time.monotonic() >= kill_at
        for _, pidfd in opened:
            _signal(pidfd, signal.SIGKILL if late else signal.SIGTERM)
        _wait([pidfd for _, pidfd in opened], until=min(deadline, time.monotonic() + 1 if late else kill_at))
        for _, pidfd in opened:
            os.close(pidfd)
        if time.monotonic() >= deadline:
            return [found for found, _ in opened if Path(f"/proc/{found.pid}").exists()]
    return []


def _look_again(folder: Path, node: str | None) -> list[tuple[Found, int]]:
    time.sleep(EXEC_S)
    return _open(folder, node)


def environment(folder: Path, node: str | None, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the lab's marker."""
    marked = {**environ, MARKER: str(folder)}
    return marked if node is None else {**marked, NODE_MARKER: node}


def _open(folder: Path | None, node: str | None) -> list[tuple[Found, int]]:
    """Every match with an open pidfd. The caller's own process is never a match."""
    opened = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            pidfd = os.pidfd_open(int(entry.name))
        except OSError:
            continue  # gone between the listing and the look
        found = _read(entry)
        wanted = found and (folder is None or found.folder == str(folder)) and node in (None, found.node)
        if found and wanted:
            opened.append((found, pidfd))
        else:
            os.close(pidfd)
    return opened


def _read(entry: Path) -> Found | None:
    prefix, node_prefix = f"{MARKER}=".encode(), f"{NODE_MARKER}=".encode()
    try:
        variables = (entry / "environ").read_bytes().split(b"\0")
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    folder = next((value[len(prefix) :] for value in variables if value.startswith(prefix)), None)
    if folder is None:
        return None
    node = next((value[len(node_prefix) :] for value in variables if value.startswith(node_prefix)), b"")
    return Found(int(entry.name), os.fsdecode(folder), os.fsdecode(node), command)


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return  # it ended by itself: what was wanted


def _wait(pidfds: list[int], *, until: float) -> None:
    """Until all of them have ended, or the time is up. A pidfd becomes readable when its process ends."""
    poll = select.poll()
    alive = set(pidfds)
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    while alive and (left := until - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left * 1000):
            poll.unregister(pidfd)
            alive.discard(pidfd)
