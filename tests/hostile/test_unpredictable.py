"""Relay ports and nonces can not be foretold: statistics over a seeded source, so that each run says the same."""

from __future__ import annotations

import base64
import itertools
import random
from collections import Counter

from commcli.relay.clients.udp import RelayPool
from commcli.relay.turn import stun
from commcli.relay.turn.auth import Nonces
from tests.hostile.edges import Edge
from tests.hostile.wire import a_client

PORTS = (23000, 24023)
BUCKETS = 16


def _ports(count: int) -> list[int]:
    """Ports of allocations that come and go at once, as a client that probes the pool would see them."""
    pool = RelayPool(["127.0.0.1"], PORTS, random.Random(11).randrange, lambda *_: None, lambda *_: None)
    ports = []
    for _ in range(count):
        [relay] = pool.open(stun.IPV4)
        ports.append(relay[1])
        pool.close(relay)
    return ports


def _chi_square(values: list[int], buckets: int) -> float:
    expected = len(values) / buckets
    counts = Counter(values)
    return sum((counts[bucket] - expected) ** 2 / expected for bucket in range(buckets))


def test_ports_are_spread_evenly_and_do_not_follow_each_other() -> None:
    ports = _ports(3200)
    size = (PORTS[1] - PORTS[0] + 1) // BUCKETS
    # 15 degrees of freedom: 99.9 % of fair samples are below 37.7.
    assert _chi_square([(port - PORTS[0]) // size for port in ports], BUCKETS) < 37.7
    steps = [(later - earlier) % (size * BUCKETS) for earlier, later in itertools.pairwise(ports)]
    assert _chi_square([step // size for step in steps], BUCKETS) < 37.7
    assert Counter(steps)[1] < 20 and Counter(steps)[0] < 20  # 3 of each are to be expected


def test_nonces_of_neighbours_have_nothing_in_common() -> None:
    """Every bit of the MAC is as often 1 as 0, for addresses that differ by one, and two of them differ in half."""
    nonces = Nonces(b"k" * 32, 3600.0)
    macs = [
        int.from_bytes(
            base64.b64decode(nonces.issue((f"198.51.{n >> 8}.{n & 255}", 4000), 1000.0))[3:], "big"
        )
        for n in range(4096)
    ]
    assert len(set(macs)) == len(macs)
    for bit in range(48):
        assert abs(sum(mac >> bit & 1 for mac in macs) - 2048) < 5 * 32  # five standard deviations
    apart = [(one ^ other).bit_count() for one, other in itertools.pairwise(macs)]
    assert abs(sum(apart) / len(apart) - 24) < 0.3
    assert min(apart) > 3


def test_a_running_relay_gives_ports_in_no_order(edge: Edge) -> None:
    ports = []
    for _ in range(24):
        with a_client(edge.server()) as client:
            ports.append(client.allocate().relayed[1])
    steps = Counter(later - earlier for earlier, later in itertools.pairwise(ports))
    assert len(steps) > 12 and steps.most_common(1)[0][1] < 6
