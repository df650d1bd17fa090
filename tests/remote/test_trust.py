"""`commcli fleet trust`: whose keys get into known_hosts, and whose do not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.remote import knownhosts
from commcli.remote.trust import compared
from tests.remote.ops import desk_of
from tests.remote.sshd import Host, free_port, keygen
from tests.remote.test_play_command import ROOT, Desk, Ended

A, B = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5BBBB"
R = "ssh-rsa AAAAB3NzaC1yc2E="


def salt() -> bytes:
    return bytes(20)


@pytest.mark.parametrize(
    ("shows", "had", "expected", "finding"),
    [
        ([A, R], [], [], "new"),
        ([A], [A, B], [], "known"),
        ([A, R], [B, A], [], "known"),
        ([A, R], [], [knownhosts.fingerprint(R)], "new"),
        ([A, R], [A], [], "known"),
        ([A, R], [R], [knownhosts.fingerprint(A)], "known"),
        ([B, R], [A], [], "changed"),
        ([B, R], [A, R], [], "changed"),  # the first type that is known would be asked for
        ([R], [A], [], "changed"),
        ([B], [A], [knownhosts.fingerprint(A)], "strange"),
        ([A], [], [knownhosts.fingerprint(B)], "strange"),
    ],
)
def test_what_a_hosts_keys_are(shows: list[str], had: list[str], expected: list[str], finding: str) -> None:
    assert compared(shows, had, expected) == finding


def test_lines_are_added_and_taken_out_one_name_at_a_time() -> None:
    text = f"# ours\n@cert-authority *.example {A}\none,two {A}\n[one]:2222 {R}"
    assert knownhosts.keys_of(text, "one") == [A] and knownhosts.keys_of(text, "[one]:2222") == [R]
    without = knownhosts.without(text, "one")
    assert without == f"# ours\n@cert-authority *.example {A}\ntwo {A}\n[one]:2222 {R}"
    assert knownhosts.added(without, "one", [B], salt=salt) == f"{without}\none {B}\n"


def test_where_names_are_hidden_new_ones_are_too(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"one {A}\n[two]:2222 {A}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    text = knownhosts.added(path.read_text(), "[three]:2223", [B], salt=lambda: os.urandom(20))
    assert "three" not in text and knownhosts.keys_of(text, "[three]:2223") == [B]
    path.write_text(text)
    for place in ("one", "[two]:2222", "[three]:2223"):
        assert subprocess.run(["ssh-keygen", "-F", place, "-f", str(path)], capture_output=True).stdout
    assert knownhosts.keys_of(knownhosts.without(text, "[two]:2222"), "[two]:2222") == []


@pytest.fixture
def desk(host: Host, tmp_path: Path) -> Desk:
    host.known_hosts.unlink()
    return desk_of(tmp_path, host, ["a-1"])


async def answered(desk: Desk, answer: bytes, *words: str) -> Ended:
    """`commcli fleet trust` as somebody at a terminal gives this answer."""
    ours, theirs = os.openpty()
    environment = {
        "PATH": os.environ["PATH"],
        "COMMCLI_INVENTORY": str(desk.folder / "inventory"),
        "COMMCLI_STATE": str(desk.folder / "state"),
    }
    pipe = asyncio.subprocess.PIPE
    try:
        os.write(ours, answer)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "commcli", "fleet", "trust", "all", "--json", *words),
            stdin=theirs, stdout=pipe, stderr=pipe, env=environment, cwd=ROOT,
        )  # fmt: skip
        out, err = await child.communicate()
    finally:
        os.close(ours)
        os.close(theirs)
    return Ended(child.returncode, out.decode(), err.decode())


def key_of(host: Host) -> str:
    return " ".join((host.folder / "host_key.pub").read_text().split()[:2])


async def test_asked_once_then_changed(desk: Desk, host: Host, tmp_path: Path) -> None:
    place, key = f"[127.0.0.1]:{host.port}", key_of(host)
    no = await answered(desk, b"n\n")
    assert no.code == 1 and no.doc["hosts"][0]["state"] == "declined" and not host.known_hosts.exists()
    yes = await answered(desk, b"y\n", "--reason", "new")
    assert yes.code == 0 and yes.doc["hosts"][0]["state"] == "trusted"
    assert knownhosts.fingerprint(key) in yes.err and yes.err.count("[y/N]") == 1
    assert host.known_hosts.read_text() == f"{place} {key}\n"

    keygen(tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    host.known_hosts.write_text(f"near,{place} {other}\n")
    changed = await desk.type("trust", "all", "--yes", "--blindly", noun="fleet")
    assert changed.code == 5 and "a-1: changed: " in changed.out and "--replace" in changed.out
    replaced = await answered(desk, b"y\n", "--replace")
    assert replaced.code == 0 and replaced.doc["hosts"][0]["state"] == "replaced"
    assert "CHANGED" in replaced.err and knownhosts.fingerprint(other) in replaced.err
    assert host.known_hosts.read_text() == f"near {other}\n{place} {key}\n"


async def test_another_machine_behind_the_same_address_is_new(desk: Desk, host: Host, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    other = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    host.known_hosts.write_text(f"127.0.0.1 {other}\n")
    blind = await desk.type("trust", "all", "--yes", "--blindly", "--json", noun="fleet")
    assert (blind.code, blind.doc["hosts"][0]["state"]) == (0, "trusted")
    assert host.known_hosts.read_text() == f"127.0.0.1 {other}\n[127.0.0.1]:{host.port} {key_of(host)}\n"
    host.known_hosts.write_text(f"127.0.0.1 {key_of(host)}\n")
    known = await desk.type("trust", "all", "--json", noun="fleet")
    assert (known.code, known.doc["hosts"][0]["state"]) == (0, "known")


async def test_where_nobody_can_be_asked_nothing_is_trusted_blindly(desk: Desk, host: Host) -> None:
    silent = await desk.type("trust", "all", "--json", noun="fleet")
    assert silent.code == 2 and silent.doc["hosts"][0]["state"] == "new" and "--yes" in silent.err
    unsaid = await desk.type("trust", "all", "--yes", "--json", noun="fleet")
    assert unsaid.code == 5 and "host_keys" in unsaid.doc["hosts"][0]["reason"]
    assert not host.known_hosts.exists()
    blind = await desk.type("trust", "all", "--yes", "--blindly", noun="fleet")
    assert blind.code == 0 and host.known_hosts.exists()


@pytest.mark.parametrize("right", [True, False])
async def test_the_inventory_says_which_keys_are_expected(host: Host, tmp_path: Path, right: bool) -> None:
    key = key_of(host)
    expected = knownhosts.fingerprint(key if right else A)
    desk = desk_of(tmp_path, host, ["a-1"], ssh=f", host_keys: ['{expected}']")
    host.known_hosts.unlink()
    ended = await desk.type("trust", "all", "--yes", "--json", noun="fleet")
    [row] = ended.doc["hosts"]
    assert (ended.code, row["state"]) == ((0, "trusted") if right else (5, "refused"))
    assert host.known_hosts.exists() == right


async def test_a_jump_host_is_trusted_before_those_behind_it(host: Host, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, host, ["a-1", "b-1"], ssh=f", proxy_jump: '127.0.0.1:{host.port}'")
    host.known_hosts.write_text("")
    ended = await desk.type("trust", "all", "--yes", "--blindly", "--json", noun="fleet")
    rows = {row["host"]: (row["state"], row["nodes"]) for row in ended.doc["hosts"]}
    assert ended.code == 0
    assert rows[f"127.0.0.1:{host.port}"] == ("trusted", ["a-1", "b-1"])
    assert rows["a-1"][0] == rows["b-1"][0] == "known"


async def test_a_host_out_of_reach_and_a_pattern_in_the_way(host: Host, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, host, ["a-1"])
    (tmp_path / "inventory/nodes.yaml").write_text(
        (tmp_path / "inventory/nodes.yaml").read_text().replace(str(host.port), str(free_port()))
    )
    away = await desk.type("trust", "all", "--yes", "--json", noun="fleet")
    assert away.code == 4 and away.doc["hosts"][0]["reason"] == "connection refused"
    desk = desk_of(tmp_path, host, ["a-1"])
    keygen(tmp_path / "other")
    host.known_hosts.write_text(f"[127.0.0.*]:{host.port} {(tmp_path / 'other.pub').read_text()}")
    before = host.known_hosts.read_text()
    stuck = await desk.type("trust", "all", "--yes", "--blindly", "--replace", noun="fleet")
    assert stuck.code == 5 and "a pattern there believes another key" in stuck.err
    assert host.known_hosts.read_text() == before
