"""Plays on bare machines across the globe: real OpenSSH, certified host keys, a jump host, root and sudo users."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.clients.udp import MAX_DESCRIPTORS
from tests.relay.tables_on_disk import Signer, shard
from tests.remote import sshd
from tests.wan.desk import Desk
from tests.wan.machines import Login, Machines
from tests.wan.wan import Wan, wan_or_skip
from tests.wan.weather import Weather

BASE = "/opt/commcli"
DESK, BASTION = "desk", "bastion"
# One way, from the desk, in ms.
FAR = {"de-1": 5, "ae-1": 30, "in-1": 35, "sg-1": 45, "jp-1": 60, "us-1": 25, "br-1": 50, "kr-1": 60}
# Two are no root: sudo asks the one for a password, the other not.
PASSWORD = "the ops' own password"
LOGINS = {"in-1": Login("ops", PASSWORD), "kr-1": Login("ops")}
BEHIND = ("br-1", "kr-1")  # the bastion: the desk has no way there
BIND, RESOURCE = 1 << 10, 1 << 24  # capabilities(7): CAP_NET_BIND_SERVICE, CAP_SYS_RESOURCE
LOW_PORT = ("jp-1", 443)  # of one node, for which its relay needs a power of root's
ADDRESSES = {node: f"10.77.0.{number}" for number, node in enumerate([*FAR, BASTION, DESK], start=1)}
LINKS = {
    **{(DESK, node): Weather(delay_ms=far, loss=1.0 if node in BEHIND else 0.0) for node, far in FAR.items()},
    (DESK, BASTION): Weather(delay_ms=20),
    **{(BASTION, node): Weather(delay_ms=FAR[node] - 20) for node in BEHIND},
}

FLEET = """\
name: wan
production: false
realm: lab
ssh: {{known_hosts: {folder}/known_hosts, identities: [{folder}/operator], agent: false}}
signing: {{signers: {folder}/signers}}
secrets: {{turn: {{file: {folder}/turn}}, overlay: {{file: {folder}/overlay}}, sudo: {{file: {folder}/sudo}}}}
"""

PLAY = """\
name: machine
steps:
  - name: group
    group: {name: relays, system: true}
  - name: user
    user: {name: relay, group: relays, home: /var/lib/relay, shell: /usr/sbin/nologin, system: true}
  - name: folder
    directory: {path: /var/lib/relay, mode: "0750", owner: relay, group: relays}
  - name: file
    file: {path: /var/lib/relay/motd, content: "one\\ntwo\\n", mode: "0640", owner: relay, group: relays}
  - name: line
    line: {path: /etc/motd, match: "^relay ", line: "relay {{ node_id }}", create: true, mode: "0644"}
  - name: block
    block: {path: /etc/hosts, content: "192.0.2.7 seven"}
  - name: setting
    sysctl: {name: net.ipv4.ip_default_ttl, value: "63"}
  - name: package
    package: {names: [openssh-server]}
  - name: port
    wait_for: {port: "22"}
