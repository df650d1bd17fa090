"""A node takes so many calls at once, and says so when it has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from commcli.probe.ending import Ended
from commcli.probe.slots import slot


def test_slots_run_out_and_come_back(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
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


def test_a_folder_that_can_not_be_made_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with slot(str(tmp_path / "file/run"), 1):
        assert (tmp_path / "commcli-probe-0.lock").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "commcli-probe-0.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Ended) as caught, slot(str(tmp_path), 1):
        pass
    assert caught.value.kind == "node" and not (tmp_path / "elsewhere").exists()
