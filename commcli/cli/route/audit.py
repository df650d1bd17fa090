"""`commcli route audit`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    SelectorArg,
    StateOpt,
    settings_from,
    span_s,
)

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.outcome import Outcome
    from commcli.routing.audit import Record
    from commcli.routing.held import Held
    from commcli.routing.table import Encoded
    from commcli.store.sqlite import Store


def audit(
    selector: SelectorArg = "all",
    expires_within: Annotated[
        str, typer.Option("--expires-within", help="Complain of a table that expires within this time.")
    ] = "3d",
    max_age: Annotated[
        str, typer.Option("--max-age", help="Complain of a table that was signed longer ago than this.")
    ] = "4d",
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Ask every relay for the table that it holds, and judge each path by today's zones; serials, expiry, age.

    Exits 5 when a path passes a forbidden country, 1 for any other finding, 4 when the only trouble is reach.
    """
    import asyncio

    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.routing import audit as audits
    from commcli.routing import history, policy
    from commcli.store.sqlite import Store

    limits = audits.Limits(span_s("--expires-within", expires_within), span_s("--max-age", max_age))
    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        serial = history.serial_in_force(store)
        outcomes = asyncio.run(
            _held(fleet, select(fleet, selector), _encoded(store, serial), deadline_s=deadline, quiet=quiet)
        )
        held = [outcome.value for outcome in outcomes if outcome.value is not None]
        record = _record(store, serial, (each.serial for each in held))
    rules, now = policy.of(fleet), time.time()
    verdicts = [audits.judge(rules, each, record, limits, now_unix=now) for each in held]
    absent = [outcome for outcome in outcomes if outcome.value is None]
    doc = audits.document(fleet.name, record, limits, verdicts, absent, now_unix=now)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


def _encoded(store: Store, serial: int | None) -> Encoded | None:
    from commcli.routing.table import Encoded

    kept = None if serial is None else store.table(serial)
    return None if kept is None else Encoded(kept.manifest, kept.shards)


def _record(store: Store, in_force: int | None, serials: Iterable[int | None]) -> Record:
    from commcli.routing.audit import Record
    from commcli.routing.table import sha256

    kept = {serial: store.table(serial) for serial in set(serials) if serial is not None}
    return Record(in_force, {serial: sha256(found.manifest) for serial, found in kept.items() if found})


async def _held(
    fleet: Fleet, nodes: Sequence[Node], expected: Encoded | None, *, deadline_s: float | None, quiet: bool
) -> list[Outcome[Held]]:
    from commcli.remote.ssh import Pool
    from commcli.report.progress import following
    from commcli.routing import held

    with following("asking relays", quiet=quiet) as progress:
        async with Pool(fleet) as pool:
            return await held.gather(
                fleet, nodes, pool, expected, deadline_s=deadline_s, on_event=progress.take
            )
