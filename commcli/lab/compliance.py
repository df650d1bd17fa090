"""The story's lawbreaker: a zone for the lab's inventory, and a properly signed table that violates it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commcli.errors import CommcliError, Refused
from commcli.fleet.loader import load
from commcli.fleet.model import Fleet, Zone
from commcli.lab import inventory, keys
from commcli.lab.folder import LabFolder, write_atomic
from commcli.remote.outcome import Outcome, each
from commcli.remote.ssh import Pool
from commcli.routing.publish import Package, SshNodes


def forbid(folder: LabFolder, between: tuple[str, str], country: str) -> Zone:
    """Add a zone to the lab's zones.yaml: media between these two markets must not touch `country`."""
    one, other = between
    zone = Zone(
        id=f"{one}-{other}-not-by-{country}",
        between=(frozenset({one}), frozenset({other})),
        forbid=frozenset({country}),
        reason=f"The lab's story: media between {one} and {other} must not transit {country}.",
    )
    kept = [known for known in load(folder.inventory).zones if known.id != zone.id]
    write_atomic(folder.inventory / "zones.yaml", inventory.zones_text([*kept, zone]))
    return zone


def forge(folder: LabFolder, source: str, path: Sequence[str]) -> Package:
    """A newer table than the one on `source`, signed with the real key, whose route to path[-1] is `path`.

    Everything else about it is right: serial, hashes, dates, signature, and the zones that it then breaks.
    """
    current = folder.base(source) / "table/current"
    manifest: dict[str, Any] = json.loads((current / "manifest.json").read_bytes())
    shard: dict[str, Any] = json.loads((current / "shard.json").read_bytes())
    serial = int(manifest["serial"]) + 1
    shard["serial"] = manifest["serial"] = serial
    shard["routes"][path[-1]] = {"primary": list(path), "backup": None, "last_resort": None}
    text = _canonical(shard)
    manifest["shards"][source] = hashlib.sha256(text).hexdigest()
    signed = _canonical(manifest)
    return Package(serial, signed, _sign(folder.keys / "signer", signed), {source: text})


def push(folder: LabFolder, node: str, package: Package) -> str:
    """Push a table to one node as `route apply` does, past every check of ours; the relay's reason to refuse it.

    "" when it was not refused.
    """
    outcome = asyncio.run(_push(load(folder.inventory), node, package))
    if outcome.state == "done":
        return ""
    if outcome.state != "refused":
        raise CommcliError(f"the forged table did not reach {node}: {outcome.state}: {outcome.reason}")
    return outcome.reason


async def _push(fleet: Fleet, node: str, package: Package) -> Outcome[int]:
    async with Pool(fleet) as pool:
        side = SshNodes(pool.connect)
        (outcome,) = await each(
            [fleet.nodes[node]], lambda target: side.install(target, package), parallel=1, node_timeout_s=30.0
        )
    return outcome


def _sign(key: Path, data: bytes) -> str:
    command = [keys.require_tools(), "-q", "-Y", "sign", "-f", str(key), "-n", keys.NAMESPACE]
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode != 0:
        raise Refused(f"ssh-keygen did not sign: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
