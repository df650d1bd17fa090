"""The node's side for real: the streamed program, a relay process, stock ssh-keygen; only SSH itself is
missing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commcli.errors import Refused
from commcli.fleet import Fleet, Node, Signing
from commcli.relay.process.control import ask
from commcli.remote.outcome import Unreachable
from commcli.remote.sshsig import sign
from commcli.routing import table as tables
from commcli.routing.publish import Package, SshNodes, prepare
from commcli.routing.table import Table
from tests.probe.local import LocalConnection
from tests.routing.fleets import zone
from tests.routing.live import make_keys, relay, write_node
from tests.routing.worlds import decision, small_fleet

NODE = "ae-1"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ours` may sign tables, `theirs` may not."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
async def nodes() -> AsyncIterator[SshNodes]:
    """The product's node side, with a local shell for a connection."""
    connections: list[LocalConnection] = []

    async def connect(_node: Node) -> object:
        connections.append(LocalConnection())
        return connections[-1].as_connection()

    yield SshNodes(connect)  # type: ignore[arg-type]  # looks like a Connection
    for connection in connections:
        await connection.end()


def node_at(base: Path) -> Node:
    node = small_fleet().nodes[NODE]
    return dataclasses.replace(node, base=str(base), ssh=dataclasses.replace(node.ssh, python=sys.executable))


def fresh(table: Table, serial: int, created: float | None = None) -> Table:
    return tables.under_serial(table, serial, int(time.time() if created is None else created))


def signed(table: Table, keys: Path, key: str = "ours") -> Package:
    """Signed past every check of ours, as somebody with a key could."""
    encoded = tables.encode(table)
    return Package(
        table.serial,
        encoded.manifest,
        sign(encoded.manifest, keys / key, False, tables.NAMESPACE),
        encoded.shards,
    )


def fleet_with(keys: Path) -> Fleet:
    return small_fleet(signing=Signing(signers=keys / "signers", key=keys / "ours"))


def in_force(control: Path) -> tuple[int | None, str | None]:
    status = ask(control, {"cmd": "status"})
    return status["table"]["serial"], status["table"]["refused"]


async def refused(nodes: SshNodes, node: Node, package: Package) -> str:
    with pytest.raises(Refused) as caught:
        await nodes.install(node, package)
    return str(caught.value)


async def until_reread(control: Path) -> tuple[int | None, str | None]:
    """The relay's word once it has read its table again after a refusal."""
    for _ in range(200):
        if (found := in_force(control))[1] is None:
            return found
        await asyncio.sleep(0.05)
    return in_force(control)


async def test_a_relay_takes_good_tables_and_keeps_them_from_bad_ones(
    tmp_path: Path, keys: Path, nodes: SshNodes
) -> None:
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    node, good = node_at(base), decision().table
    with relay(base) as control:
        made = prepare(
            fresh(good, 5),
            fleet_with(keys),
            lambda data: sign(data, keys / "ours", False, tables.NAMESPACE),
            now_unix=time.time(),
            highest_serial=0,
        )
        assert await nodes.stage(node, made) == 5
        assert in_force(control) == (None, None), "it waits"
        assert ask(control, {"cmd": "status"})["table"]["staged"] == 5
        assert await nodes.install(node, made) == 5
        assert in_force(control) == (5, None)
        assert ask(control, {"cmd": "status"})["table"]["staged"] is None
        assert await nodes.install(node, made) == 5, "pushing again is safe"

        assert "signature" in await refused(nodes, node, signed(fresh(good, 6), keys, "theirs"))
        assert "serial" in await refused(nodes, node, signed(fresh(good, 4), keys))
        assert "expired" in await refused(nodes, node, signed(fresh(good, 6, 0), keys))
        bound = tables.under_policy(good, decision([zone("z", "ae", "kr", forbid=["sg"])]).policy)
        assert "zone" in await refused(nodes, node, signed(fresh(bound, 6), keys))

        assert await until_reread(control) == (5, None)
        assert sorted(p.name for p in (base / "table").iterdir()) == ["5", "current"]
        assert await nodes.install(node, signed(fresh(good, 6), keys)) == 6


async def test_a_staged_table_that_is_gone_is_sent_again(tmp_path: Path, keys: Path, nodes: SshNodes) -> None:
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    made = signed(fresh(decision().table, 5), keys)
    with relay(base) as control:
        await nodes.stage(node_at(base), made)
        shutil.rmtree(base / "table" / "5")
        assert await nodes.install(node_at(base), made) == 5
        assert in_force(control) == (5, None)


async def test_without_a_relay_the_node_is_out_of_reach_and_untouched(
    tmp_path: Path, keys: Path, nodes: SshNodes
) -> None:
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    with pytest.raises(Unreachable, match="no relay answers"):
        await nodes.install(node_at(base), signed(fresh(decision().table, 1), keys))
    assert list((base / "table").iterdir()) == []
