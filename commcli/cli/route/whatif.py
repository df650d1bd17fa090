"""`commcli route whatif`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.cli.route.deciding import decide_on, facts
from commcli.errors import AnswerBad, Usage


def whatif(
    down: Annotated[
        list[str] | None, typer.Option("--down", help="As if this node were out of service (repeatable).")
    ] = None,
    zone: Annotated[
        Path | None, typer.Option("--zone", metavar="FILE", help="A zones.yaml in place of the inventory's.")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            metavar="NODE[=LIKE]",
            help="As if this node were active; NEW=LIKE: a new one beside LIKE, its edges assumed to be LIKE's "
            "(repeatable).",
        ),
    ] = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the table that would follow: the load that moves, the pairs that get worse or lose their path.

    Compared with what would be planned now. Touches no node. Exits 1 where a pair loses its path or a market its last
    edge.
    """
    from commcli import fleet as fleets
    from commcli.routing import whatif as whatifs
    from commcli.store.sqlite import Store

    if not (down or zone or add):
        raise Usage("--down, --zone or --add: what if what?")
    settings, away = settings_from(inventory, state), list(dict.fromkeys(down or []))
    fleet = fleets.load(settings.inventory)
    ruled = fleet if zone is None else fleets.load(settings.inventory, zones=zone)
    additions = whatifs.read_additions(add or [], fleet)
    other = whatifs.with_additions(ruled, additions)
    unknown = sorted(set(away) - set(other.nodes))
    if unknown:
        raise Usage(f"--down {unknown[0]}: no such node")
    with Store(settings.database) as store:
        held = facts(store)
    now, _ = decide_on(fleet, held, [], networks=False)
    assumed = replace(held, windows=whatifs.assumed(held.windows, additions))
    then, _ = decide_on(other, assumed, away, networks=False)
    found = whatifs.consequence(now, then, fleet, other, away)
    doc = whatifs.document(
        found,
        now,
        then,
        fleet=fleet.name,
        down=away,
        zones=None if zone is None else str(zone),
        additions=additions,
    )
    output.emit(doc, as_json=as_json, quiet=quiet, good=found.is_harmless)
    raise typer.Exit(0 if found.is_harmless else AnswerBad.exit_code)
