"""The pure protocols under the node's oldest python: imported for real, and one packet through each."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.architecture.node_python import floor_python

ROOT = Path(__file__).resolve().parents[2]

ROUND = """
import hashlib, importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import commcli.relay as island
for module in pkgutil.walk_packages(island.__path__, "commcli.relay."):
    if module.name != "commcli.relay.__main__":
        importlib.import_module(module.name)
from commcli.relay import shaping
from commcli.relay.mesh import mesh, reflector as reflecting
from commcli.relay.overlay import overlay
from commcli.relay.table import shard

created, expires = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
nodes = {
    name: {"address": address, "overlay_port": 1, "relay_ports": [10, 20], "country": name, "markets": [name]}
    for name, address in (("a", "192.0.2.1"), ("b", "192.0.2.2"))
}
UNIX = 1767225600.0
shards = {}
for near, far in (("a", "b"), ("b", "a")):
    body = json.dumps({
        "schema": 1, "serial": 1, "node": near, "created": created, "expires": expires, "nodes": nodes,
        "zones": [{"id": "z", "between": [["*"], ["*"]], "forbid": ["c"], "allow": None}],
        "routes": {far: {"primary": [near, far], "backup": None, "last_resort": None}}, "blocked": [],
    }).encode()
    manifest = json.dumps({
        "schema": 1, "fleet": "f", "serial": 1, "created": created, "expires": expires, "inputs": {},
        "shards": {near: hashlib.sha256(body).hexdigest()},
    }).encode()
    shards[near] = shard.load(manifest, body, node=near, unix=UNIX, highest_serial=0)

def peers(name):
    return {name: {"address": nodes[name]["address"], "overlay_port": 1, "stamp_port": 2, "keys": ["ab" * 32]}}

near, far = overlay.Overlay("a", bytes), overlay.Overlay("b", bytes)
near.set_peers(peers("b")), far.set_peers(peers("a"))
near.set_shard(shards["a"]), far.set_shard(shards["b"])
def carried(sender, receiver, source, now):
    return [
        delivery
        for leaving in sender.flush(now, UNIX + now)
        for delivery in receiver.receive(source, leaving.datagrams, now, UNIX + now)
    ]

near.send("b", ("192.0.2.1", 10), ("192.0.2.2", 20), [b"media"], 0.0, UNIX)
print(carried(near, far, ("192.0.2.1", 1), 0.0))
near.tick(0.0, UNIX)
carried(near, far, ("192.0.2.1", 1), 0.0)
carried(far, near, ("192.0.2.2", 1), 0.05)
print(near.status()["paths"]["b"]["rtt_ms"])

sender, reflector = mesh.Mesh("a", bytes), reflecting.Reflector("b")
sender.set_peers(peers("b")), reflector.set_peers(peers("a"))
for step in range(700):
    now = step * 0.02
    for _, _, packet in sender.tick(now, UNIX + now):
        reply = reflector.receive(packet, ("192.0.2.1", 9), UNIX + now, UNIX + now)
        sender.receive_reply(reply, ("192.0.2.2", 2), now + 0.01, UNIX + now + 0.01)
print([(window["sent"], window["loss"]) for window in map(json.loads, sender.rows())])
print(shaping.Shaper({"192.0.2.2": {"delay_ms": 5}}, 1).release("192.0.2.2", 100, 1.0))
"""


def test_every_module_imports_and_works_on_the_oldest_python() -> None:
    python = floor_python()
    if python is None:
        pytest.skip("no python3.9 on this machine")
    done = subprocess.run(
        [str(python), "-BIS", "-W", "error", "-c", ROUND, str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[(('192.0.2.1', 10), ('192.0.2.2', 20), [b'media'])]",
        "50.0",
        "[(50, 0.0)]",
        "1.005",
    ]
