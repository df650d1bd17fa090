"""What one process of a relay tells the next one has the shape that its number stands for (handover.SCHEMA)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from commcli.relay.clients.backlog import Backlog
from commcli.relay.process.handover import SCHEMA
from tests.hostile.wire import SocketClient
from tests.relay.overlay_world import Plan, World
from tests.relay.serving import free_port
from tests.relay.test_overlay import BACK, NODES, THREE
from tests.relay.upgrading import CHANNEL, Node, newer, node

TELLING = """
import json, sys
from commcli.relay.process import state
def told(word, take):
    def taking(self, kept, *others):
        with open(%r, "a") as file:
            file.write(json.dumps([word, kept]) + "\\n")
        return take(self, kept, *others)
    return taking
state.Taker.portion = told("portion", state.Taker.portion)
state.Taker.rest = told("rest", state.Taker.rest)
from commcli.relay.__main__ import main
sys.exit(main())
"""
# Their keys are names of nodes, paths and counters.
BY_NAME = {
    "rest.turn.counters", "rest.turn.drops", "rest.drops", "rest.streams.totals", "rest.operations.reloads",
    "rest.fleet.mesh", "overlay.paths", "overlay.ways", "overlay.highest",
}  # fmt: skip

SHAPES = {
    1: """
        backlog.control(1) backlog.idle_s backlog.media[] backlog.started backlog{} overlay.highest.*
        overlay.highest.*(2) overlay.paths.* overlay.paths.*(5) overlay.ways.* overlay.ways.*[]
        overlay.ways.*[](3) overlay.ways.*[][] overlay{} portion.relayed[] portion.relayed[](3)
        portion.turn.rows[] portion.turn.rows[].age_s portion.turn.rows[].channels[]
        portion.turn.rows[].channels[](4) portion.turn.rows[].client(2) portion.turn.rows[].client(3)
        portion.turn.rows[].direct portion.turn.rows[].left_s portion.turn.rows[].made_by
        portion.turn.rows[].permissions[] portion.turn.rows[].permissions[](2) portion.turn.rows[].relays[]
        portion.turn.rows[].relays[](2) portion.turn.rows[].reply portion.turn.rows[].reserved
        portion.turn.rows[].user portion.turn.rows[].username portion.turn.rows[]{} portion.turn{} portion{}
        rest.closed[] rest.cut rest.drops.* rest.fleet.mesh.* rest.fleet.mesh.*[] rest.fleet.overlay.highest{}
        rest.fleet.overlay.paths{} rest.fleet.overlay.ways{} rest.fleet.overlay{} rest.fleet{} rest.kernel_drops
        rest.operations.asking[] rest.operations.drain rest.operations.reloads.* rest.operations.reloads.*[]
        rest.operations{} rest.relayed[] rest.streams.connections[] rest.streams.connections[].backlog
        rest.streams.connections[].client(3) rest.streams.connections[].held rest.streams.connections[].more
        rest.streams.connections[].partial_s rest.streams.connections[].rest rest.streams.connections[].since_s
        rest.streams.connections[].sock rest.streams.connections[]{} rest.streams.totals.* rest.streams{}
        rest.turn.carried[] rest.turn.counters.* rest.turn.drops.* rest.turn.figures[] rest.turn.figures[](6)
        rest.turn.figures[].0(2) rest.turn.figures[].0(3) rest.turn.gone[] rest.turn.lapsing[]
        rest.turn.nonces.key rest.turn.nonces.stamp rest.turn.nonces{} rest.turn.reserved[] rest.turn.rows[]
        rest.turn{} rest{}
    """,
}


def _shape(value: Any, path: str) -> Iterator[str]:
    """Every key, and how long every row is."""
    if isinstance(value, dict):
        by_name = path in BY_NAME
        yield path + (".*" if by_name else "{}")
        for key, held in value.items():
            yield from _shape(held, f"{path}.{'*' if by_name else key}")
    elif not isinstance(value, list):
        yield path
    elif all(isinstance(held, (dict, list)) for held in value):
        yield path + "[]"
        for held in value:
            yield from _shape(held, path + "[]")
    else:
        yield f"{path}({len(value)})"
        for number, held in enumerate(value):
            if isinstance(held, (dict, list)):
                yield from _shape(held, f"{path}.{number}")


def _told(base: Path) -> Iterable[tuple[str, Any]]:
    """What a relay with a client over UDP and one over TCP tells, and of what it has not."""
    told = base.parent / "told"
    with node(base, overlay_port=free_port(), stamp_port=free_port()) as here:
        _with_a_peer(here)
        here.serve()
        here.put_program(newer(**{"__main__.py": TELLING % str(told)}))
        clients = [SocketClient(here.server, transport) for transport in ("udp", "tcp")]
        for client in clients:
            assert client.allocate().code is None
            assert client.bind(CHANNEL, ("127.0.0.1", 9)).code is None
        answer = here.ask("upgrade")
        assert answer["ok"], answer
        for client in clients:
            client.wire.close()
    yield from map(json.loads, told.read_text().splitlines())
    backlog = Backlog(1 << 16, 1.0, 0.0)
    backlog.put(bytes(8), 0.0)
    yield "backlog", backlog.kept(1.0)
    net = World(Plan(NODES, [*THREE, *BACK]))
    net.run(5, {"br-1": "hk-1"})
    yield "overlay", json.loads(json.dumps(net.nodes["br-1"].kept(net.now)))


def _with_a_peer(here: Node) -> None:
    peer = {"address": "127.0.0.2", "overlay_port": 9, "stamp_port": 9, "keys": ["0123456789abcdef" * 4]}
    (here.base / "etc/peers.json").write_text(json.dumps({"schema": 1, "peers": {"test-2": peer}}))


def test_another_shape_has_another_number(tmp_path: Path) -> None:
    found = {line for word, kept in _told(tmp_path / "node") for line in _shape(kept, word)}
    assert sorted(found) == SHAPES[SCHEMA].split(), "the state has another shape: give it another SCHEMA"
