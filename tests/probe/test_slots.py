"""A node takes so many calls at once, and says so when it has them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.probe.ending import Ended
from commcli.probe.slots import slot


def test_slots_run_out_and_come_back(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with slot(folder, 2) as first, slot(folder, 2) as second:
        assert (first, second) == (0, 1)
        with pytest.raises(Ended, match="busy with 2 probe calls already") as caught, slot(folder, 2):
            pass
        assert caught.value.kind == "busy"
    with slot(folder, 2) as again:
        assert again == 0


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    code = "import sys; from commcli.probe.slots import slot\n"
    code += "with slot(sys.argv[1], 1): print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Ended, match="busy with a probe call"), slot(str(tmp_path), 1):
            pass
        holder.kill()
    with slot(str(tmp_path), 1) as number:
        assert number == 0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folder of our own would be, which is not there yet."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"commcli-probe-{os.geteuid()}"


@pytest.mark.parametrize("folder", ["none/run", "file/run", "file", "link", "open"])
def test_without_the_nodes_folder_there_is_one_of_our_own(
    tmp_path: Path, temporary: Path, folder: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "link").symlink_to("others")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for _ in range(2):
        with slot(str(tmp_path / folder), 1):
            assert [path.name for path in temporary.iterdir()] == ["commcli-probe-0.lock"]
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert not (tmp_path / "none").exists(), "its installer makes it, with the mode that it is to have"


@pytest.mark.parametrize("what", ["open", "link", "file", "no parent", "another's"])
def test_a_node_without_a_private_folder_says_so(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "open":
        temporary.mkdir()
        temporary.chmod(0o777)
    elif what == "link":
        temporary.symlink_to(tmp_path)
    elif what == "file":
        temporary.touch()
    elif what == "no parent":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    else:
        temporary.mkdir(0o700)
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(temporary, 12345, 12345)
    with pytest.raises(Ended, match=f"no folder for locks: not {tmp_path}/none, and ") as caught:
        slot(str(tmp_path / "none"), 1).__enter__()
    assert caught.value.kind == "node"


@pytest.mark.parametrize("what", ["fifo", "folder", "another's"])
def test_what_only_has_the_name_of_a_lock_is_not_waited_for(tmp_path: Path, what: str) -> None:
    lock = tmp_path / "commcli-probe-0.lock"
    if what == "fifo":
        os.mkfifo(lock)
    elif what == "folder":
        lock.mkdir()
    else:
        lock.touch()
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(lock, 12345, 12345)
    with pytest.raises(Ended, match=f"{lock}: not a file of ours") as caught:
        slot(str(tmp_path), 1).__enter__()
    assert caught.value.kind == "node"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "commcli-probe-0.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Ended) as caught, slot(str(tmp_path), 1):
        pass
    assert caught.value.kind == "node" and not (tmp_path / "elsewhere").exists()
