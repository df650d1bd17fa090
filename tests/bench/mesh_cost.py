"""CPU and memory of a relay that measures a thousand peers, and is measured by them, at one packet a second and peer.

The relay is a process as a node runs it. The peers are this process: a thousand addresses of loopback, each with its
own key, that answer the relay's test packets and send theirs, each at a random phase. On loopback the sender of a
packet pays for its way up to the receiver's socket, so the relay pays here for more than on a wire.
A round holds whole minutes, since windows are as long here, and closing them all is part of the cost; what the relay
costs with nobody to measure is in the figures, and shown.
The memory is that of what is held after 18 minutes, with as many closed windows as are ever kept, in a time that is
counted and not waited for.
`python -m tests.bench.mesh_cost [PEERS]`
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commcli.relay.mesh import stamp
from commcli.relay.mesh.budget import Budget
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import Reflector
from commcli.relay.process import control
from commcli.remote import zipapp
from tests.bench import figures
from tests.bench.rivals import Rival, node_python
from tests.bench.turn_client import udp
from tests.relay.overlay_world import pair_key
from tests.relay.serving import STARTS_WITHIN_S, free_port

PEERS = 1000
NODE, ADDRESS = "re-1", "127.0.0.5"
SETTLE_S, SHORT_S, MINUTE_S = 5.0, 20.0, 60.0
CLOSED_BY_S = 35.0  # after a minute has begun, the windows of the last one are closed
TARGET_PERCENT = 5.0
NAP_S = 0.003
SIMULATED_S, TICK_S = 1080, 0.05
UNIX_0 = 1_800_000_000.0


def _peer(number: int) -> tuple[str, str]:
    return f"p{number}", f"127.1.{number // 250}.{number % 250 + 1}"


class Peers:
    """All of them: they answer the relay, and ask it if they are to."""

    def __init__(self, count: int, stamp_port: int, relay_stamp: tuple[str, int]) -> None:
        self.count, self.port, self._relay = count, stamp_port, relay_stamp
        self.asked = self.answered = self.questions = 0
        self._poll = select.epoll()
        self._socks: dict[int, tuple[int, socket.socket]] = {}
        self._asking: list[socket.socket] = []
        self._seals: list[stamp.Seal] = []
        self._reflectors: list[Reflector] = []
        mine = {"address": ADDRESS, "overlay_port": 9, "stamp_port": relay_stamp[1]}
        for number in range(count):
            name, address = _peer(number)
            for port in (stamp_port, 0):  # one that answers, and one that asks
                sock = udp(address, port)
                sock.setblocking(False)
                self._socks[sock.fileno()] = (number, sock)
                self._poll.register(sock.fileno(), select.EPOLLIN)
            self._asking.append(sock)
            key = pair_key(NODE, name)
            self._seals.append(stamp.Seal(stamp.session_key(key, name, reply=False)))
            reflector = Reflector(name)
            reflector.set_peers({NODE: {**mine, "keys": [key.hex()]}})
            self._reflectors.append(reflector)
        self._sequences = [0] * count

    def close(self) -> None:
        """Close every socket."""
        for _, sock in self._socks.values():
            sock.close()
        self._poll.close()

    def run(self, seconds: float, *, ask: bool) -> None:
        """Answer, and with `ask` send each a packet a second, at a phase of its own."""
        now = time.monotonic()
        end = now + seconds
        due = [(now + random.random(), number) for number in range(self.count)] if ask else []
        heapq.heapify(due)
        while now < end:
            while due and due[0][0] <= now:
                at, number = due[0]
                heapq.heapreplace(due, (at + 1.0, number))
                self._ask(number)
            # Asleep and not in `poll`: to wake somebody costs the sender, and no sender pays for that over a wire.
            time.sleep(NAP_S)
            for fd, _ in self._poll.poll(0):
                self._take(*self._socks[fd])
            now = time.monotonic()

    def _ask(self, number: int) -> None:
        data = stamp.pack_request(
            self._sequences[number],
            stamp.to_timestamp(time.time()),
            stamp.UNKNOWN_CLOCK.pack(),
            self._seals[number],
        )
        self._sequences[number] += 1
        self.asked += 1
        self._asking[number].sendto(data, self._relay)

    def _take(self, number: int, sock: socket.socket) -> None:
        data, source = sock.recvfrom(2048)
        if source == self._relay:
            self.answered += 1
            return
        unix = time.time()
        reply = self._reflectors[number].receive(data, source, unix, unix)
        if reply is not None:
            self.questions += 1
            sock.sendto(reply, source)


@contextmanager
def _relay(base: Path, peers: int, stamp_port: int, peer_port: int, budget: Budget) -> Iterator[Rival]:
    """It knows all of them, and has no table: so nothing else goes on."""
    (base / "etc").mkdir(parents=True)
    turn_port, overlay_port = free_port(), free_port()
    config = {
        "schema": 1, "node": NODE, "base": str(base), "address": ADDRESS, "realm": "lab", "turn_port": turn_port,
        "relay_ports": [40000, 41999], "overlay_port": overlay_port, "stamp_port": stamp_port,
        "mesh": budget._asdict(),
    }  # fmt: skip
    rows = {
        name: {
            "address": address, "overlay_port": 9, "stamp_port": peer_port, "keys": [pair_key(NODE, name).hex()],
        }
        for name, address in map(_peer, range(peers))
    }  # fmt: skip
    (base / "etc/relay.json").write_text(json.dumps(config))
    (base / "etc/turn.secret").write_text("nobody comes here to relay\n")
    (base / "etc/peers.json").write_text(json.dumps({"schema": 1, "peers": rows}))
    (base / "relay.pyz").write_bytes(zipapp.build())
    serve = ["-I", str(base / "relay.pyz"), "serve", "--config", str(base / "etc/relay.json")]
    process = subprocess.Popen([node_python(), *serve], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + STARTS_WITHIN_S
        while not (base / "run/control.sock").exists():
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError("the relay does not start")
            time.sleep(0.05)
        yield Rival("commcli", turn_port, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _round(
    what: str, count: int, *, asks: bool, asked: bool, whole: bool, target: float | None = None
) -> float:
    """CPU in percent of a core. asks: the relay asks the peers; asked: they ask it; whole: a minute, and what it
    takes to have windows closed in it as in any.
    """
    stamp_port, peer_port = free_port(), free_port()
    budget = Budget(float(count), 1.0) if asks else Budget(0.001, 0.001)
    with tempfile.TemporaryDirectory(prefix="commcli-bench-") as folder, contextlib.ExitStack() as stack:
        peers = Peers(count, peer_port, (ADDRESS, stamp_port))
        stack.callback(peers.close)
        base = Path(folder)
        relay = stack.enter_context(_relay(base, count, stamp_port, peer_port, budget))
        seconds, warm_s = SHORT_S, SETTLE_S
        if whole:
            seconds, warm_s = (
                MINUTE_S,
                SETTLE_S + MINUTE_S - (time.time() + SETTLE_S) % MINUTE_S + CLOSED_BY_S,
            )
        peers.run(warm_s, ask=asked)
        before_s, began = relay.cpu_s(), time.monotonic()
        peers.asked = peers.answered = peers.questions = 0
        peers.run(seconds, ask=asked)
        took_s = time.monotonic() - began
        percent = 100 * (relay.cpu_s() - before_s) / took_s
        status = control.ask(base / "run/control.sock", {"cmd": "status"})
        asked_at = time.monotonic()
        windows = control.ask(base / "run/control.sock", {"cmd": "mesh"})["windows"]
        asking_ms = 1000 * (time.monotonic() - asked_at)
        packets = peers.questions + peers.answered
        figures.line(what, f"{percent:.2f} % of a core", percent, None, "%")
        # Each packet asked or answered is one that came and one that went.
        print(
            f"    {peers.questions / took_s:.0f}/s answered to it, {peers.answered} of {peers.asked} answered by it;"
            f" {1e4 * percent * took_s / max(1, packets):.0f} us each; resident {relay.resident_bytes() >> 20} MiB;"
            f" loop lag p99 {status['loop_lag_ms']['p99']} ms; {len(windows)} windows read in {asking_ms:.0f} ms",
            flush=True,
        )
        if windows:
            rtts = [window["rtt_ms"]["p50"] for window in windows if window["rtt_ms"]]
            lost = sum(window["sent"] - window["received"] for window in windows)
            print(f"    median RTT {figures.spread(rtts, '.3f')} ms; {lost} lost", flush=True)
        return percent


def _memory(count: int) -> None:
    """What a Mesh and a Reflector hold of so many peers when they have measured for a while."""
    tracemalloc.start()
    rows = {
        name: {"address": address, "overlay_port": 9, "stamp_port": 9, "keys": [pair_key(NODE, name).hex()]}
        for name, address in map(_peer, range(count))
    }
    mesh = Mesh(NODE, os.urandom, Budget(float(count), 1.0))
    reflector = Reflector(NODE)
    mesh.set_peers(rows)
    reflector.set_peers(rows)
    error = stamp.UNKNOWN_CLOCK.pack()
    replies = [
        (stamp.Seal(stamp.session_key(key, name, reply=False)), stamp.Seal(stamp.session_key(key, NODE, reply=True)))
        for name, key in ((_peer(number)[0], pair_key(NODE, _peer(number)[0])) for number in range(count))
    ]  # fmt: skip
    ours, _ = tracemalloc.get_traced_memory()
    sent = [0] * count
    for step in range(int(SIMULATED_S / TICK_S)):
        now = step * TICK_S
        unix = UNIX_0 + now
        for session in mesh.due(now):
            data = mesh.request(session, now, unix)
            number = int(session.peer.id[1:])
            t1 = stamp.to_timestamp(unix)
            asking = stamp.pack_request(sent[number], t1, error, replies[number][0])
            assert reflector.receive(asking, (session.addr[0], 50_000), unix, unix) is not None
            read = stamp.Request(sent[number], t1, error)
            there = stamp.to_timestamp(unix + 0.05)
            reply = stamp.pack_reply(sent[number], there, there, error, read, 255, replies[number][1])
            mesh.receive_reply(reply, session.addr, now + 0.1, unix + 0.1)
            sent[number] += 1
            assert len(data) == len(reply)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    windows = len(mesh.rows())
    print(
        f"  held of {count} peers after {SIMULATED_S // 60} min: {held / 2**20:.1f} MiB, {held / count / 1024:.1f} KiB"
        f" each (keys and rows of them alone {ours / 2**20:.1f} MiB); {windows} closed windows",
        flush=True,
    )


def main(count: int) -> None:
    """Print all figures."""
    print(f"mesh_cost: {count} peers, one packet a second and peer", flush=True)
    neither = _round("neither", count, asks=False, asked=False, whole=False)
    _round("the reflector alone", count, asks=False, asked=True, whole=False)
    _round("the sender alone", count, asks=True, asked=False, whole=True)
    both = _round("sender and reflector", count, asks=True, asked=True, whole=True)
    again = _round("neither, again", count, asks=False, asked=False, whole=False)
    # The relay greets a thousand neighbours on the overlay as well, and nobody answers here.
    mesh = both - (neither + again) / 2
    figures.line(
        "the mesh: what both cost more than neither", f"{mesh:.2f} % of a core", mesh, TARGET_PERCENT, "%"
    )
    _memory(count)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PEERS)
