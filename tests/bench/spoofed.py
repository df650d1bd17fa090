"""100 000 Allocates in the names of others: how much the relay's resident memory grows, beside coturn's.

Each comes from a source address and port of its own; half of them carry no integrity, half a forged one. Datagrams
go out in small batches with a Binding request behind each, so that the relay reads them all. Then an honest client
must be served. coturn, which remembers every source, gets fewer: it would keep 2 GB of 100 000.
`python -m tests.bench.spoofed [HOW_MANY]`
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import time

from commcli.relay.turn import stun
from tests.bench import figures, rivals
from tests.bench.rivals import Rival
from tests.bench.turn_client import channel_data, connect, udp

SPOOFED, BATCH = 100_000, 100
COTURN_GETS = 0.2  # of that
TARGET_MB = 1.0
ANSWERS_WITHIN_S = 5.0


def _allocate(*, forged: bool) -> bytes:
    attributes = [(stun.REQUESTED_TRANSPORT, bytes([17, 0, 0, 0]))]
    if forged:
        nonce = os.urandom(8).hex().encode()
        attributes += [(stun.USERNAME, b"user"), (stun.REALM, rivals.REALM.encode()), (stun.NONCE, nonce)]
    key = os.urandom(16) if forged else None
    return stun.build(stun.ALLOCATE, stun.REQUEST, os.urandom(stun.TRANSACTION_SIZE), attributes, key=key)


def _spoof(rival: Rival, data: bytes, chance: random.Random) -> None:
    source = f"127.{chance.randrange(1, 255)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.sendto(data, rival.server)


def _wait_until_read(rival: Rival, sock: socket.socket) -> None:
    """Until the relay has answered what was sent after everything else."""
    transaction = os.urandom(stun.TRANSACTION_SIZE)
    sock.sendto(stun.build(stun.BINDING, stun.REQUEST, transaction), rival.server)
    while sock.recv(2048)[8:20] != transaction:
        pass


def _flood(rival: Rival, how_many: int) -> float:
    """The most that resident memory grew by, in bytes."""
    chance = random.Random(1)
    before = most = rival.resident_bytes()
    with udp() as sock:
        sock.settimeout(ANSWERS_WITHIN_S)
        for number in range(how_many):
            _spoof(rival, _allocate(forged=bool(number & 1)), chance)
            if number % BATCH == BATCH - 1:
                _wait_until_read(rival, sock)
                most = max(most, rival.resident_bytes())
    return most - before


def _serves(rival: Rival) -> bool:
    """Does a packet of an honest client still reach its peer?"""
    with udp() as client, udp() as peer:
        connect(client, rival.server, peer.getsockname())
        peer.settimeout(1.0)
        client.send(channel_data(b"still there?"))
        with contextlib.suppress(TimeoutError):
            return peer.recv(2048) == b"still there?"
    return False


def _measure(rival: Rival, how_many: int) -> None:
    began, cpu = time.perf_counter(), rival.cpu_s()
    grown_mb = _flood(rival, how_many) / 1e6
    seconds, cpu = time.perf_counter() - began, rival.cpu_s() - cpu
    unread = rival.unread()
    target = TARGET_MB if rival.name == "commcli" else None
    figure = f"{grown_mb:.2f} MB of {how_many}, {1000 * grown_mb / how_many:.1f} kB each"
    figures.line(f"grown by, {rival.name}", figure, grown_mb, target, "MB")
    serves = "serves" if _serves(rival) else "DOES NOT SERVE"
    cost = f"{1e6 * cpu / how_many:.0f} us of CPU each"
    print(
        f"    {rival.name}: {seconds:.0f} s, {cost}, {unread} unread; {serves} an honest client then",
        flush=True,
    )


def main() -> None:
    """Print how both relays grow, each newly started."""
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else SPOOFED
    print(f"spoofed: {how_many} Allocates, each from another source", flush=True)
    for start in rivals.starts("spoofed"):
        with start() as rival:
            _measure(rival, how_many if rival.name == "commcli" else int(how_many * COTURN_GETS))


if __name__ == "__main__":
    main()
