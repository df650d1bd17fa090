"""`commcli route replay`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import BadInput, Usage

if TYPE_CHECKING:
    from commcli.routing.policy import Masks
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
    media: Annotated[
        str, typer.Option("--media", help="What the routes are for: audio, video or data.", metavar="CLASS")
    ] = "audio",
    zones: Annotated[
        Path | None,
        typer.Option(
            "--zones", metavar="FILE", help="Under these zones: a zones.yaml (the store: the inventory's)."
        ),
    ] = None,
    since: Annotated[str, typer.Option("--since", help="How far back the store is read.")] = "30d",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Back-test the present rules on recorded round trips: each slice is decided on the ones before it, and scored."""
    from commcli.report.progress import following
    from commcli.routing import answer, recorded
    from commcli.routing import replay as replays
    from commcli.routing.cost import CLASSES

    if (data is None) != from_store:
        raise Usage("a file or --from-store, one of them")
    if media not in CLASSES:
        raise Usage(f"--media {media}: not one of {', '.join(CLASSES)}")
    if data is not None:
        found = recorded.read(data)
        masks = None if zones is None else _masks(data, found, zones)
    else:
        found, masks = _stored(inventory, state, since, zones)
    replays.check(found.rtt, found.loss)
    with following("replay", quiet=quiet or as_json) as progress:
        scores = replays.replay(
            found.rtt,
            found.loss,
            prices=CLASSES[media],
            masks=masks,
            on_slice=lambda score: progress.update("slice", str(score.slice)),
        )
    source = "the store" if data is None else str(data)
    blocked = 0 if masks is None else int(masks.blocked.sum())
    output.emit(
        answer.replayed(scores, source, len(found.names), blocked=blocked), as_json=as_json, quiet=quiet
    )


def _masks(data: Path, found: Recorded, zones: Path) -> Masks:
    from commcli.fleet.loader import zones_of
    from commcli.routing import policy

    rules = zones_of(zones)
    if found.countries is None:
        raise BadInput(f"{data}: has no key countries, so no zone can be obeyed")
    return policy.masks(policy.of_countries(found.countries, rules))


def _stored(
    inventory: Path | None, state: Path | None, since: str, zones: Path | None
) -> tuple[Recorded, Masks]:
    from commcli import fleet as fleets
    from commcli.fleet import duration
    from commcli.routing import policy, recorded
    from commcli.store.sqlite import Store

    span_s = duration.seconds(since)
    if span_s is None:
        raise Usage(f"--since {since}: must be such as 24h or 30d")
    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory, zones=zones)
    names = sorted(fleet.nodes)
    now = time.time()
    with Store(settings.database) as store:
        rtt, loss = recorded.of_hours(names, store.mesh_hours(now - span_s, now))
    # As every node that exists may be: which of them drained then is not known.
    rules = replace(policy.of(fleet), states=dict.fromkeys(names, "active"))
    return recorded.Recorded(rtt, loss, names), policy.masks(rules)
