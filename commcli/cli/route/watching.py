"""How `commcli route apply` watches its canary: by what its relay says, and by a real call where it carries none."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.errors import BadInput, CommcliError

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.fleet.probing import ProbePair
    from commcli.probe.ask import Ask
    from commcli.remote.ssh import Pool
    from commcli.routing.change import Change
    from commcli.routing.watch import Seen, Watch
    from commcli.store.sqlite import Store

    MakeCall = Callable[[Fleet, Pool, Ask], Awaitable[Mapping[str, Any]]]

# As routing/watch.py has it, which is not worth its imports here.
WATCH_S = 5.0
# How its calls are marked in the store.
MARK = "canary"
RECENT_S = 86400.0

WatchOpt = Annotated[
    float,
    typer.Option(
        "--watch-s",
        min=0,
        max=600,
        help="Seconds to watch the canary's calls before the waves; one probe call where it carries none. "
        "0: believe the serial.",
    ),
]


def watching(change: Change, seconds: float) -> Watch | None:
    """The watch of this run; None for no seconds."""
    if not seconds:
        return None

    async def call(node: Node) -> Seen | None:
        from commcli.probe.call import call

        pair = pair_of(change.fleet, node)
        return None if pair is None else await called(change, pair, call)

    return change.watch(seconds, call)


def pair_of(fleet: Fleet, node: Node) -> ProbePair | None:
    """The first pair of probes.yaml with this node as an edge, if a call can be made between its ends."""
    from commcli.probe.ask import resolve

    if isinstance(fleet.probing, BadInput):
        return None  # `fleet check` tells; a rollout is not broken off for it
    for pair in fleet.probing.pairs:
        try:
            ends = [resolve(fleet, market).node for market in (pair.a, pair.b)]
        except CommcliError:
            continue
        if node in ends and all(end.probe_python for end in ends):
            return pair
    return None


async def called(change: Change, pair: ProbePair, make_call: MakeCall) -> Seen:
    """A call that is bad speaks against the table, unless the last one before it was bad as well."""
    from commcli.probe.ask import Ask
    from commcli.routing.watch import Seen

    name = f"probe call {pair.a} to {pair.b}"
    was_bad = _was_bad(change.store, pair)
    ask = Ask(pair.a, pair.b, seconds=pair.seconds, profile=pair.profile, transport=pair.transport)
    try:
        doc = await make_call(change.fleet, change.pool, ask)
    except CommcliError as error:
        return Seen(f"it carries no calls, and the {name} could not be made: {error}")
    change.store.record_call(doc, run=MARK)
    if doc["verdict"] != "bad":
        return Seen(f"it carries no calls; {name}: {doc['verdict']}")
    words = f"{name} is bad: {'; '.join(doc['reasons'])}"
    return Seen(f"{words}; but so was the one before") if was_bad else Seen(words, is_bad=True)


def _was_bad(store: Store, pair: ProbePair) -> bool:
    """Whether the last such call was bad. Calls through a canary do not count: the table may be at fault for them."""
    earlier = [
        row
        for row in store.calls_since(time.time() - RECENT_S)
        if (row["from_market"], row["to_market"]) == (pair.a, pair.b) and row["valid"] and row["run"] != MARK
        if not row["direct"] and not row["plain"] and row["via"] is None
    ]
    return bool(earlier) and earlier[-1]["verdict"] == "bad"
