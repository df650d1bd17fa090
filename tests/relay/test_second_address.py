"""Another node's IPv6 address is as much its own as its first one: only relayed ports, and by the law of zones."""

from __future__ import annotations

import os

import pytest

from commcli.relay.config import standalone
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.process.front import _policy
from commcli.relay.table.shard import Shard, ShardNode

SIX = "2a00:1450:4001::2"
NODES = {
    "sg-1": ShardNode("5.5.5.1", 3479, (50000, 50099), "sg", frozenset({"sg"})),
    "hk-1": ShardNode("5.5.5.2", 3479, (50000, 50099), "hk", frozenset({"hk"}), address6=SIX),
}
SHARD = Shard(1, "sg-1", "", "", 0.0, NODES, (), {}, frozenset({"hk-1"}))


@pytest.mark.parametrize("ip", ["5.5.5.2", SIX])
def test_nothing_but_relayed_ports_is_reached_there(ip: str) -> None:
    config = standalone(
        listen=["5.5.5.1:3478"],
        relay_ports="50000-50099",
        users=["u:p"],
        secrets=[],
        realm="lab",
        allow_peers=[],
    )._replace(node="sg-1")
    policy = _policy(config, SHARD, ())
    assert policy.permits(ip, 50000)
    assert not any(policy.permits(ip, port) for port in (22, 53, 3478, 3479, 5349, 49999, 50100))


@pytest.mark.parametrize("ip", ["5.5.5.2", SIX])
def test_its_packets_are_the_overlays(ip: str) -> None:
    overlay = Overlay("sg-1", os.urandom)
    overlay.set_shard(SHARD)
    assert overlay.egress_of(ip, 50000) == "hk-1"
    assert overlay.egress_of(ip, 3478) is None
    assert not overlay.permits_straight("hk-1")  # the table blocks it
