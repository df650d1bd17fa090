"""A node that never stops talking: given up after so many bytes, with one line, and nothing of it kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from commcli.remote import program, run, ssh
from commcli.remote.outcome import Failed, Lost
from commcli.remote.program import Program
from commcli.remote.run import PlayResult
from commcli.remote.ssh import Connection
from tests.remote.sshd import Host
from tests.remote.test_program import connection, start

__all__ = ["connection"]

FLOODS = {
    "a login shell": ("yes Welcome", r"the node floods: over 4 MiB before python3 answered"),
    "one line": ("cat /dev/zero", r"the node floods: a line of over 16 MiB"),
    "stderr": ("exec yes >&2", r"the node floods: over 4 MiB on stderr"),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_before_the_hello(name: str, connection: Connection, tmp_path: Path) -> None:
    script, reason = FLOODS[name]
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    with pytest.raises((Lost, Failed), match=reason):
        await Program.start(connection, str(fake), b"", "echo:main", None)


async def test_a_program_whose_line_never_ends(connection: Connection) -> None:
    async with await start(connection, "flood") as flooding:
        with pytest.raises(Lost, match="a line of over 16 MiB"):
            await flooding.receive()
        assert len(flooding._buffer) <= program.LONGEST_LINE + ssh.READ_SIZE * 64


async def test_a_command_whose_output_is_kept_whole(host: Host) -> None:
    fleet = host.fleet()
    async with ssh.Pool(fleet) as pool:
        there = await pool.connect(fleet.nodes["sg-1"])
        with pytest.raises(Failed, match="its output is over 16 MiB"):
            await there.run(["yes"], timeout_s=60)
        assert (await there.run(["true"], timeout_s=60)).ok


class Chatty:
    """A program on a node that tells of one step again and again."""

    async def receive(self) -> Any:
        return {"at": 0}


async def test_an_executor_that_tells_of_more_steps_than_there_are() -> None:
    step = {"name": "one", "timeout_s": 1.0, "module": "file"}
    reached = {"sg-1": PlayResult()}
    with pytest.raises(Lost, match="more than the play has steps"):
        await run._follow(Chatty(), [step], 0.0, "sg-1", reached, lambda *_: None)  # type: ignore[arg-type]
