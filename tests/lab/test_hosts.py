"""Real SSH to the lab's hosts, through the same door as every command's."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from commcli.fleet.loader import load
from commcli.fleet.model import Fleet, Node
from commcli.lab import processes
from commcli.lab.folder import LabFolder, Record
from commcli.remote.outcome import HostKeyRefused, LoginRefused
from commcli.remote.ssh import Connection, Pool


@pytest.fixture
def fleet(lab: tuple[LabFolder, Record]) -> Fleet:
    return load(lab[0].inventory)


@pytest.fixture
def node(fleet: Fleet) -> Node:
    return fleet.nodes["sg-1"]


@pytest.fixture
async def connection(fleet: Fleet, node: Node) -> AsyncIterator[Connection]:
    async with Pool(fleet) as pool:
        yield await pool.connect(node)


async def until(condition: str, folder: LabFolder, *, there: bool) -> list[processes.Found]:
    """Wait until a process whose command line holds `condition` is there, or is gone."""
    async with asyncio.timeout(10):
        while True:
            found = [process for process in processes.find(folder.path) if condition in process.command]
            if bool(found) == there:
                return found
            await asyncio.sleep(0.02)


async def test_a_command_runs_in_the_nodes_own_root(
    lab: tuple[LabFolder, Record], connection: Connection
) -> None:
    done = await connection.run(["sh", "-c", "pwd; echo $HOME; env"], timeout_s=10)
    where, home, *environ = done.stdout.decode().splitlines()
    root = str(lab[0].root("sg-1"))
    assert done.ok and where == root and home == root
    assert f"COMMCLI_LAB={lab[0].path}" in environ and "COMMCLI_LAB_NODE=sg-1" in environ
    assert not any(line.startswith("VIRTUAL_ENV") or line.startswith("PYTEST") for line in environ)


async def test_streams_and_status_come_through(connection: Connection) -> None:
    data = os.urandom(300_000)
    done = await connection.run(["sh", "-c", "cat; echo oops >&2; exit 7"], stdin=data, timeout_s=20)
    assert (done.exit_status, done.stdout, done.stderr) == (7, data, b"oops\n")


async def test_a_signal_is_told_as_one(connection: Connection) -> None:
    process = await connection.start("kill -9 $$")
    assert await process.wait() == -1


async def test_closing_the_channel_ends_the_whole_group(
    lab: tuple[LabFolder, Record], connection: Connection
) -> None:
    process = await connection.start("trap '' TERM; sleep 71 & sleep 72")
    await until("sleep 72", lab[0], there=True)
    process.close()
    await until("sleep 7", lab[0], there=False)


async def test_losing_the_connection_ends_the_whole_group(
    lab: tuple[LabFolder, Record], connection: Connection
) -> None:
    await connection.start("sleep 73 & sleep 74")
    await until("sleep 74", lab[0], there=True)
    connection.abort()
    await until("sleep 7", lab[0], there=False)


async def test_a_daemon_outlives_its_channel(lab: tuple[LabFolder, Record], connection: Connection) -> None:
    # Not `setsid -f`: its parent may be gone, and with it the group, before the child has left the group.
    daemonise = "setsid --wait sh -c 'sleep 75 </dev/null >/dev/null 2>&1 &'"
    done = await connection.run(["sh", "-c", daemonise], timeout_s=10)
    assert done.ok
    await connection.close()
    (daemon,) = await until("sleep 75", lab[0], there=True)
    assert daemon.node == "sg-1"


async def test_two_channels_share_a_connection(connection: Connection) -> None:
    first = await connection.start("cat")
    done = await connection.run(["echo", "second"], timeout_s=10)
    first.write(b"first")
    first.write_eof()
    assert (await first.read(), done.stdout) == (b"first", b"second\n")


async def test_a_host_without_its_root_says_so(lab: tuple[LabFolder, Record], connection: Connection) -> None:
    shutil.rmtree(lab[0].root("sg-1"))
    done = await connection.run(["true"], timeout_s=10)
    assert done.exit_status == 126 and b"can not run it" in done.stderr


async def test_another_key_is_refused(lab: tuple[LabFolder, Record], fleet: Fleet, node: Node) -> None:
    stranger = lab[0].keys / "signer"
    async with Pool(replace(fleet, ssh=replace(fleet.ssh, identities=(stranger,)))) as pool:
        with pytest.raises(LoginRefused):
            await pool.connect(node)


async def test_another_user_is_refused(fleet: Fleet, node: Node) -> None:
    async with Pool(fleet) as pool:
        with pytest.raises(LoginRefused):
            await pool.connect(replace(node, ssh=replace(node.ssh, user="root")))


async def test_a_changed_host_key_is_refused(lab: tuple[LabFolder, Record], fleet: Fleet, node: Node) -> None:
    known = fleet.ssh.known_hosts
    lines = known.read_text().splitlines()
    ours = next(line for line in lines if node.address in line)
    other = next(line for line in lines if node.address not in line)
    known.write_text(known.read_text().replace(ours.split()[2], other.split()[2]))
    async with Pool(fleet) as pool:
        with pytest.raises(HostKeyRefused):
            await pool.connect(node)
