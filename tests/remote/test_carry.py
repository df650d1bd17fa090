"""`commcli push` and `commcli fetch` as they are typed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.remote import carry
from tests.remote.ops import desk_of
from tests.remote.sshd import Host
from tests.remote.test_play_command import Desk


@pytest.fixture
def desk(host: Host, tmp_path: Path) -> Desk:
    return desk_of(tmp_path, host, ["a-1", "b-1"])


async def test_a_file_goes_where_it_differs_and_comes_back(desk: Desk) -> None:
    local, there = desk.folder / "motd", desk.folder / "there"
    local.write_bytes(b"\x00binary\xff")
    local.chmod(0o750)
    for name in ("a-1", "b-1"):
        (there / name).mkdir(parents=True)
    (there / "b-1/motd").write_bytes(local.read_bytes())
    (there / "b-1/motd").chmod(0o750)
    target = f"{there}/{{{{ node_id }}}}/"
    words = ("all", str(local), target)
    check = await desk.type(*words, "--check", "--json", noun="push")
    assert (check.code, check.doc["changed"], (there / "a-1/motd").exists()) == (0, 1, False)
    pushed = await desk.type(*words, "--yes", "--mode", "0640", noun="push")
    assert (
        pushed.code == 0 and "create, 8 bytes, mode 0640" in pushed.out and "mode 0750 -> 0640" in pushed.out
    )
    assert "push on desk: 2 of 2 nodes done, changed 2 things on 2 nodes" in pushed.out
    assert (there / "a-1/motd").stat().st_mode & 0o777 == 0o640
    again = await desk.type(*words, "--yes", "--mode", "0640", noun="push")
    assert again.out.startswith("push on desk: 2 of 2 nodes done, the same already")

    run = sorted(path.stem for path in (desk.folder / "state/runs").iterdir())[0]
    undone = await desk.type(run, "--yes", noun="rollback")
    assert undone.code == 0 and not (there / "a-1/motd").exists()
    assert (there / "b-1/motd").stat().st_mode & 0o777 == 0o750

    (there / "a-1/motd").write_bytes(local.read_bytes())
    (there / "b-1/motd").unlink()
    back = desk.folder / "back"
    fetched = await desk.type("all", f"{there}/{{{{ node_id }}}}/motd", str(back), noun="fetch")
    assert fetched.code == 1 and (back / "a-1/motd").read_bytes() == b"\x00binary\xff"
    assert fetched.out.splitlines()[0] == str(back / "a-1/motd") and "failed  b-1: " in fetched.out
    assert re.search(r"next: mend the cause, then: commcli fetch 'b-1' ", fetched.out)


async def test_a_folder_goes_with_its_modes_and_links(desk: Desk) -> None:
    local, there = desk.folder / "site", desk.folder / "site-there"
    (local / "bin").mkdir(parents=True)
    (local / "bin/go").write_text("#!/bin/sh\n")
    (local / "bin/go").chmod(0o755)
    (local / "current").symlink_to("bin/go")
    ended = await desk.type("a-1", str(local), str(there), "--yes", "--json", noun="push")
    assert ended.code == 0 and ended.doc["kind"] == "push.files"
    assert [file["name"] for file in ended.doc["nodes"][0]["steps"]] == [
        str(there / name) for name in (".", "bin", "bin/go", "current")
    ]
    assert os.access(there / "bin/go", os.X_OK) and (there / "current").readlink() == Path("bin/go")


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("nothing", "/etc/x", "nothing: No such file or directory"),
        ("file", "etc/x", "etc/x: must be an absolute path on the node"),
        ("pipe", "/etc/x", "pipe: is neither a file nor a folder"),
        ("folder", "/etc/x", r"\{\{ x: a name with"),
    ],
)
def test_what_can_not_be_pushed_is_said_before(tmp_path: Path, name: str, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/{{ x").touch()
    with pytest.raises(BadInput, match=reason):
        carry.push(tmp_path / name, path, {})
