"""One question to a relay over SSH: its answer, or one line about why there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commcli.fleet.model import Node
from commcli.remote import control
from commcli.remote.outcome import Failed, Lost
from commcli.remote.ssh import Connection, Pool
from tests.remote.asyncserver import Server

# Stands in for the zipapp: answers with its own arguments.
RELAY = """
import json, sys
print(json.dumps({"ok": True, "asked": sys.argv[1:]}))
"""


@pytest.fixture
async def asked(server: Server) -> AsyncIterator[tuple[Connection, Node]]:
    node = server.host.node()
    async with Pool(server.host.fleet(node)) as pool:
        yield await pool.connect(node), node


def relay(node: Node, source: str) -> None:
    lib = Path(node.base) / "lib"
    lib.mkdir(parents=True)
    (lib / "relay.pyz").write_text(source)


async def test_the_arguments_reach_the_relay(asked: tuple[Connection, Node]) -> None:
    connection, node = asked
    relay(node, RELAY)
    answer = await control.ask(connection, node, "mesh", since=1.5, word="it's")
    socket = f"{node.base}/run/control.sock"
    assert answer["asked"] == ["ctl", "--socket", socket, "mesh", '{"since": 1.5, "word": "it\'s"}']


NO_ANSWER = [
    ('print(\'{"ok": false, "error": "draining"}\')', "relay: draining"),
    ('import sys; sys.exit("commcli-relay: no such socket")', "relay: commcli-relay: no such socket"),
    ("print('[]')", "relay: no answer, exit status 0"),
    ("print('[' * 200_000)", "relay: no answer, exit status 0"),
    ("raise SystemExit(7)", "relay: no answer, exit status 7"),
    (f"import sys; sys.exit('{'x' * 500}')", f"relay: {'x' * 199}…"),
]


@pytest.mark.parametrize(("source", "reason"), NO_ANSWER)
async def test_no_is_one_line(asked: tuple[Connection, Node], source: str, reason: str) -> None:
    connection, node = asked
    relay(node, source)
    with pytest.raises(Failed) as caught:
        await control.ask(connection, node, "status")
    assert str(caught.value) == reason


async def test_a_connection_that_drops_is_lost(server: Server, asked: tuple[Connection, Node]) -> None:
    connection, node = asked
    relay(node, RELAY)
    server.cut_after = 3
    with pytest.raises(Lost):
        await control.ask(connection, node, "status")


async def test_a_node_without_python(asked: tuple[Connection, Node], server: Server) -> None:
    connection, _ = asked
    with pytest.raises(Failed, match="no python3 on the node"):
        await control.ask(connection, server.host.node(python="/nonexistent/python3"), "status")
