"""Nodes and facts as the tests of health need them: a healthy node, and ways to hurt it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from commcli.fleet.model import Node, SshTarget
from commcli.health.facts import Clock, Disk, Facts, Load, Relay
from tests.lab import eight

NOW = 1_700_000_000.0
GIB = 1 << 30
VERSION = "1.0"
RELAY = Relay(
    version=VERSION,
    uptime_s=90_000,
    serial=7,
    expires_unix=NOW + 5 * 86_400,
    lag_p99_ms=0.4,
    peers_rtt_ms={"hk-1": 34.0, "sg-1": 61.0},
)
HEALTHY = Facts(
    node="ae-1",
    unix=NOW,
    python=(3, 11),
    python_text="3.11.2",
    clock=Clock(0.004, 0.03),
    disk=Disk(40 * GIB, 100 * GIB, 5_000_000),
    load=Load(0.7, 2),
    relay=RELAY,
    sessions=100,
)
FLEET = eight.fleet()


def relay(**changed: Any) -> Facts:
    """A healthy node, but for these fields of its relay."""
    return replace(HEALTHY, relay=replace(RELAY, **changed))


def away(node: str, reason: str = "no TCP connection after 10 s", code: int = 4) -> Facts:
    """A node out of reach."""
    return Facts(node, state="refused" if code == 5 else "unreachable", reason=reason, code=code)


def node(name: str) -> Node:
    """A node with an SSH address that can be told from the others."""
    return replace(FLEET.nodes[name], ssh=SshTarget(f"{name}.example", "ops", 2222))
