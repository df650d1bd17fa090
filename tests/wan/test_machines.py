"""Plays on bare machines across the globe: real OpenSSH, certified host keys, a jump host, root and sudo users."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

from tests.wan.globe import FAR, PASSWORD, Place

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
