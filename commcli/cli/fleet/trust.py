"""`commcli fleet trust`: host keys are shown, agreed to, and only then believed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import (
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    settings_from,
)
from commcli.cli.watched import watched

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.remote.outcome import OnEvent
    from commcli.remote.ssh import Pool
    from commcli.remote.trust import Host, Row
    from commcli.settings import Settings


def trust(
    selector: SelectorArg,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: trust those whose keys the inventory expects.")
    ] = False,
    blindly: Annotated[
        bool, typer.Option("--blindly", help="With --yes: also those of which nothing is expected.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Also keys that have changed.")] = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the host keys of nodes that are not known yet, ask for each, and put them into the fleet's known_hosts.

    Jump hosts before them come first. `ssh: host_keys:` of a node in the inventory says which keys are expected; others
    are refused then. Compare fingerprints with what the machine's own console says: ssh-keygen -lf KEY.pub
    """
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import trust as trusting

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    waiting = trusting.hosts(fleet, select(fleet, selector))
    nobody = not yes and not sys.stdin.isatty()
    rows: list[Row] = []
    while waiting:
        # Those behind a jump host come when it is settled whether that is trusted.
        now = [host for host in waiting if not any(other.leads_to(host) for other in waiting)]
        looked = _looked_at(fleet, now, quiet=quiet)
        for row in looked:
            if not nobody:
                _settle(fleet, row, settings, reason, yes=yes, blindly=blindly, replace=replace)
        rows += looked
        waiting = [host for host in waiting if host not in now]
    undone = nobody and any(row.state in ("new", "changed") for row in rows)
    doc = trusting.document(fleet, rows, code=2 if undone else None)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    if undone:
        print("nobody can be asked: name the keys in the inventory and add --yes", file=sys.stderr)
    raise typer.Exit(doc["exit_code"])


def _looked_at(fleet: Fleet, hosts: list[Host], *, quiet: bool) -> list[Row]:
    from commcli.remote import trust as trusting

    keys = trusting.read(fleet.ssh.known_hosts)

    async def work(pool: Pool, on_event: OnEvent) -> list[Row]:
        return await trusting.look(fleet, hosts, pool, keys, on_event)

    return watched(fleet, "host keys", work, quiet=quiet, keys=keys)


def _settle(
    fleet: Fleet,
    row: Row,
    settings: Settings,
    reason: str | None,
    *,
    yes: bool,
    blindly: bool,
    replace: bool,
) -> None:
    """Trust what may be trusted, or say in the row why not."""
    from commcli.remote import trust as trusting
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    if row.state not in ("new", "changed"):
        return
    if row.state == "changed" and not replace:
        row.reason = "if it was rebuilt: --replace; if not, somebody stands between"
        return
    if yes and not (row.host.expected or blindly):
        row.reason = "the inventory does not say which keys are expected (ssh: host_keys:)"
        return
    if not yes and not _agreed(row):
        row.state = "declined"
        return
    detail = {
        "host": row.host.name,
        "place": row.host.place,
        "keys": trusting.told(trusting.to_trust(row)),
        "had": trusting.told(row.had),
    }
    with (
        exclusive(settings.lock, "fleet trust"),
        Store(settings.database) as store,
        store.audited("fleet trust", reason, detail),
    ):
        trusting.write(fleet.ssh.known_hosts, row)


def _agreed(row: Row) -> bool:
    from commcli.remote import trust as trusting
    from commcli.report.printable import printable

    lines = [
        f"{row.host.name} ({row.host.place}) {'has CHANGED its keys' if row.had else 'is not known yet'}"
    ]
    lines += [f"  had    {key['type']:<20} {key['fingerprint']}" for key in trusting.told(row.had)]
    lines += [
        f"  shows  {key['type']:<20} {key['fingerprint']}" for key in trusting.told(trusting.to_trust(row))
    ]
    lines += ["  as the inventory expects"] if row.host.expected else []
    print(printable("\n".join(lines)), file=sys.stderr)
    return typer.confirm("Trust these keys?", err=True)
