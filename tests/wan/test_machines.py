"""Plays on bare machines across the globe: real OpenSSH, certified host keys, a jump host, root and sudo users."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

from tests.relay.tables_on_disk import Signer, shard
from tests.wan.globe import BASE, FAR, PASSWORD, Place, other_row, wait_for
from tests.wan.ownership import must_be_its_users, of_the_relay, owned, running

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

    root = place.machines.root("ae-1")  # where systemd lets the relay do little
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
        log = "evidence/journal" if place.machines.has_systemd(node) else "log/relay.log"
        assert b"relay_started" in found[log]
        assert not any(
            secret in data for data in found.values() for secret in (b"master key", PASSWORD.encode())
        )
        assert not (place.machines.root(node) / "opt/commcli/evidence").exists()
    place.play("playbooks/remove.yml", some, "--yes")
    for node in some.split(","):
        assert of_the_relay(place.machines.root(node)) is None
        assert {path.name for path in (place.machines.root(node) / "opt/commcli").iterdir()} == {
            "runs",
            "plays",
        }


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
