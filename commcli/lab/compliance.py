"""The story's lawbreaker: a zone for the lab's inventory, and a properly signed table that violates it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from commcli.errors import CommcliError, Refused
from commcli.fleet.loader import load
from commcli.fleet.model import Fleet, Zone
from commcli.lab import inventory
from commcli.lab.folder import LabFolder, write_atomic
from commcli.remote.outcome import Outcome, each
from commcli.remote.ssh import Pool
from commcli.remote.sshsig import sign
from commcli.routing import table as tables
from commcli.routing.publish import Package, SshNodes
from commcli.routing.rows import Route
from commcli.settings import Settings
from commcli.store.sqlite import Store


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


def forge(folder: LabFolder, path: Sequence[str]) -> Package:
    """A newer table than the newest one kept, signed with the real key, whose route from end to end is `path`.

    Everything else about it is right: serial, hashes, dates, signature, and the zones that it then breaks.
    """
    with Store(Settings(folder.inventory, folder.state).database) as store:
        kept = store.table(store.latest_serial())
    if kept is None:
        raise Refused("the lab has published no table that could be forged")
    table = tables.decode(kept.manifest, kept.shards)
    routes = {**table.routes, (path[0], path[-1]): Route(tuple(path))}
    forged = tables.encode(replace(table, serial=kept.serial + 1, routes=routes))
    signature = sign(forged.manifest, folder.keys / "signer", False, tables.NAMESPACE)
    return Package(kept.serial + 1, forged.manifest, signature, forged.shards)


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
