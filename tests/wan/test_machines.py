"""Plays on bare machines across the globe: real OpenSSH, certified host keys, a jump host, root and sudo users."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.remote import sshd
from tests.wan.desk import Desk
from tests.wan.machines import Login, Machines
from tests.wan.wan import Wan, wan_or_skip
from tests.wan.weather import Weather

DESK, BASTION = "desk", "bastion"
# One way, from the desk, in ms.
FAR = {"de-1": 5, "ae-1": 30, "in-1": 35, "sg-1": 45, "jp-1": 60, "us-1": 25, "br-1": 50, "kr-1": 60}
# Two are no root: sudo asks the one for a password, the other not.
PASSWORD = "the ops' own password"
LOGINS = {"in-1": Login("ops", PASSWORD), "kr-1": Login("ops")}
BEHIND = ("br-1", "kr-1")  # the bastion: the desk has no way there
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
    told = {"region": "lab", "address": ADDRESSES[node], "base": "/opt/commcli", "ssh": ssh}
    # JSON is YAML.
    return f"  {node}: {json.dumps({**told, 'variables': {'allow_peers': ['10.77.0.0/16']}})}\n"


def test_a_bare_host_becomes_a_serving_relay_and_stays_one(place: Place) -> None:
    rows = place.play("playbooks/relay.yml", "--yes")
    assert {node: row["state"] for node, row in rows.items()} == dict.fromkeys(FAR, "done")
    assert all(row["changed"] for row in rows.values())
    again = place.play("playbooks/relay.yml", "--yes")
    assert {node: row["changed"] for node, row in again.items()} == dict.fromkeys(FAR, 0)
    health = place.desk.document("health", "check")
    # They serve, without a table yet.
    assert (health["exit_code"], {row["node"] for row in health["nodes"]}) == (0, set(FAR))


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
