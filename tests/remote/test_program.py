"""Programs streamed to a real OpenSSH server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from commcli.remote import program as programs
from commcli.remote.bundle import bundle
from commcli.remote.outcome import Failed, Lost
from commcli.remote.program import Program
from commcli.remote.ssh import Connection, Pool
from tests.remote.sshd import Host

ECHO = """
def main(argument, channel):
    print("noise on stdout")
    channel.send({"argument": argument, "blobs": sorted(channel.blobs.values().__iter__(), key=len) == []})
    while True:
        message = channel.receive()
        if message == "stop":
            return
        channel.send(message)

def blob_lengths(argument, channel):
    channel.send({digest: len(blob) for digest, blob in channel.blobs.items()})

def wanted(digests, channel):
    for digest in digests:
        try:
            channel.send(len(channel.blobs[digest]))
        except KeyError:
            channel.send("nowhere")

def crash(argument, channel):
    channel.keep_secret([argument])
    raise ValueError("bad value " + argument)

def die(argument, channel):
    import os
    channel.send("before")
    os._exit(0)

def flood(argument, channel):
    import os
    while True:
        os.write(channel._out, b"x" * 65536)

def children(argument, channel):
    import os, subprocess
    child = subprocess.Popen(["sh", "-c", "trap '' TERM HUP; sleep 600 & wait; sleep 600"])
    channel.send([os.getpid(), child.pid])
    child.wait()

def halves(path, channel):
    import os, pathlib, time
    from commcli.remote.onnode import channel as ours
    with ours.indivisible():
        channel.send(os.getpid())
        ours._ending.wait()
        time.sleep(2 * ours.KILL_AFTER_S)  # whoever were to be killed is dead by now
        pathlib.Path(path).write_text("whole")
    time.sleep(600)
"""
MODULES = bundle({"echo": ECHO})


async def start(connection: Connection, entry: str, argument: object = None, **options: object) -> Program:
    return await Program.start(connection, sys.executable, MODULES, f"echo:{entry}", argument, **options)  # type: ignore[arg-type]


@pytest.fixture
async def connection(host: Host):  # type: ignore[no-untyped-def]
    fleet = host.fleet()
    async with Pool(fleet) as pool:
        yield await pool.connect(fleet.nodes["sg-1"])


async def test_talks_both_ways_and_ends(connection: Connection) -> None:
    async with await start(connection, "main", {"a": [1, "ü"]}) as program:
        assert (await program.receive())["argument"] == {"a": [1, "ü"]}
        await program.send("ping")
        assert await program.receive() == "ping"
        await program.send("stop")
        assert await program.receive() is None


async def test_blobs_arrive_by_digest(connection: Connection) -> None:
    async with await start(connection, "blob_lengths", blobs=[b"a" * 300_000, b""]) as program:
        assert sorted((await program.receive()).values()) == [0, 300_000]


async def test_a_blob_on_demand_comes_when_it_is_reached_for_and_once(connection: Connection) -> None:
    large = b"a" * 3_000_000
    digest = hashlib.sha256(large).hexdigest()
    asked = [digest, "0" * 64, digest]
    async with await start(connection, "wanted", asked, on_demand={digest: large}) as program:
        assert [await program.receive() for _ in asked] == [3_000_000, "nowhere", 3_000_000]


async def test_a_crash_is_one_masked_line(connection: Connection) -> None:
    async with await start(connection, "crash", "hunter22") as program:
        with pytest.raises(Failed, match=r"ValueError: bad value \*\*\*") as caught:
            await program.receive()
    assert "hunter22" not in str(caught.value)


async def test_exit_status_0_without_an_end_is_lost(connection: Connection) -> None:
    async with await start(connection, "die") as program:
        assert await program.receive() == "before"
        with pytest.raises(Lost):
            await program.receive()


async def test_closing_ends_children_that_ignore_signals(connection: Connection) -> None:
    async with await start(connection, "children") as program:
        pids = await program.receive()
    await gone(*pids)


@pytest.mark.parametrize("by_signal", [False, True])
async def test_what_is_indivisible_is_finished_first(
    by_signal: bool, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "done"
    async with await start(connection, "halves", str(path)) as program:
        pid = await program.receive()
        if by_signal:
            os.kill(pid, signal.SIGTERM)
            await gone(pid)
    await gone(pid)
    assert path.read_text() == "whole"


async def gone(*pids: int) -> None:
    """Wait until no such process is left (zombies do not count)."""
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in pids):  # noqa: ASYNC110  another process's end sets no event here
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


PYTHONS = {
    "missing": ("/nonexistent/python3", None, r"no python3 on the node \(looked at /nonexistent/python3\)"),
    "not python": ("python3", "#!/bin/sh\necho broken >&2; exit 3\n", "exit status 3: broken"),
    "too old": (
        "python3",
        '#!/bin/sh\necho "$0 is python 3.6.15" >&2; exit 126\n',
        r"python3 too old: .*/python3 is python 3\.6\.15, needs 3\.9 or newer",
    ),
}


@pytest.mark.parametrize("name", PYTHONS)
async def test_python_trouble_is_one_line(name: str, connection: Connection, tmp_path: Path) -> None:
    path, script, reason = PYTHONS[name]
    if script is not None:
        fake = tmp_path / path
        fake.write_text(script)
        fake.chmod(0o755)
        path = str(fake)
    with pytest.raises(Failed, match=reason) as caught:
        await Program.start(connection, path, MODULES, "echo:main", None)
    assert "\n" not in str(caught.value)


async def test_a_dropped_connection_is_lost(connection: Connection, host: Host) -> None:
    async with await start(connection, "main") as program:
        await program.receive()
        connection.abort()
        with pytest.raises(Lost):
            await program.receive()


@pytest.mark.parametrize("line", [b"5\n", b"[1]\n", b'"m"\n', b"null\n", b"{\n", b"\xff\n", b"[" * 200_000])
def test_a_line_that_is_no_message_is_damage_and_no_bug(line: bytes) -> None:
    with pytest.raises(Lost, match="arrived damaged"):
        programs._parsed(line)
