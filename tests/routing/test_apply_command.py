"""`commcli route apply` and `rollback` as they are typed: SSH, three real relays, real signatures, exit
codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.process.control import ask
from commcli.remote import zipapp
from commcli.store.sqlite import Store
from tests.remote import asyncserver
from tests.remote.sshd import Host
from tests.routing.live import make_keys, relay, write_node
from tests.routing.worlds import window

ROOT = Path(__file__).parents[2]
NODES = {"ae-1": "dxb", "kr-1": "sel", "sg-1": "sgp"}
RTT_MS = {("ae-1", "kr-1"): 396.0, ("ae-1", "sg-1"): 83.0, ("kr-1", "sg-1"): 120.0}
BY_SG = ["ae-1", "sg-1", "kr-1"]
REGIONS = """\
regions:
  dxb: {city: Dubai, country: ae, continent: asia}
  sel: {city: Seoul, country: kr, continent: asia}
  sgp: {city: Singapore, country: sg, continent: asia}
"""
ZONE = "zones:\n  not-sg: {between: [[ae], [kr]], forbid: [sg], reason: a contract}\n"


@dataclass(frozen=True)
class Ended:
    """A command's end."""

    code: int | None
    out: str
    err: str

    @property
    def doc(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document


@dataclass(frozen=True)
class Desk:
    """An operator's desk: inventory, state, and three nodes behind one SSH server."""

    folder: Path
    keys: Path

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory"

    def base(self, node: str) -> Path:
        return self.folder / "nodes" / node

    def store(self) -> Store:
        return Store(self.folder / "state/commcli.sqlite3")

    def furnish(self, host: Host) -> None:
        """Write the inventory, the nodes' files, and a fresh round of the mesh."""
        self.inventory.mkdir()
        target = f"{{host: 127.0.0.1, port: {host.port}, python: {sys.executable}}}"
        nodes = "".join(
            f"  {node}: {{region: {region}, address: 127.9.0.{n}, base: {self.base(node)}, ssh: {target}}}\n"
            for n, (node, region) in enumerate(NODES.items(), 1)
        )
        texts = {
            "fleet": f"name: three\nrealm: test\nsecrets: {{}}\n"
            f"ssh: {{known_hosts: {host.known_hosts}, identities: [{host.key}], agent: false}}\n"
            f"signing: {{key: {self.keys}/ours, signers: {self.keys}/signers}}\n",
            "nodes": f"defaults:\n  ssh: {{user: ops}}\nnodes:\n{nodes}",
            "regions": REGIONS,
            "markets": "markets:\n" + "".join(f"  {n[:2]}: {{name: {n}, edges: [{n}]}}\n" for n in NODES),
            "zones": "zones: {}\n",
        }
        for name, text in texts.items():
            (self.inventory / f"{name}.yaml").write_text(text)
        self.measure(RTT_MS, age_s=30)

    def measure(self, rtt_ms: Mapping[tuple[str, str], float | None], *, age_s: int, rounds: int = 5) -> None:
        """Put the newest rounds of the mesh into the store; None is an edge that loses everything."""
        now = int(time.time())
        with self.store() as store:
            for (a, b), rtt in rtt_ms.items():
                for node, peer in ((a, b), (b, a)):
                    lost = 1.0 if rtt is None else 0.0
                    starts = [now - age_s - n for n in range(rounds)]
                    rows = [window(node, peer, rtt, start=start, loss=lost) for start in starts]
                    store.record_mesh(node, rows)

    async def start(self, *words: str, stdin: int = asyncio.subprocess.DEVNULL) -> asyncio.subprocess.Process:
        environment = {
            "PATH": os.environ["PATH"],
            "COMMCLI_INVENTORY": str(self.inventory),
            "COMMCLI_STATE": str(self.folder / "state"),
        }
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "commcli", "route", *words),
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=ROOT,
        )

    async def run(self, *words: str, stdin: int = asyncio.subprocess.DEVNULL) -> Ended:
        process = await self.start(*words, stdin=stdin)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Ended(process.returncode, out.decode(), err.decode())

    def loaded(self) -> dict[str, int | None]:
        """What each relay says that it has in force."""
        return {
            node: ask(self.base(node) / "run/control.sock", {"cmd": "status"})["table"]["serial"]
            for node in NODES
        }

    def distrust(self, node: str) -> None:
        """Make `node` refuse every table that we sign."""
        (self.base(node) / "etc/allowed_signers").write_text((self.keys / "theirs.pub").read_text())

    def statuses(self) -> list[tuple[int, str]]:
        with self.store() as store:
            return [(row["serial"], row["status"]) for row in store.tables()]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "keys").mkdir()
    desk, program = Desk(tmp_path, make_keys(tmp_path / "keys")), zipapp.build()
    async with asyncserver.serve(tmp_path / "ssh") as server:
        desk.furnish(server.host)
        with ExitStack() as relays:
            for node in NODES:
                write_node(desk.base(node), desk.keys, node)
                (desk.base(node) / "lib").mkdir()
                (desk.base(node) / "lib/relay.pyz").write_bytes(program)
                relays.enter_context(relay(desk.base(node)))
            yield desk


