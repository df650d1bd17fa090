"""What a relay is given: its configuration, its peers and their keys, as variables of `playbooks/relay.yml`. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from commcli import __version__
from commcli.errors import BadInput
from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import Secret
from commcli.relay.mesh import neighbours
from commcli.relay.mesh.budget import USUAL
from commcli.relay.table.signature import NAMESPACE

# `overlay_next` is there while the overlay's secret is being changed (remote/keyring.py).
TURN, OVERLAY, OVERLAY_NEXT = "turn", "overlay", "overlay_next"
# Of a fleet whose nodes share a certificate: the chain and its private key, in PEM.
TLS_CERTIFICATE, TLS_KEY = "tls_certificate", "tls_key"
SECRETS = (TURN, OVERLAY, OVERLAY_NEXT, TLS_CERTIFICATE, TLS_KEY)
SHORTEST_SECRET = 16
MOST_KEYS = 4  # a peer row holds this many: the key in use and those that rotate in and out
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}\Z")


def variables(
    fleet: Fleet, node: Node, secrets: Mapping[str, Secret], zipapp: bytes, allowed_signers: str
) -> dict[str, object]:
    """`relay_json`, `relay_pyz`, `relay_version`, `allowed_signers`, `keys_digest`, `openings`, `has_tls`, and, as
    Secrets, `peers_json`, `turn_secret`, `tls_certificate` and `tls_key` (empty without `has_tls`).

    `systemd` is False where the node's variables say so: the lab's nodes share one machine, and its systemd, if it
    has one, is not theirs.

    Raises BadInput when the fleet names no such secret, or one is too short to be one.
    """
    return {
        "relay_json": _document(relay_config(fleet, node)),
        "relay_pyz": zipapp,
        "relay_version": __version__,
        "allowed_signers": allowed_signers,
        "openings": openings(fleet, node),
        "systemd": node.variables.get("systemd") is not False,
        **peer_variables(peers(fleet, node, _masters(fleet, secrets))),
        "turn_secret": Secret("\n".join(secret_lines(fleet, secrets, TURN)) + "\n"),
        **_tls(fleet, secrets),
    }


def _tls(fleet: Fleet, secrets: Mapping[str, Secret]) -> dict[str, object]:
    given = [name for name in (TLS_CERTIFICATE, TLS_KEY) if name in secrets]
    if len(given) == 1:
        both = f"TLS needs {TLS_CERTIFICATE!r} and {TLS_KEY!r}"
        raise BadInput(f"fleet {fleet.name}: secrets has {given[0]!r} alone; {both}")
    texts = {name: secrets.get(name, Secret("")) for name in (TLS_CERTIFICATE, TLS_KEY)}
    return {"has_tls": bool(given), **texts}


def peer_variables(document: Mapping[str, object]) -> dict[str, object]:
    """`peers_json`, and in `keys_digest` what a relay answers to `keys` once it has taken that file up."""
    known = neighbours.parse(cast("Mapping[str, object]", document["peers"]))
    return {
        "peers_json": Secret(_document(document)),
        "keys_digest": neighbours.digest(neighbours.key_ids(known)),
    }


def _masters(fleet: Fleet, secrets: Mapping[str, Secret]) -> list[str]:
    """The overlay's secrets, the one that sends first. A coming one is only accepted: a play on a few nodes can not
    know whether the others hold it, `commcli key rotate` can.
    """
    found = secret_lines(fleet, secrets, OVERLAY)
    coming = secret_lines(fleet, secrets, OVERLAY_NEXT) if OVERLAY_NEXT in secrets else []
    return (found + [line for line in coming if line not in found])[:MOST_KEYS]


def relay_config(fleet: Fleet, node: Node) -> dict[str, object]:
    """etc/relay.json (relay/config.py). The node's variables may set `allow_peers` and `faults` (the lab's)."""
    ports = node.ports
    principal = fleet.signing.principal
    # Only what is set, and not the relay's own word for it: a new line restarts every relay.
    said = {
        "principal": None if principal == NAMESPACE else principal,
        "address6": node.address6,
        "bind_address": node.bind_address,
        "bind_address6": node.bind_address6,
        "tls_port": ports.tls,
        **asdict(node.limits),
        "workers": node.workers,
        "mesh": None if fleet.mesh == USUAL else fleet.mesh._asdict(),
    }
    return {
        **{key: value for key, value in said.items() if value is not None},
        "schema": 1,
        "node": node.id,
        "base": node.base,
        "address": node.address,
        "realm": fleet.realm,
        "turn_port": ports.turn,
        "relay_ports": [ports.relay_low, ports.relay_high],
        "overlay_port": ports.overlay,
        "stamp_port": ports.stamp,
        "metrics_port": ports.metrics,
        "allow_peers": _texts(node, "allow_peers"),
        "faults": node.variables.get("faults") is True,
    }


def openings(fleet: Fleet, node: Node) -> list[str]:
    """What a firewall before the node has to let in, a line each. The metrics' port is for nobody outside."""
    ports, others = node.ports, f"from {len(fleet.nodes) - 1} relays"
    tls = [] if ports.tls is None else [f"tcp {ports.tls} from everywhere: TURN over TLS"]
    return [
        f"udp {ports.turn} from everywhere: TURN",
        f"tcp {ports.turn} from everywhere: TURN",
        *tls,
        f"udp {ports.relay_low}-{ports.relay_high} from everywhere: relayed addresses",
        f"udp {ports.overlay} {others}: overlay",
        f"udp {ports.stamp} {others}: measurement",
    ]


def peers(fleet: Fleet, node: Node, masters: list[str]) -> dict[str, object]:
    """etc/peers.json: every other node with the keys that the pair shares. The first key sends, all verify."""
    rows = {
        other.id: {
            "address": other.address,
            "overlay_port": other.ports.overlay,
            "stamp_port": other.ports.stamp,
            "keys": [pair_key(master, node.id, other.id).hex() for master in masters],
        }
        for other in fleet.nodes.values()
        if other.id != node.id
    }
    return {"schema": 1, "peers": rows}


def pair_key(master: str, one: str, other: str) -> bytes:
    """The 32-byte key of two nodes, whichever is asked first.

    A master of 64 hex digits is those 32 bytes; any other text is hashed to 32, the most that BLAKE2s takes.
    """
    key = bytes.fromhex(master) if _HEX_KEY.match(master) else hashlib.blake2s(master.encode()).digest()
    low, high = sorted((one, other))
    message = b"commcli-pair\0" + low.encode() + b"\0" + high.encode()
    return hashlib.blake2s(message, key=key, digest_size=32).digest()


def secret_lines(fleet: Fleet, secrets: Mapping[str, Secret], name: str) -> list[str]:
    """One secret a line, so that an old and a new one hold at once during a rotation. Raises BadInput."""
    if name not in secrets:
        raise BadInput(f"fleet {fleet.name}: secrets has no {name!r}, which relays need")
    lines = [line.strip() for line in secrets[name].reveal().split("\n") if line.strip()]
    if not 1 <= len(lines) <= MOST_KEYS:
        raise BadInput(f"fleet {fleet.name}: secret {name!r} must have 1 to {MOST_KEYS} lines")
    if min(map(len, lines)) < SHORTEST_SECRET:
        raise BadInput(f"fleet {fleet.name}: secret {name!r} is shorter than {SHORTEST_SECRET} characters")
    return lines


def _texts(node: Node, key: str) -> list[str]:
    value = node.variables.get(key, [])
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise BadInput(f"node {node.id}: variable {key!r} must be a list of texts")
    return list(value)


def _document(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
