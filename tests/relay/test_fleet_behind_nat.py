"""A fleet in clouds: every relay has a private address, and a 1:1 NAT between them puts public ones in their place."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.relay.clients.udp import open_udp
from commcli.relay.turn.stun import Addr
from tests.relay.test_fleet_of_relays import ADDRESSES, IDS, OVERLAY, STAMP, _client, _Fleet, _roles, _talk

PRIVATE = {node: f"127.80.0.{number}" for number, node in enumerate(IDS, 1)}
PUBLIC_OF = {PRIVATE[node]: ADDRESSES[node] for node in IDS}
PRIVATE_OF = {public: private for private, public in PUBLIC_OF.items()}


class _Nat:
    """Has every public address; what comes there from a private one goes on from its public one to a private one."""

    def __init__(self) -> None:
        self._socks: dict[Addr, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._enough, self._stop = os.pipe()
        self._selector.register(self._enough, selectors.EVENT_READ)
        for public in PRIVATE_OF:
            for port in (OVERLAY, STAMP, *range(40000, 40101)):
                self._sock((public, port))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _sock(self, at: Addr) -> socket.socket:
        if at not in self._socks:
            self._socks[at] = open_udp(*at)
            self._selector.register(self._socks[at], selectors.EVENT_READ)
        return self._socks[at]

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._enough:
                    return
                assert isinstance(key.fileobj, socket.socket)
                self._pass(key.fileobj)

    def _pass(self, sock: socket.socket) -> None:
        public, port = sock.getsockname()
        # A relay that is not up yet answers with an ICMP error.
        with contextlib.suppress(OSError):
            data, (source, source_port) = sock.recvfrom(2000)
            if source in PUBLIC_OF:
                self._sock((PUBLIC_OF[source], source_port)).sendto(data, (PRIVATE_OF[public], port))

    def close(self) -> None:
        os.write(self._stop, b"!")
        self._thread.join()
        for sock in self._socks.values():
            sock.close()
        self._selector.close()
        os.close(self._enough)
        os.close(self._stop)


class _FleetBehindNat(_Fleet):
    def _write(self, node: str) -> None:
        super()._write(node)
        path = self.base(node) / "etc/relay.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "bind_address": PRIVATE[node]}))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[_FleetBehindNat]:
    running, nat = _FleetBehindNat(tmp_path), _Nat()
    try:
        for node in IDS:
            running.start(node)
        for node in IDS:
            running.wait(node, lambda status: status["ok"])
        yield running
    finally:
        running.stop()
        nat.close()


@pytest.mark.parametrize("direct", [False, True], ids=["overlay", "straight"])
async def test_clients_of_two_nodes_talk(fleet: _FleetBehindNat, direct: bool) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    user = "probe+direct" if direct else "probe"
    one, one_inbox = await _client("ae-1", user, PRIVATE)
    other, other_inbox = await _client("kr-1", user, PRIVATE)
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    assert (here[0], there[0]) == (ADDRESSES["ae-1"], ADDRESSES["kr-1"])
    await _talk(one, there, other_inbox, (other, here), b"over")
    await _talk(other, here, one_inbox, (one, there), b"and back")
    way = {} if direct else {"ae-1": "ingress", "sg-1": "transit", "kr-1": "egress"}
    assert {node: role for node, (role, _) in _roles(fleet, here, there).items()} == way
    one.close()
    other.close()


def test_the_mesh_measures_every_peer(fleet: _FleetBehindNat) -> None:
    status = fleet.wait(
        "ae-1",
        lambda status: all(status["peers"].get(node, {}).get("rtt_ms") for node in IDS if node != "ae-1"),
    )
    assert set(status["peers"]) == set(IDS) - {"ae-1"}
