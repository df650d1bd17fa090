"""`commcli key` on real relays behind a real OpenSSH server: a whole change of keys, and one that stops half-way."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from commcli.fleet.model import Fleet
from tests.remote.sshd import Host
from tests.remote.test_play_command import Desk, Ended
from tests.remote.test_relay_playbook import MASTER, TURN, changes, fleet, provision, stopped

NEW = "fedcba9876543210" * 4
assert fleet  # a fixture: two nodes whose relays are stopped at the end


@dataclass(frozen=True)
class KeyDesk(Desk):
    """An operator's desk for the two nodes of `fleet`."""

    fleet: Fleet

    def write(self, **secrets: str) -> None:
        """The inventory, with these secrets in files beside it."""
        folder = self.folder / "inventory"
        self.write_inventory()
        places = {"turn": TURN, **secrets}
        for name, secret in places.items():
            (self.folder / name).write_text(secret + "\n")
        named = ", ".join(f"{name}: {{file: ../{name}}}" for name in places)
        text = (folder / "fleet.yaml").read_text()
        (folder / "fleet.yaml").write_text(re.sub(r"secrets: .*", f"secrets: {{{named}}}", text))
        rows = "".join(
            f"  {node.id}:\n    region: sgp\n    address: {node.address}\n    base: {node.base}\n"
            f"    ssh: {{host: 127.0.0.1, port: {node.ssh.port}, user: {node.ssh.user}, python: {node.ssh.python}}}\n"
            for node in self.fleet.nodes.values()
        )
        (folder / "nodes.yaml").write_text("nodes:\n" + rows)

    async def key(self, *words: str) -> Ended:
        return await self.type(*words, "--json", noun="key")

    def sends(self, node: str) -> str:
        """The key with which this node sends to the other one, as its file says."""
        peers = json.loads((Path(self.fleet.nodes[node].base) / "etc/peers.json").read_text())["peers"]
        [row] = peers.values()
        return str(row["keys"][0])


@pytest.fixture
async def desk(fleet: Fleet, host: Host, tmp_path: Path) -> KeyDesk:
    desk = KeyDesk(tmp_path, host, fleet)
    changes(await provision(fleet))
    return desk


async def test_a_whole_change_of_keys(desk: KeyDesk) -> None:
    old = desk.sends("sg-1")
    desk.write(overlay=MASTER, overlay_next=NEW)
    before = await desk.key("show")
    assert (before.code, before.doc["nodes"][0]["sends"]) == (1, ["overlay"])
    foreseen = await desk.key("rotate", "--check")
    assert [step["step"] for step in foreseen.doc["steps"]] == ["accept"] and desk.sends("sg-1") == old

    first = await desk.key("rotate", "--yes")
    assert (first.code, first.doc["troubles"]) == (0, [])
    assert [(step["step"], step["done"]) for step in first.doc["steps"]] == [("accept", True), ("send", True)]
    assert "overlay_next" in first.doc["next"]
    assert desk.sends("sg-1") == desk.sends("de-1") != old
    shown = await desk.key("show")
    assert shown.code == 0
    assert [(row["sends"], row["accepts"]) for row in shown.doc["nodes"]] == [
        (["overlay_next"], ["overlay", "overlay_next"])
    ] * 2

    desk.write(overlay=NEW)
    second = await desk.key("rotate", "--yes")
    assert [step["step"] for step in second.doc["steps"]] == ["retire"] and second.doc["next"] is None
    for node in desk.fleet.nodes.values():
        file = Path(node.base) / "etc/peers.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and old not in file.read_text()
    idle = await desk.key("rotate", "--yes")
    assert (idle.code, idle.doc["steps"]) == (0, [])
    told = first.out + first.err + second.out + shown.out + shown.err
    assert not any(secret in told for secret in (MASTER, NEW, old, desk.sends("sg-1")))


async def test_a_relay_that_is_down_keeps_everybody_at_the_old_key(desk: KeyDesk) -> None:
    old = desk.sends("sg-1")
    desk.write(overlay=MASTER, overlay_next=NEW)
    await stopped(Path(desk.fleet.nodes["de-1"].base))
    ended = await desk.key("rotate", "--yes")
    assert (ended.code, ended.doc["steps"]) == (1, [])
    assert [row["node"] for row in ended.doc["troubles"]] == ["de-1"]
    assert desk.sends("sg-1") == old
    without = await desk.key("rotate", "--yes", "--leave-out", "de-1")
    assert (without.code, without.doc["left_out"]) == (0, ["de-1"])
    assert desk.sends("sg-1") != old == desk.sends("de-1")


async def test_the_old_secret_must_be_named(desk: KeyDesk) -> None:
    old = desk.sends("sg-1")
    desk.write(overlay=NEW)
    ended = await desk.key("rotate", "--yes")
    assert (ended.code, ended.doc["error"]["kind"]) == (5, "refused")
    assert desk.sends("sg-1") == old