"""


@dataclass(frozen=True)
class Place:
    """Everything that runs here."""

    wan: Wan
    machines: Machines
    desk: Desk

    def play(self, *words: str, exit_code: int = 0) -> dict[str, dict[str, Any]]:
        """`play run WORDS`: the row of each node."""
        done = self.desk.commcli("play", "run", *words, "--json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        return {row["node"]: row for row in json.loads(done.stdout)["nodes"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if reason := sshd.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("machines")
    with ExitStack() as stack:
        wan = stack.enter_context(wan_or_skip(ADDRESSES, LINKS))
        logins = {node: LOGINS.get(node, Login()) for node in (*FAR, BASTION)}
        machines = stack.enter_context(Machines(wan, folder, logins))
        desk = Desk(wan, DESK, folder)
        write_inventory(desk.inventory, folder, logins)
        for node, server in machines.servers.items():
            desk.wait(node, server, machines.log(node), BASTION if node in BEHIND else None)
        yield Place(wan, machines, desk)


def write_inventory(inventory: Path, folder: Path, logins: dict[str, Login]) -> None:
    inventory.mkdir()
    for name, secret in {
        "turn": "turn's master key",
        "overlay": "overlay's master key",
        "sudo": PASSWORD,
    }.items():
        (folder / name).write_text(f"{secret}\n")
        (folder / name).chmod(0o600)
    shutil.copy(folder / "operator.pub", folder / "signers")
    nodes = "nodes:\n" + "".join(row(node, logins[node]) for node in FAR)
    files = {
        "fleet.yaml": FLEET.format(folder=folder),
        "regions.yaml": "regions:\n  lab: {city: Lab, country: sg, continent: asia}\n",
        "nodes.yaml": nodes,
        "markets.yaml": "markets: {}\n",
        "zones.yaml": "zones: {}\n",
    }
    for name, text in files.items():
        (inventory / name).write_text(text)


def row(node: str, login: Login) -> str:
    ssh: dict[str, object] = {"user": login.user, "sudo": login.user != "root"}
    if node in BEHIND:
        ssh["proxy_jump"] = f"root@{ADDRESSES[BASTION]}"
    told: dict[str, object] = {"region": "lab", "address": ADDRESSES[node], "base": BASE, "ssh": ssh}
    if node == LOW_PORT[0]:
        told["ports"] = {"turn": LOW_PORT[1]}
    # JSON is YAML.
    return f"  {node}: {json.dumps({**told, 'variables': {'allow_peers': ['10.77.0.0/16']}})}\n"


@contextlib.contextmanager
def other_row(place: Place, node: str, section: str, **words: object) -> Iterator[None]:
    """With these words in a section of the node's row in the inventory."""
    path = place.desk.inventory / "nodes.yaml"
    before = path.read_text()
    [line] = [line for line in before.splitlines() if line.startswith(f"  {node}: ")]
    told = json.loads(line.partition(": ")[2])
    told[section] = {**told[section], **words}
    path.write_text(before.replace(line, f"  {node}: {json.dumps(told)}"))
    try:
        yield
    finally:
        path.write_text(before)


