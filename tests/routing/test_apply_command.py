"""`commcli route apply` and `rollback` as they are typed: SSH, three real relays, real signatures, exit
codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
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

    def primary(self, node: str, egress: str) -> list[str]:
        """The path of the table in force on the node."""
        current = self.base(node) / "table/current"
        ids = sorted(json.loads((current / "shared.json").read_text())["nodes"])
        paths = json.loads((current / "shard.json").read_text())["routes"]["primary"]
        return next([ids[at] for at in path] for path in paths if ids[path[-1]] == egress)

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

    def allow(self, signers: str) -> None:
        """Who may sign from now on, here and on every node."""
        for path in (self.keys / "signers", *(self.base(node) / "etc/allowed_signers" for node in NODES)):
            path.write_text(signers)

    def sign_with(self, key: str) -> None:
        path = self.inventory / "fleet.yaml"
        path.write_text(path.read_text().replace(f"key: {self.keys}/ours", f"key: {self.keys}/{key}"))

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
    assert first.doc["watched"] == "it carries no calls"
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    assert desk.statuses() == [(1, "published")]

    again = await desk.run("apply", "--yes")
    assert again.code == 0
    assert "every relay that answers has table 1; nothing to do" in again.out
    assert (await desk.run("apply", "--yes", "--quiet")).out == ""
    assert desk.statuses() == [(1, "published")]

    sound = await desk.run("audit", "--json")
    assert (sound.code, sound.doc["findings"]) == (0, [])
    assert {row["on_record"] for row in sound.doc["nodes"]} == {True}

    (desk.inventory / "zones.yaml").write_text(ZONE)
    broken = await desk.run("audit", "--json")
    forbidden = {(row["node"], row["where"]) for row in broken.doc["findings"] if row["what"] == "forbidden"}
    assert broken.code == 5
    assert {("ae-1", "primary to kr-1"), ("sg-1", "carries")} <= forbidden
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
    assert desk.primary("ae-1", "kr-1") == BY_SG

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
    assert "table 1 stopped: ae-1: refused: relay refused the table: signature" in ended.out
    assert "no relay had taken it" in ended.out
    assert desk.loaded() == dict.fromkeys(NODES, None)
    assert desk.statuses() == [(1, "rolled-back")]


async def test_what_one_node_refuses_comes_into_force_nowhere(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    desk.distrust("sg-1")
    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    ended = await desk.run("apply", "--yes", "--json")
    assert (ended.code, ended.doc["result"], ended.doc["rollback"]) == (6, "rolled-back", None)
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    assert desk.statuses() == [(2, "rolled-back"), (1, "published")]


async def test_trouble_in_a_wave_brings_the_former_routes_back(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    # A folder where the link is to be: it can be handed a table, and can not go by it.
    current = desk.base("sg-1") / "table/current"
    current.unlink()
    shutil.copytree(current.with_name("1"), current)
    # The direct path is good again: a plan that changes something.
    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    ended = await desk.run("apply", "--yes", "--json")
    assert (ended.code, ended.doc["result"], ended.doc["rollback"]["serial"]) == (6, "rolled-back", 3)
    assert desk.loaded() == {"ae-1": 3, "kr-1": 3, "sg-1": 1}
    assert desk.primary("ae-1", "kr-1") == BY_SG
    assert desk.statuses() == [(3, "partial"), (2, "rolled-back"), (1, "published")], (
        "it can not go back either"
    )

    held = await desk.run("apply", "--auto", "--max-changed", "1", "--json")
    assert (held.code, [limit["limit"] for limit in held.doc["held"]]) == (1, ["stopped"])
    assert "table 2 was stopped (sg-1: failed:" in held.doc["held"][0]["reason"]


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


async def test_auto_publishes_within_its_limits_and_otherwise_gives_the_plan(desk: Desk) -> None:
    first = await desk.run("apply", "--auto")
    assert (first.code, first.err) == (1, "")
    assert "not published, nothing was changed: no table is in force by this record" in first.out
    assert "ae-1 > sg-1 > kr-1" in first.out, "the plan"
    assert (await desk.run("apply", "--yes")).code == 0

    nothing = await desk.run("apply", "--auto")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")

    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    held = await desk.run("apply", "--auto", "--json")
    assert (held.code, held.doc["result"], held.doc["serial"]) == (1, "held", 1)
    (limit,) = held.doc["held"]
    assert (limit["limit"], limit["value"], limit["most"]) == ("changed", 0.3333, 0.2)
    assert [change["after"] for change in held.doc["plan"]["changes"]] == [["ae-1", "kr-1"], ["kr-1", "ae-1"]]
    assert desk.statuses() == [(1, "published")]

    done = await desk.run("apply", "--auto", "--max-changed", "0.34", "--json")
    assert (done.code, done.doc["result"], done.doc["serial"]) == (0, "published", 2)
    assert desk.loaded() == dict.fromkeys(NODES, 2)


async def test_cron_does_not_undo_what_a_person_took_back(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    assert (await desk.run("apply", "--yes")).code == 0
    back = await desk.run("rollback", "--yes", "--reason", "INC-2", "--watch-s", "1", "--json")
    assert (back.code, back.doc["watched"]) == (0, "it carries no calls")
    by_cron = await desk.run("apply", "--auto", "--max-changed", "1", "--json")
    assert (by_cron.code, [limit["limit"] for limit in by_cron.doc["held"]]) == (1, ["rollback"])
    reason = by_cron.doc["held"][0]["reason"]
    assert reason == "table 3 went back to the routes of table 1 (INC-2): the next one is for a person"
    assert desk.loaded() == dict.fromkeys(NODES, 3)


async def test_cron_finishes_a_way_back_and_no_more(desk: Desk) -> None:
    assert (await desk.run("apply", "--yes")).code == 0
    desk.measure({("ae-1", "kr-1"): 150.0}, age_s=12)
    assert (await desk.run("apply", "--yes")).code == 0
    socket = desk.base("sg-1") / "run/control.sock"
    socket.rename(socket.with_name("away"))
    assert (await desk.run("rollback", "--yes")).code == 1
    socket.with_name("away").rename(socket)
    by_cron = await desk.run("apply", "--auto", "--json")
    assert (by_cron.code, by_cron.doc["resumed"], by_cron.doc["serial"]) == (0, True, 3)
    assert desk.loaded() == dict.fromkeys(NODES, 3)
    held = await desk.run("apply", "--auto", "--max-changed", "1", "--json")
    assert (held.code, [limit["limit"] for limit in held.doc["held"]]) == (1, ["rollback"])


async def test_the_signing_key_is_changed(desk: Desk) -> None:
    """The steps of docs/publish.md."""
    assert (await desk.run("apply", "--yes")).code == 0
    signers = desk.keys / "signers"
    old = signers.read_text()
    new = old.split("namespaces")[0] + f'namespaces="commcli-table" {(desk.keys / "theirs.pub").read_text()}'
    desk.allow(old + new)
    desk.sign_with("theirs")
    renewed = await desk.run("apply", "--yes", "--renew", "--json")
    assert (renewed.code, renewed.doc["serial"], renewed.doc["resumed"]) == (0, 2, False)
    assert renewed.doc["because"] == ["it is to be signed anew (--renew)"]
    desk.allow(new)
    assert (await desk.run("apply", "--auto")).out == ""
    assert desk.loaded() == dict.fromkeys(NODES, 2)


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
    by_cron = await desk.run("apply", "--auto", "--max-changed", "1", "--max-lost", "9", "--json")
    assert (by_cron.code, [limit["limit"] for limit in by_cron.doc["held"]]) == (1, ["vanished"])
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    ended = await desk.run("apply", "--yes")
    assert ended.code == 5
    assert "66.7% of the edges or pairs in force are no longer measured" in ended.err
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
    assert (ended.code, ended.doc["serial"], ended.doc["resumed"]) == (0, 1, True), ended.out
    assert ended.doc["because"][0].startswith("the rollout of table 1 was broken off: ")
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    assert desk.statuses() == [(1, "published")]


async def test_a_node_that_was_away_gets_the_same_table_when_it_is_back(desk: Desk) -> None:
    socket = desk.base("sg-1") / "run/control.sock"
    socket.rename(socket.with_name("away"))
    assert (await desk.run("apply", "--yes")).code == 1
    away = await desk.run("apply", "--auto")
    assert (away.code, "not asked for a table" in away.out) == (1, True)
    accepted = await desk.run("apply", "--auto", "--max-absent", "0.4")
    assert (accepted.code, accepted.out) == (0, "")

    socket.with_name("away").rename(socket)
    back = await desk.run("apply", "--auto")
    assert (back.code, back.err) == (0, "")
    assert "table 1 is not yet on sg-1" in back.out
    assert "table 1 published: 1 of 1 relays confirm it" in back.out
    assert desk.loaded() == dict.fromkeys(NODES, 1)
    assert desk.statuses() == [(1, "published")]