async def test_publish_repeat_zone_and_back(desk: Desk) -> None:
    first = await desk.run("apply", "--yes", "--json", "--reason", "INC-1")
    assert (first.code, first.err) == (0, "")
    assert (first.doc["result"], first.doc["serial"], first.doc["canary"]) == ("published", 1, "ae-1")
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    assert desk.statuses() == [(1, "published")]

    again = await desk.run("apply", "--yes")
    assert again.code == 0
    assert "every relay that answers has table 1; nothing to do" in again.out
    assert (await desk.run("apply", "--yes", "--quiet")).out == ""
    assert desk.statuses() == [(1, "published")]

    (desk.inventory / "zones.yaml").write_text(ZONE)
    refused = await desk.run("rollback", "1", "--yes")
    assert (refused.code, refused.out) == (5, "")
    assert "table 1 breaks zone not-sg of today" in refused.err
    zoned = await desk.run("apply", "--yes", "--json", "--canary", "sg-1")
    assert (zoned.code, zoned.doc["serial"], zoned.doc["nodes"][0]["node"]) == (0, 2, "sg-1")
    assert {tuple(row["after"]) for row in zoned.doc["plan"]["changes"]} == {
        ("ae-1", "kr-1"),
        ("kr-1", "ae-1"),
    }

    (desk.inventory / "zones.yaml").write_text("zones: {}\n")
    back = await desk.run("rollback", "--yes", "--json")
    assert (back.code, back.doc["result"], back.doc["serial"]) == (0, "published", 3)
    assert desk.loaded() == dict.fromkeys(NODES, 3)
    shard = json.loads((desk.base("ae-1") / "table/current/shard.json").read_text())
    assert shard["routes"]["kr-1"]["primary"] == BY_SG

    with desk.store() as store:
        told = [(row["command"], row["result"], row["reason"]) for row in store.audits()]
    assert told == [
        ("route rollback", "published", None),
        ("route apply", "published", None),
        ("route apply", "published", "INC-1"),
    ]


async def test_a_canary_that_refuses_stops_it(desk: Desk) -> None:
    desk.distrust("ae-1")
    ended = await desk.run("apply", "--yes")
    assert ended.code == 6
    assert "table 1 stopped: canary ae-1: refused: relay refused the table: signature" in ended.out
    assert desk.loaded() == dict.fromkeys(NODES, None)
    assert desk.statuses() == [(1, "rolled-back")]


