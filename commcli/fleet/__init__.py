"""What exists: nodes, regions, markets, zones."""

from __future__ import annotations

from commcli.fleet.loader import load
from commcli.fleet.model import (
    Capacity,
    Fleet,
    Limits,
    Market,
    Node,
    Ports,
    Region,
    Signing,
    SshDefaults,
    SshTarget,
    Zone,
)
from commcli.fleet.secrets import Secret, SecretRef

__all__ = [
    "Capacity",
    "Fleet",
    "Limits",
    "Market",
    "Node",
    "Ports",
    "Region",
    "Secret",
    "SecretRef",
    "Signing",
    "SshDefaults",
    "SshTarget",
    "Zone",
    "load",
]