@dataclass(frozen=True)
class Running:
    """The relay of a machine as its /proc tells it, its supervisor's figures being the same."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: tuple[int, ...]  # every set that it has, as bits
    new_privileges: bool
    descriptors: int
    core: int


def running(root: Path) -> Running:
    supervisor = int((root / BASE[1:] / "run/relay.pid").read_text())
    [child] = (root / f"proc/{supervisor}/task/{supervisor}/children").read_text().split()
    parent, relay = process(root, supervisor), process(root, int(child))
    assert replace(parent, pid=0) == replace(relay, pid=0)
    return relay


def process(root: Path, pid: int) -> Running:
    lines = (line.partition(":") for line in (root / f"proc/{pid}/status").read_text().splitlines())
    status = {name: value.split() for name, _, value in lines}
    limits = (root / f"proc/{pid}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits[1:]}
    [uid], [gid] = ({*map(int, status[name])} for name in ("Uid", "Gid"))
    sets = {int(status[f"Cap{kind}"][0], 16) for kind in ("Eff", "Prm", "Inh", "Amb", "Bnd")}
    return Running(
        pid,
        uid,
        gid,
        tuple(map(int, status["Groups"])),
        tuple(sorted(sets)),
        status["NoNewPrivs"] == ["0"],
        int(soft["Max open files"]),
        int(soft["Max core file size"]),
    )


def most_descriptors() -> int:
    """What a relay that root starts here may open: not even root may raise the limit where it lacks the power to."""
    raises = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16) & RESOURCE
    return MAX_DESCRIPTORS if raises else min(MAX_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def of_the_relay(root: Path) -> tuple[int, int] | None:
    """The numbers of its user and group on a machine, None where there is neither."""
    found = {}
    for name in ("passwd", "group"):
        for line in (root / "etc" / name).read_text().splitlines():
            if line.startswith("commcli-relay:"):
                found[name] = int(line.split(":")[2])
    assert len(found) in (0, 2)
    return (found["passwd"], found["group"]) if found else None


def owned(path: Path) -> tuple[int, int, int]:
    """User, group and mode of what is there itself."""
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def must_be_its_users(root: Path) -> Running:
    """The relay runs as its own user, with what is its own, and none of the rest. Returns what runs."""
    who, base = of_the_relay(root), root / BASE[1:]
    assert who is not None and 0 not in who
    relay = running(root)
    assert relay == Running(relay.pid, *who, (who[1],), (BIND,), False, most_descriptors(), 0)
    secrets = [base / "etc" / name for name in ("turn.secret", "peers.json")]
    assert {path.name: owned(path) for path in secrets} == {path.name: (*who, 0o600) for path in secrets}
    assert owned(base / "etc") == (0, who[1], 0o750)
    assert [owned(base / name) for name in ("lib", "table")] == [(0, 0, 0o755)] * 2
    assert [owned(base / "etc" / name) for name in ("relay.json", "allowed_signers")] == [(0, 0, 0o644)] * 2
    assert owned(base / "runs") == (0, 0, 0o700)
    for name, mode in (("etc/tls", 0o700), ("state", 0o700), ("run", 0o750), ("log", 0o750)):
        assert owned(base / name) == (*who, mode)
        assert {owned(path)[:2] for path in (base / name).rglob("*")} <= {who}
    return relay


def wait_for(done: Callable[[], bool]) -> None:
    """Until another process has done what it is to do."""
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_bare_host_becomes_a_serving_relay_and_stays_one(place: Place) -> None:
    rows = place.play("playbooks/relay.yml", "--yes")
    assert {node: row["state"] for node, row in rows.items()} == dict.fromkeys(FAR, "done")
    assert all(row["changed"] for row in rows.values())
    before = {node: must_be_its_users(place.machines.root(node)) for node in FAR}
    again = place.play("playbooks/relay.yml", "--yes")
    assert {node: row["changed"] for node, row in again.items()} == dict.fromkeys(FAR, 0)
    assert {node: must_be_its_users(place.machines.root(node)) for node in FAR} == before
    health = place.desk.document("health", "check")
    # They serve, without a table yet.
    assert (health["exit_code"], {row["node"] for row in health["nodes"]}) == (0, set(FAR))


def test_new_keys_a_table_and_a_new_program_come_to_a_relay_that_is_not_root(place: Place) -> None:
    overlay = place.desk.inventory.parent / "overlay"
    before = overlay.read_text()
    overlay.write_text(f"{before}another master key\n")
    try:
        # It ends well only where the relay has read them.
        assert all(row["changed"] for row in place.play("playbooks/rotate-keys.yml", "--yes").values())
    finally:
        overlay.write_text(before)
    assert all(row["changed"] for row in place.play("playbooks/rotate-keys.yml", "--yes").values())

    root = place.machines.root("ae-1")
    Signer(root / BASE[1:]).push(shard(7, expires="2099-01-01T00:00:00Z"))
    wait_for((root / BASE[1:] / "state/serial").exists)
    assert (root / BASE[1:] / "state/serial").read_text() == "7\n"

    some = ("de-1", "in-1", "jp-1", "kr-1")
    relays = {node: must_be_its_users(place.machines.root(node)) for node in some}
    for node in some:
        with zipfile.ZipFile(place.machines.root(node) / BASE[1:] / "lib/relay.pyz", "a") as program:
            program.comment = b"one of before"
    upgraded = place.play("playbooks/upgrade.yml", ",".join(some), "--yes")
    assert all(row["changed"] == 2 for row in upgraded.values())
    after = {node: must_be_its_users(place.machines.root(node)) for node in some}
    assert all(after[node].pid != relays[node].pid for node in some)
    again = place.play("playbooks/relay.yml", ",".join(some), "--yes")
    assert {node: row["changed"] for node, row in again.items()} == dict.fromkeys(some, 0)


def test_a_relay_that_ran_as_root_is_restarted_as_its_user_once(place: Place) -> None:
    root = place.machines.root("us-1")
    base = root / BASE[1:]
    place.play("playbooks/remove.yml", "us-1", "--yes")
    assert of_the_relay(root) is None
    with other_row(place, "us-1", "variables", systemd=False):  # as it was before there was a user
        place.play("playbooks/relay.yml", "us-1", "--yes")
    assert running(root).uid == 0 and of_the_relay(root) is None
    (base / "etc/turn.users").write_text("alice:key\n")
    (base / "log/away").symlink_to("/etc/motd")
    motd = owned(root / "etc/motd")

    looked = place.play("playbooks/relay.yml", "us-1", "--check")["us-1"]
    told = {step["name"]: step["text"] for step in looked["steps"] if step["state"] == "changed"}
    assert [text for text in told.values() if "2 below it" in text], looked["steps"]
    assert owned(base / "log")[0] == 0
    place.play("playbooks/relay.yml", "us-1", "--yes")
    relay = must_be_its_users(root)
    assert owned(base / "etc/turn.users")[0] == relay.uid
    assert owned(base / "log/away")[0] == relay.uid and owned(root / "etc/motd") == motd
    again = place.play("playbooks/relay.yml", "us-1", "--yes")["us-1"]
    assert (again["changed"], must_be_its_users(root)) == (0, relay)


def test_a_python_for_root_alone_is_told_before_anything_is_changed(place: Place) -> None:
    root = place.machines.root("de-1")
    (root / "own").mkdir(0o700)
    shutil.copy(root / "usr/bin/python3", root / "own/python3")
    before = must_be_its_users(root)
    with other_row(place, "de-1", "ssh", python="/own/python3"):
        document = place.desk.document("play", "run", "playbooks/relay.yml", "de-1", "--yes")
    [told] = document["nodes"]
    assert (told["state"], told["changed"]) == ("failed", 0)
    assert "user commcli-relay may not run /own/python3: name a python for all users" in told["reason"]
    assert must_be_its_users(root) == before


def test_evidence_comes_without_a_secret_and_a_relay_leaves(place: Place, tmp_path: Path) -> None:
    some = "in-1,kr-1"  # sudo with a password and without, one of them behind the bastion
    shutil.copy("playbooks/collect.sh", tmp_path)
    text = Path("playbooks/collect.yml").read_text().replace("to: evidence", f"to: {tmp_path}")
    (tmp_path / "collect.yml").write_text(text)
    for node in place.play(str(tmp_path / "collect.yml"), some, "--yes"):
        with tarfile.open(tmp_path / node / "evidence.tar.gz") as tar:
            found = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
        assert json.loads(found["evidence/status.json"])["node"] == node
        assert not any(
            secret in data for data in found.values() for secret in (b"master key", PASSWORD.encode())
        )
        assert not (place.machines.root(node) / "opt/commcli/evidence").exists()
    place.play("playbooks/remove.yml", some, "--yes")
    for node in some.split(","):
        assert of_the_relay(place.machines.root(node)) is None
        assert [path.name for path in (place.machines.root(node) / "opt/commcli").iterdir()] == ["runs"]


def test_users_files_and_settings_are_the_machines_own(place: Place, tmp_path: Path) -> None:
    (tmp_path / "machine.yml").write_text(PLAY)
    looked = place.play(str(tmp_path / "machine.yml"), "de-1,in-1,kr-1", "--check")
    rows = place.play(str(tmp_path / "machine.yml"), "de-1,in-1,kr-1", "--yes")
    assert {node: row["changed"] for node, row in rows.items()} == dict.fromkeys(rows, 7)
    assert all(row["changed"] >= 5 for row in looked.values())
    for node in rows:
        root = place.machines.root(node)
        passwd = {
            line.split(":")[0]: line.split(":") for line in (root / "etc/passwd").read_text().splitlines()
        }
        owner = (root / "var/lib/relay/motd").stat()
        assert passwd["relay"][5:] == ["/var/lib/relay", "/usr/sbin/nologin"]
        assert owner.st_uid == int(passwd["relay"][2])
        assert (root / "var/lib/relay/motd").read_text() == "one\ntwo\n"
        assert f"relay {node}\n" in (root / "etc/motd").read_text()
        assert "192.0.2.7 seven" in (root / "etc/hosts").read_text()
    again = place.play(str(tmp_path / "machine.yml"), "de-1,in-1,kr-1", "--yes")
    assert {node: row["changed"] for node, row in again.items()} == dict.fromkeys(rows, 0)


def test_a_wrong_password_for_sudo_is_told_and_nothing_happens(place: Place) -> None:
    secret = place.desk.inventory.parent / "sudo"
    secret.write_text("not the password\n")
    try:
        document = place.desk.document("play", "run", "playbooks/relay.yml", "in-1,de-1", "--yes")
    finally:
        secret.write_text(f"{PASSWORD}\n")
    rows = {row["node"]: row for row in document["nodes"]}
    assert rows["de-1"]["state"] == "done"
    assert "sudo refused: " in rows["in-1"]["reason"] and "password" in rows["in-1"]["reason"]
    assert "not the password" not in str(document)
