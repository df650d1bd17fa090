"""Four relay processes with a signed table on loopback: the overlay as clients see it, with aioice's TURN client."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aioice import turn

from commcli.relay.process import control
from tests.relay.tables_on_disk import Signer, shard

NETWORK = "127.79.0"
IDS = ("ae-1", "kr-1", "sg-1", "hk-1")
ADDRESSES = {node: f"{NETWORK}.{number}" for number, node in enumerate(IDS, 1)}
TURN, OVERLAY, STAMP = 3478, 3479, 3480


def _pair_key(one: str, other: str, name: str) -> str:
    return hashlib.blake2s("\0".join((*sorted((one, other)), name)).encode(), digest_size=32).hexdigest()


def _ways(node: str, other: str) -> list[list[str]]:
    """Primary, backup, last resort."""
    return [[node, "sg-1", other], [node, "hk-1", other], [node, other]]


def _carried(node: str) -> list[str]:
    ways = _ways("ae-1", "kr-1") + _ways("kr-1", "ae-1")
    return sorted(" ".join(way) for way in ways if node in way[1:])


class _Fleet:
    """Processes and folders of the four."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.signers: dict[str, Signer] = {}
        for node in IDS:
            self._write(node)

    def base(self, node: str) -> Path:
        return self.folder / node

    def _write(self, node: str) -> None:
        base = self.base(node)
        (base / "etc").mkdir(parents=True)
        self.signers[node] = Signer(base)
        config = {
            "schema": 1, "node": node, "base": str(base), "address": ADDRESSES[node], "realm": "lab",
            "turn_port": TURN, "relay_ports": [40000, 40100], "overlay_port": OVERLAY, "stamp_port": STAMP,
            "metrics_port": 9478, "allow_peers": [], "faults": False,
        }  # fmt: skip
        (base / "etc/relay.json").write_text(json.dumps(config))
        self.share_keys(node, "first")
        (base / "etc/turn.secret").write_text("the shared secret\n")

    def start(self, node: str) -> None:
        command = [
            sys.executable,
            "-m",
            "commcli.relay",
            "serve",
            "--config",
            str(self.base(node) / "etc/relay.json"),
        ]
        self.processes[node] = subprocess.Popen(command)

    def start_all(self) -> None:
        """Start every relay, and wait until each says that it serves."""
        for node in IDS:
            self.start(node)
        for node in IDS:
            self.wait(node, lambda status: status["ok"])

    def share_keys(self, node: str, *names: str) -> None:
        """Give the node pair keys of these names; the first one sends."""
        peers = {
            other: {
                "address": ADDRESSES[other], "overlay_port": OVERLAY, "stamp_port": STAMP,
                "keys": [_pair_key(node, other, name) for name in names],
            }
            for other in IDS if other != node
        }  # fmt: skip
        aside = self.base(node) / "etc/peers.new"
        aside.write_text(json.dumps({"schema": 1, "peers": peers}))
        aside.replace(aside.with_suffix(".json"))

    def publish(
        self, serial: int, zones: Sequence[object] = (), *, routed: bool = True, **words: object
    ) -> None:
        """`words`: further ones of each shard."""
        nodes = {
            node: {
                "address": ADDRESSES[node], "overlay_port": OVERLAY, "relay_ports": [40000, 40100],
                "country": node[:2], "markets": [node[:2]],
            }
            for node in IDS
        }  # fmt: skip
        for node in IDS:
            routes = {}
            if routed and node in ("ae-1", "kr-1"):
                other = "kr-1" if node == "ae-1" else "ae-1"
                routes[other] = dict(
                    zip(("primary", "backup", "last_resort"), _ways(node, other), strict=True)
                )
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            self.signers[node].push(
                shard(
                    serial,
                    node,
                    nodes=nodes,
                    routes=routes,
                    carries=_carried(node) if routed else [],
                    created=created,
                    expires=expires,
                    zones=list(zones),
                    **words,
                )
            )

    def ask(self, node: str, command: str) -> dict[str, Any]:
        return control.ask(self.base(node) / "run/control.sock", {"cmd": command})

    def wait(self, node: str, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The relay's status once `true` holds of it: another process's progress is the event waited for."""
        last: object = None
        for _ in range(400):
            try:
                last = self.ask(node, "status")
                if true(last):
                    return last
            except OSError as error:
                last = error
            time.sleep(0.05)
        raise AssertionError(f"{node}: {last}")

    def wait_for_the_overlay(self) -> None:
        """Until every path has answered: before that, media goes straight."""
        for node in IDS:
            self.wait(node, lambda status: status["table"]["serial"] == 1)
        for node in ("ae-1", "kr-1"):
            self.wait(node, _all_paths_answer)

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(10)


def _all_paths_answer(status: dict[str, Any]) -> bool:
    rows = status["overlay"]["paths"].values()
    return all(path["state"] == "up" for row in rows for path in row["candidates"].values())


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[_Fleet]:
    running = _Fleet(tmp_path)
    try:
        running.start_all()
        yield running
    finally:
        running.stop()


class _Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _addr: Any) -> None:
        self.received.put_nowait(data)


async def _client(
    node: str, user: str = "probe", servers: Mapping[str, str] = ADDRESSES
) -> tuple[Any, _Inbox]:
    from commcli.relay.turn.auth import time_limited_password

    name = f"{int(time.time()) + 600}:{user}"
    transport, protocol = await turn.create_turn_endpoint(
        _Inbox,
        server_addr=(servers[node], TURN),
        username=name,
        password=time_limited_password("the shared secret", name),
    )
    assert isinstance(protocol, _Inbox)
    return transport, protocol


async def _talk(sender: Any, to: Any, inbox: _Inbox, back: Any, word: bytes) -> None:
    """Send until `word` arrives; the receiving side sends too, which installs its permission."""
    for _ in range(200):
        sender.sendto(word, to)
        back[0].sendto(b"-", back[1])
        await asyncio.sleep(0.05)
        while not inbox.received.empty():
            if inbox.received.get_nowait() == word:
                return
    raise AssertionError(f"{word!r} never arrived")


def _roles(fleet: _Fleet, src: tuple[str, int], dst: tuple[str, int]) -> dict[str, tuple[str, int]]:
    found = {}
    for node in (node for node in IDS if fleet.processes[node].poll() is None):
        for flow in fleet.ask(node, "flows")["flows"]:
            if (flow["src"], flow["dst"]) == (f"{src[0]}:{src[1]}", f"{dst[0]}:{dst[1]}"):
                found[node] = (flow["role"], flow["packets"])
    return found


async def test_media_rides_the_table_and_survives_its_relay(fleet: _Fleet) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    one, one_inbox = await _client("ae-1")
    other, other_inbox = await _client("kr-1")
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")

    await _talk(one, there, other_inbox, (other, here), b"by the primary")
    roles = _roles(fleet, here, there)
    assert {node: role for node, (role, _) in roles.items()} == {
        "ae-1": "ingress", "sg-1": "transit", "kr-1": "egress",
    }  # fmt: skip
    await _talk(other, here, one_inbox, (one, there), b"and back")

    os.kill(fleet.processes["sg-1"].pid, signal.SIGKILL)
    fleet.processes["sg-1"].wait(10)
    await _until_switched(fleet, one, there, other, here)
    await _talk(one, there, other_inbox, (other, here), b"by the backup")
    assert _roles(fleet, here, there)["hk-1"][0] == "transit"
    one.close()
    other.close()


async def _until_switched(fleet: _Fleet, one: Any, there: Any, other: Any, here: Any) -> None:
    for _ in range(200):
        one.sendto(b"media", there)
        other.sendto(b"media", here)
        await asyncio.sleep(0.05)
        if fleet.ask("ae-1", "paths")["paths"]["kr-1"]["active"] == "backup":
            return
    raise AssertionError("the ingress did not leave the dead path")


async def test_a_direct_user_goes_straight(fleet: _Fleet) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    one, _ = await _client("ae-1", "probe+direct")
    other, other_inbox = await _client("kr-1", "probe+direct")
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"straight")
    assert _roles(fleet, here, there) == {}
    one.close()
    other.close()


async def test_a_direct_user_is_under_the_zones_too(fleet: _Fleet) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    one, _ = await _client("ae-1", "probe+direct")
    other, other_inbox = await _client("kr-1", "probe+direct")
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"lawful")
    fleet.publish(
        2, [{"id": "z", "between": [["ae"], ["kr"]], "forbid": ["kr"], "allow": None}], routed=False
    )
    for node in ("ae-1", "kr-1"):
        fleet.wait(node, lambda status: status["table"]["serial"] == 2)
    refused = 0
    for _ in range(200):
        one.sendto(b"unlawful", there)
        await asyncio.sleep(0.05)
        refused = fleet.ask("ae-1", "status")["drops"].get("direct_forbidden", 0)
        if refused >= 5:
            break
    assert refused >= 5
    while not other_inbox.received.empty():
        assert other_inbox.received.get_nowait() != b"unlawful"
    one.close()
    other.close()


async def test_two_clients_of_one_node_talk_although_private_peers_are_denied(fleet: _Fleet) -> None:
    one, _ = await _client("ae-1")
    other, other_inbox = await _client("ae-1")
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"neighbour")
    one.close()
    other.close()


def test_the_mesh_measures_every_peer(fleet: _Fleet) -> None:
    status = fleet.wait(
        "ae-1", lambda status: all(row["rtt_ms"] is not None for row in status["peers"].values())
    )
    assert sorted(status["peers"]) == ["hk-1", "kr-1", "sg-1"]


def test_junk_at_every_port_stops_nothing(fleet: _Fleet) -> None:
    import random
    import socket

    chance = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for port in (TURN, OVERLAY, STAMP):
            for size in [0, 1, 19, 20, 44, 112, 1500, 65507] + [chance.randrange(2000) for _ in range(200)]:
                sock.sendto(chance.randbytes(size), (ADDRESSES["sg-1"], port))
    status = fleet.wait("sg-1", lambda status: sum(status["drops"].values()) > 100)
    assert status["ok"]
    assert "bug" not in status["drops"]


def test_drain_refuses_new_allocations_and_undrain_takes_them(fleet: _Fleet) -> None:
    assert fleet.ask("ae-1", "drain")["drain"] is True
    with pytest.raises(Exception, match=r"486|300"):
        asyncio.run(_one_client("ae-1"))
    assert fleet.ask("ae-1", "undrain")["drain"] is False
    asyncio.run(_one_client("ae-1"))


async def _one_client(node: str) -> None:
    transport, _ = await _client(node)
    transport.close()


def test_metrics_and_unknown_commands(fleet: _Fleet) -> None:
    assert 'commcli_relay_allocations{transport="udp"} 0' in fleet.ask("ae-1", "metrics")["text"]
    answer = fleet.ask("ae-1", "explode")
    assert answer["ok"] is False
    assert "explode" in answer["error"]
