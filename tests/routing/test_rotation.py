"""The key that signs tables is changed: both are valid for a while. A real relay, stock ssh-keygen."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from commcli.fleet import Fleet, Node, Signing
from commcli.relay.process.control import ask
from commcli.remote.sshsig import sign
from commcli.routing import table as tables
from commcli.routing.publish import Package, SshNodes, prepare
from tests.routing import test_ssh_nodes
from tests.routing.live import make_keys, relay, write_node
from tests.routing.test_ssh_nodes import NODE, fresh, in_force, node_at, refused, signed, until_reread
from tests.routing.worlds import decision, small_fleet

nodes = test_ssh_nodes.nodes


def line(keys: Path, name: str) -> str:
    public = (keys / f"{name}.pub").read_text()
    return f'commcli-table namespaces="commcli-table" {public}'


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    return make_keys(tmp_path / "keys")


async def test_both_keys_are_believed_until_the_old_one_is_taken_out(
    tmp_path: Path, keys: Path, nodes: SshNodes
) -> None:
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    node, table, signers = node_at(base), decision().table, base / "etc/allowed_signers"
    with relay(base) as control:
        assert await nodes.install(node, signed(fresh(table, 1), keys)) == 1
        assert "signature" in await refused(nodes, node, signed(fresh(table, 2), keys, "theirs"))

        signers.write_text(line(keys, "ours") + line(keys, "theirs"))
        assert await nodes.install(node, signed(fresh(table, 3), keys)) == 3
        assert await nodes.install(node, signed(fresh(table, 4), keys, "theirs")) == 4
        assert await nodes.install(node, signed(fresh(table, 5), keys)) == 5
        assert await nodes.install(node, signed(fresh(table, 6), keys, "theirs")) == 6

        signers.write_text(line(keys, "theirs"))
        assert "signature" in await refused(nodes, node, signed(fresh(table, 7), keys))
        assert await until_reread(control) == (6, None)
        assert await nodes.install(node, signed(fresh(table, 8), keys, "theirs")) == 8


async def test_a_table_of_a_key_that_is_out_stays_in_force_and_is_told_and_does_not_outlive_a_restart(
    tmp_path: Path, keys: Path, nodes: SshNodes
) -> None:
    base = tmp_path / "node"
    write_node(base, keys, NODE)
    node: Node = node_at(base)
    with relay(base) as control:
        assert await nodes.install(node, signed(fresh(decision().table, 1), keys)) == 1
        (base / "etc/allowed_signers").write_text(line(keys, "theirs"))
        ask(control, {"cmd": "reload"})
        for _ in range(400):
            if in_force(control)[1] is not None:
                break
            await asyncio.sleep(0.01)
        serial, reason = in_force(control)
        assert (serial, str(reason).startswith("signature")) == (1, True)
    with relay(base) as control:
        assert in_force(control)[0] is None, "so the new key has to sign before the old one is taken out"


def fleet(signers: Path, key: Path) -> Fleet:
    return small_fleet(signing=Signing(signers=signers, key=key))


def test_here_both_may_sign_as_well(keys: Path) -> None:
    both = keys / "both"
    both.write_text(line(keys, "ours") + line(keys, "theirs"))
    made: list[Package] = []
    for serial, name in ((1, "ours"), (2, "theirs")):
        table = fresh(decision().table, serial)
        known = fleet(both, keys / name)
        made.append(
            prepare(
                table,
                known,
                lambda data, name=name: sign(data, keys / name, False, tables.NAMESPACE),  # type: ignore[misc]
                now_unix=time.time(),
                highest_serial=serial - 1,
            )
        )
    assert made[0].signature != made[1].signature
