"""Which table a relay holds, and its files: the node's part on folders, and with a real relay behind it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from commcli.remote.bundle import bundle, source_of
from commcli.remote.outcome import Failed
from commcli.remote.sshsig import sign
from commcli.routing import held, onnode_held
from commcli.routing import table as tables
from commcli.routing.publish import Package, SshNodes
from tests.probe.local import LocalConnection
from tests.routing.live import make_keys, relay, write_node
from tests.routing.worlds import decision, small_fleet

NODE = "ae-1"
MODULES = ("commcli.routing.onnode_held", "commcli.relay.process.control", "commcli.relay.loop")


def write(folder: Path, serial: int, shard: str = "{}") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"serial": serial}))
    (folder / "shard.json").write_text(shard)


def says(serial: int | None, refused: str | None = None) -> Callable[[str], Mapping[str, Any]]:
    return lambda _: {"ok": True, "table": {"serial": serial, "refused": refused}}


def test_the_files_are_those_of_the_serial_in_force_and_not_of_a_refused_one(tmp_path: Path) -> None:
    write(tmp_path / "table/current", 6, "refused")
    write(tmp_path / "state/good", 5, "good")
    answer = onnode_held.held(tmp_path, [], ask=says(5, "zone: x"))
    assert (answer["serial"], answer["refused"]) == (5, "zone: x")
    assert answer["files"]["shard.json"]["text"] == "good"
    shutil.rmtree(tmp_path / "state")
    write(tmp_path / "table/5", 5, "pushed")
    assert onnode_held.held(tmp_path, [], ask=says(5))["files"]["shard.json"]["text"] == "pushed"


def test_what_is_known_does_not_come_back(tmp_path: Path) -> None:
    write(tmp_path / "state/good", 5, "good")
    digest = tables.sha256(b"good")
    files = onnode_held.held(tmp_path, [digest], ask=says(5))["files"]
    assert files["shard.json"] == {"sha256": digest, "text": None}
    assert files["manifest.json"]["text"] is not None


def test_without_files_or_table_or_relay(tmp_path: Path) -> None:
    def nobody(_: str) -> Mapping[str, Any]:
        raise ConnectionRefusedError(111, "Connection refused")

    assert "nowhere" in onnode_held.held(tmp_path, [], ask=says(5))["reason"]
    assert onnode_held.held(tmp_path, [], ask=says(None))["reason"] == "no table"
    with pytest.raises(Failed, match="no relay answers"):
        held.read(NODE, onnode_held.held(tmp_path, [], ask=nobody), {})


@pytest.fixture
async def connection() -> AsyncIterator[LocalConnection]:
    local = LocalConnection()
    yield local
    await local.end()


async def test_a_real_relay_tells_what_was_pushed(tmp_path: Path, connection: LocalConnection) -> None:
    keys = make_keys(tmp_path)
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    known = small_fleet().nodes[NODE]
    node = dataclasses.replace(
        known, base=str(base), ssh=dataclasses.replace(known.ssh, python=sys.executable)
    )
    encoded = tables.encode(tables.under_serial(decision().table, 5, int(time.time())))
    signature = sign(encoded.manifest, keys / "ours", False, tables.NAMESPACE)
    program = bundle({name: source_of(name) for name in MODULES})

    async def connect(_: object) -> Any:
        return connection.as_connection()

    with relay(base):
        before = await held.ask(connection.as_connection(), node, program, {})
        assert (before.serial, before.shard, before.missing) == (None, None, "no table")
        await SshNodes(connect).install(node, Package(5, encoded.manifest, signature, encoded.shards))
        for files in ({}, held._known(encoded, NODE)):
            found = await held.ask(connection.as_connection(), node, program, files)
            assert (found.serial, found.refused) == (5, None)
            assert (found.manifest, found.shard) == (encoded.manifest, encoded.shards[NODE])


GOOD: dict[str, Any] = {"state": "held", "serial": 1, "refused": None, "files": None, "reason": "gone"}
FILES = {name: {"sha256": "x", "text": "{}"} for name in ("manifest.json", "shard.json")}


@pytest.mark.parametrize(
    "odd",
    [
        {"serial": "7"},
        {"serial": [1]},
        {"serial": True},
        {"serial": -5},
        {"serial": 10**30},
        {"files": []},
        {"files": {}},
        {"files": {**FILES, "shard.json": {"sha256": "unknown", "text": None}}},
        {"files": {**FILES, "shard.json": {"sha256": "x", "text": "\ud800"}}},
        {"files": {**FILES, "shard.json": {"sha256": "x", "text": 5}}},
    ],
)
def test_an_answer_of_another_shape_is_that_nodes_trouble_alone(odd: dict[str, Any]) -> None:
    assert held.read("sg-1", GOOD, {}).missing == "gone"
    with pytest.raises(Failed, match="of another shape"):
        held.read("sg-1", {**GOOD, **odd}, {})