async def test_a_refusal_in_a_wave_brings_the_former_routes_back(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    desk.distrust("sg-1")
    # The direct path is good again: a plan that changes something.
    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    ended = await desk.run("apply", "--yes", "--json")
    assert (ended.code, ended.doc["result"], ended.doc["rollback"]["serial"]) == (6, "rolled-back", 3)
    assert desk.loaded() == {"ae-1": 3, "kr-1": 3, "sg-1": 1}
    shard = json.loads((desk.base("ae-1") / "table/current/shard.json").read_text())
    assert shard["routes"]["kr-1"]["primary"] == BY_SG
    assert desk.statuses() == [(3, "published"), (2, "rolled-back"), (1, "published")]


async def test_a_node_without_a_relay_is_told_and_skipped(desk: Desk) -> None:
    for path in (desk.base("sg-1") / "run").iterdir():
        path.unlink()
    ended = await desk.run("apply", "--yes", "--json")
    assert (ended.code, ended.doc["result"]) == (1, "partial")
    states = {row["node"]: row["state"] for row in ended.doc["nodes"]}
    assert states == {"ae-1": "done", "kr-1": "done", "sg-1": "failed"}


async def test_a_key_that_nodes_do_not_know_is_refused_before_any_push(desk: Desk) -> None:
    text = (desk.inventory / "fleet.yaml").read_text()
    (desk.inventory / "fleet.yaml").write_text(text.replace("/ours", "/theirs"))
    ended = await desk.run("apply", "--yes")
    assert (ended.code, ended.out) == (5, "")
    assert "table 1 refused before any push: signature" in ended.err
    assert desk.statuses() == []


async def test_without_a_terminal_and_without_yes_nothing_happens(desk: Desk) -> None:
    ended = await desk.run("apply")
    assert (ended.code, ended.out) == (2, "")
    assert "add --yes" in ended.err
    assert desk.loaded() == dict.fromkeys(NODES, None)


@pytest.mark.parametrize(
    ("production", "typed", "code"),
    [("false", "n", 1), ("false", "y", 0), ("true", "y", 1)],
)
async def test_at_a_terminal_it_asks_in_proportion(
    desk: Desk, production: str, typed: str, code: int
) -> None:
    with (desk.inventory / "fleet.yaml").open("a") as file:
        file.write(f"production: {production}\n")
    if production == "true":
        # A production fleet may not stand on loopback; nothing is sent to these, because `y` is not its name.
        nodes = desk.inventory / "nodes.yaml"
        nodes.write_text(nodes.read_text().replace("127.9.0.", "192.0.2."))
    ours, theirs = os.openpty()
    try:
        os.write(ours, typed.encode() + b"\n")
        ended = await desk.run("apply", "--json", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.code == code
    assert "ae-1 > sg-1 > kr-1" in ended.err, "what will change is shown before the question"
    assert ("publish to 3 nodes, PRODUCTION fleet three" in ended.err) == (production == "true")
    assert desk.loaded() == dict.fromkeys(NODES, None if code else 1)


async def test_a_silent_mesh_keeps_the_table(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    desk.measure({("ae-1", "kr-1"): None, ("kr-1", "sg-1"): None}, age_s=12)
    ended = await desk.run("apply", "--yes")
    assert ended.code == 5
    assert "67% of the routed pairs are no longer measured: the table in force stays" in ended.err
    assert (await desk.run("apply", "--yes", "--force")).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_a_rollout_that_is_broken_off_is_safe_to_leave_and_to_repeat(
    desk: Desk, number: signal.Signals
) -> None:
    process = await desk.start("apply", "--yes")
    for _ in range(400):
        if desk.statuses() == [(1, "publishing")]:
            break
        await asyncio.sleep(0.02)
    assert desk.statuses() == [(1, "publishing")], "ended before it could be broken off"
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), 30)
    (serial, status), *_ = desk.statuses()
    assert (serial, status) == (1, "interrupted" if number == signal.SIGINT else "publishing")
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    plan = await desk.run("plan", "--json")
    assert (plan.doc["unfinished"], plan.doc["in_force"]) == ([1], None)
    ended = await desk.run("apply", "--yes", "--json")
    assert ended.code == 0
    assert len(set(desk.loaded().values())) == 1
