"""What a node is, out of the kernel's own tables."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commcli.remote.onnode import facts
from commcli.remote.onnode.step import StepFailed
from commcli.remote.steps import facts as step
from tests.remote.test_steps import place

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 198.51.100.0
        /24 link UNICAST
     |-- 198.51.100.7
        /32 host LOCAL
     |-- 198.51.100.255
        /32 link BROADCAST
Local:
     |-- 198.51.100.7
        /32 host LOCAL
     |-- 203.0.113.9
        /32 host LOCAL
"""
IF_INET6 = """\
20010db8000000000000000000000007 02 40 00 80     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 04 40 00 82     eth1
"""
FAMILIES = [
    ({"ID": "debian"}, "debian"),
    ({"ID": "ubuntu", "ID_LIKE": "debian"}, "debian"),
    ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "rhel"),
    ({"ID": "fedora"}, "rhel"),
    ({"ID": "raspbian", "ID_LIKE": "debian"}, "debian"),
    ({"ID": "nixos"}, "nixos"),
    ({}, None),
]


def test_addresses() -> None:
    assert facts.addresses4(TRIE) == ["198.51.100.7", "203.0.113.9"]
    assert facts.addresses6(IF_INET6) == ["2001:db8::7", "fd00::2"]
    assert facts.addresses4("") == facts.addresses6("broken") == []


@pytest.mark.parametrize(("release", "family"), FAMILIES)
def test_families(release: dict[str, str], family: str | None) -> None:
    assert facts.family(release) == family


def test_disks_are_those_of_this_node(tmp_path: Path) -> None:
    spaced = tmp_path / "with space"
    spaced.mkdir()
    (tmp_path / "file").write_text("")
    mounts = (
        f"/dev/vda1 {str(spaced).replace(' ', chr(92) + '040')} ext4 rw 0 0\n/dev/vdb {tmp_path}/file ext4 rw 0 0\n"
        f"server:/export {tmp_path} nfs rw 0 0\n/dev/vdc /nowhere/at/all ext4 rw 0 0\n\n"
    )
    assert list(facts.disks(mounts)) == [str(spaced)]


def test_all_facts_are_told_and_none_takes_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    found = facts.gather("/nowhere/yet")
    assert json.loads(json.dumps(found)) == found
    assert found["base"] == "/nowhere/yet" and found["uid"] == os.getuid() and found["disk_free_mb"] >= 0
    assert found["disks"]["/"]["size_mb"] > 0 and found["uptime_s"] > 0


def test_paths_are_asked_about_and_kept(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "f").chmod(0o640)
    (tmp_path / "l").symlink_to("f")
    before = {"base": str(tmp_path), "paths": {"/earlier": {"kind": "file"}}, "systemd": False}
    asked = {"paths": [str(tmp_path / name) for name in ("f", "l", "none", ".")], "units": ["ssh.service"]}
    found = step.check(asked, place(facts=before)).result
    paths = {path.rpartition("/")[2]: told for path, told in found["paths"].items()}
    assert (paths["f"]["kind"], paths["f"]["mode"], paths["f"]["size"]) == ("file", "0640", 1)
    assert (paths["l"]["kind"], paths["l"]["target"]) == ("link", "f")
    assert paths["none"] == {"kind": None} and paths[tmp_path.name]["kind"] == "directory"
    assert paths["earlier"] == {"kind": "file"} and found["units"] == {"ssh.service": "unknown"}


def test_a_path_that_can_not_be_asked_about_fails(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(StepFailed, match="not a directory"):
        step.check({"paths": [f"{tmp_path}/f/inside"]}, place(facts={"base": "/"}))
