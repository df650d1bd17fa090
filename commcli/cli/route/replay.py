"""`commcli route replay`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.routing.recorded import Recorded


def replay(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA.npz", help="Key rtt: (slices, nodes, nodes) in ms; perhaps loss and names."
        ),
    ] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="Replay what the mesh measured here, an hour a slice.")
    ] = False,
    since: Annotated[str, typer.Option("--since", help="How far back the store is read.")] = "30d",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Back-test the present rules on recorded round trips: each slice is decided on the ones before it, and scored."""
    from commcli.report import terminal
    from commcli.routing import answer, recorded
    from commcli.routing import replay as replays

    if (data is None) != from_store:
        raise Usage("a file or --from-store, one of them")
    rtt, loss, names = recorded.read(data) if data is not None else _stored(inventory, state, since)
    replays.check(rtt, loss)
    with terminal.progress("replay", quiet=quiet or as_json) as progress:
        scores = replays.replay(rtt, loss, on_slice=lambda score: progress.update("slice", str(score.slice)))
    source = "the store" if data is None else str(data)
    output.emit(answer.replayed(scores, source, len(names)), as_json=as_json, quiet=quiet)


def _stored(inventory: Path | None, state: Path | None, since: str) -> Recorded:
    from commcli import fleet as fleets
    from commcli.fleet import duration
    from commcli.routing import recorded
    from commcli.store.sqlite import Store

    span_s = duration.seconds(since)
    if span_s is None:
        raise Usage(f"--since {since}: must be such as 24h or 30d")
    settings = settings_from(inventory, state)
    names = sorted(fleets.load(settings.inventory).nodes)
    now = time.time()
    with Store(settings.database) as store:
        rtt, loss = recorded.of_hours(names, store.mesh_hours(now - span_s, now))
    return rtt, loss, names
