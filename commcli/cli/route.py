"""`commcli route`: decide, publish, explain, and go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from commcli.cli import output
from commcli.cli.consent import agree
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    YesOpt,
    settings_from,
)
from commcli.errors import AnswerBad, Refused, Usage

if TYPE_CHECKING:
    import asyncio

    from commcli.fleet.model import Fleet
    from commcli.remote.ssh import Pool
    from commcli.routing.change import Change
    from commcli.routing.decision import Decision
    from commcli.routing.preflight import Preflight
    from commcli.store.sqlite import Store

    class Run(Protocol):
        """Runs one step of a command, under this title, and gives what it gives."""

        def __call__(
            self, title: str, work: Callable[..., Coroutine[Any, Any, Any]], *, changes: bool = False
        ) -> Any: ...


app = typer.Typer(help="Decide, publish and explain the routes.", no_args_is_help=True)

# With more of the routed pairs silent than this, it is the measuring that broke, not the fleet.
VANISHED_SHARE = 0.3

CanaryOpt = Annotated[
    str | None, typer.Option("--canary", help="The node to push to first (default: the first that answers).")
]
AwayOpt = Annotated[
    list[str] | None, typer.Option("--away", help="Plan as if this node were out of service (repeatable).")
]


@app.command()
def plan(
    away: AwayOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show what the next table would change, and why. Touches no node and changes nothing."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        decision, unfinished = _decide(fleet, store, away or [])
    doc = answer.plan(decision, fleet.name, unfinished=unfinished)
    output.emit(doc, as_json=as_json, quiet=quiet, good=not doc["changed"])


@app.command()
def apply(
    yes: YesOpt = False,
    canary: CanaryOpt = None,
    reason: ReasonOpt = None,
    away: AwayOpt = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish although much of the mesh fell silent.")
    ] = False,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Plan, sign, publish: canary first, then waves; every relay confirms the serial that it loaded.

    A node that refuses or fails stops it, and what was touched goes back to the former routes (exit 6).
    """
    from commcli.routing import answer, preflight

    with _changing("route apply", inventory, state, deadline, quiet) as (change, run):
        _check_canary(change.fleet, canary)
        found = run("asking relays", change.look)
        decision, unfinished = _decide(change.fleet, change.store, away or [], found)
        plan_doc = answer.plan(decision, change.fleet.name, unfinished=unfinished)
        reasons = preflight.why_publish(decision, found, now_unix=time.time())
        rollout = None
        if reasons:
            _refuse_blind(decision, force)
            _agree(change.fleet, plan_doc, yes)
            told = {"serial": decision.table.serial, "because": reasons}
            push = partial(change.publish, decision.table, decision.in_force, found)
            work = partial(push, canary=canary, reason=reason, told=told)
            rollout = run(f"table {decision.table.serial}", work, changes=True)
        doc = answer.applied(plan_doc, rollout, found.absent)
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


@app.command()
def rollback(
    serial: Annotated[
        int | None, typer.Argument(help="The table to go back to (default: the one before).")
    ] = None,
    yes: YesOpt = False,
    canary: CanaryOpt = None,
    reason: ReasonOpt = None,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Publish an earlier table's routes under a new serial. Refused (exit 5) where a zone of today forbids
    one.
    """
    from commcli.routing import answer, history
    from commcli.routing import policy as policies
    from commcli.routing import table as tables

    with _changing("route rollback", inventory, state, deadline, quiet) as (change, run):
        _check_canary(change.fleet, canary)
        now = history.situation(change.store)
        if serial is None:
            serial = history.before(change.store, now.in_force.serial if now.in_force else 0)
        kept, rules = history.kept(change.store, serial), policies.of(change.fleet)
        _refuse_unlawful(serial, tables.unlawful(tables.under_policy(kept, rules), rules))
        found = run("asking relays", change.look)
        old = tables.under_policy(kept, policies.of(change.fleet, draining=found.draining))
        table = tables.under_serial(old, max(now.latest_serial, found.highest) + 1, int(time.time()))
        plan_doc = answer.going_back(table, now.in_force, change.fleet.name, serial)
        _agree(change.fleet, plan_doc, yes)
        told = {"serial": table.serial, "routes_of": serial}
        push = partial(change.publish, table, now.in_force, found)
        work = partial(push, canary=canary, reason=reason, told=told)
        rollout = run(f"table {table.serial}", work, changes=True)
        doc = answer.applied(plan_doc, rollout, found.absent, verb="rollback")
    output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(doc["exit_code"])


@app.command()
def show(
    selector: SelectorArg = "all",
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Show the routes in force, by the record, from the selected nodes. Exit 1: none yet, or expired."""
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.routing import answer, history
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    nodes = [node.id for node in select(fleet, selector)]
    with Store(settings.database) as store:
        table = history.situation(store).in_force
    if table is None:
        raise AnswerBad("no table has been published yet", hint="commcli route apply")
    doc = answer.show(table, fleet.name, nodes, now_unix=time.time())
    output.emit(doc, as_json=as_json, quiet=quiet, good=not doc["expired"])
    raise typer.Exit(AnswerBad.exit_code if doc["expired"] else 0)


@app.command()
def explain(
    a: Annotated[str, typer.Argument(metavar="A", help="Where media comes in: a node, or a market.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Where it goes out: a node, or a market.")],
    away: AwayOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show every way from A to B: what it costs, or which zone, state or missing figure removed it."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.routing import explain as explanations
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    source, target = explanations.edge_of(fleet, a), explanations.edge_of(fleet, b)
    if source == target:
        raise Usage(f"{a} and {b} are both served by {source}: media between them stays on that node")
    with Store(settings.database) as store:
        decision, _ = _decide(fleet, store, away or [])
    found = explanations.explain(decision, source, target)
    ends = {"source": None if a == source else a, "target": None if b == target else b}
    output.emit(answer.explain(found, ends, decision), as_json=as_json)


@app.command()
def history(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many tables to list.")] = 20,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """List the tables that were signed here: when, why, and what became of each."""
    from commcli import fleet as fleets
    from commcli.routing import answer
    from commcli.routing import history as histories
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with Store(settings.database) as store:
        rows, now = store.tables(limit), histories.situation(store)
    doc = answer.history(rows, fleet.name, now.in_force.serial if now.in_force else None)
    output.emit(doc, as_json=as_json, quiet=quiet)


def _decide(
    fleet: Fleet, store: Store, away: list[str], found: Preflight | None = None
) -> tuple[Decision, tuple[int, ...]]:
    """Decide on what the store holds, and on what relays were `found` to say: which serials they have, which
    of them drain. Also the serials of rollouts that were broken off.

    Raises AnswerBad when nothing fresh was measured: a plan made of nothing would take every route away.
    """
    from commcli.routing import estimate, history
    from commcli.routing.decision import decide

    unknown = sorted(set(away) - set(fleet.nodes))
    if unknown:
        raise Usage(f"--away {unknown[0]}: no such node")
    now = time.time()
    known = history.situation(store)
    decision = decide(
        fleet,
        store.mesh(since=now - 2 * estimate.MAX_AGE_S),
        in_force=known.in_force,
        serial=max(known.latest_serial, found.highest if found else 0) + 1,
        now_unix=now,
        away=away,
        draining=found.draining if found else (),
    )
    if not decision.estimate.measured.any():
        raise AnswerBad(
            f"nothing measured in the last {estimate.MAX_AGE_S / 60:.0f} minutes: the table in force stays",
            hint="commcli probe mesh",
        )
    return decision, known.unfinished


@contextmanager
def _changing(
    command: str, inventory: Path | None, state: Path | None, deadline_s: float | None, quiet: bool
) -> Iterator[tuple[Change, Run]]:
    """The lock, the store and the connections of one changing command, and a way to run its steps with
    progress.
    """
    import asyncio

    from commcli import fleet as fleets
    from commcli.remote.ssh import Pool
    from commcli.report import terminal
    from commcli.routing.change import Change
    from commcli.store.lock import exclusive
    from commcli.store.sqlite import Store

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with (
        exclusive(settings.lock, command),
        Store(settings.database) as store,
        asyncio.Runner() as runner,
        _connected(runner, Pool(fleet)) as pool,
    ):

        def run(title: str, work: Callable[..., Coroutine[Any, Any, Any]], *, changes: bool = False) -> Any:
            with (
                terminal.progress(title, quiet=quiet) as progress,
                output.naming_unknowns(progress.now if changes else {}),
            ):
                return runner.run(work(on_event=progress.take))

        yield Change(command, fleet, store, pool, deadline_s=deadline_s), run


@contextmanager
def _connected(runner: asyncio.Runner, pool: Pool) -> Iterator[Pool]:
    # One pool for all steps of a command: a second login would cost more than the push.
    runner.run(pool.__aenter__())
    try:
        yield pool
    finally:
        runner.run(pool.__aexit__(None, None, None))


def _check_canary(fleet: Fleet, canary: str | None) -> None:
    if canary is not None and canary not in fleet.nodes:
        raise Usage(f"--canary {canary}: no such node")


def _refuse_blind(decision: Decision, force: bool) -> None:
    from commcli.routing.decision import vanished

    share = vanished(decision)
    if share > VANISHED_SHARE and not force:
        raise Refused(
            f"{share:.0%} of the routed pairs are no longer measured: the table in force stays",
            hint="commcli probe mesh, then again; --force if the nodes are really gone.",
        )


def _refuse_unlawful(serial: int, found: list[tuple[tuple[str, str], str, tuple[str, ...], str]]) -> None:
    if found:
        _, role, path, zone = found[0]
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise Refused(
            f"table {serial} breaks zone {zone} of today: {role} {' > '.join(path)}{more}",
            hint="commcli route apply plans under today's zones.",
        )


def _agree(fleet: Fleet, plan_doc: Mapping[str, Any], yes: bool) -> None:
    from commcli.report import route, terminal

    def show() -> None:
        terminal.stderr().print(route.DRAW["plan"](plan_doc))

    nodes = len(fleet.nodes)
    agree(fleet, f"publish to {nodes} nodes", nodes, yes=yes, first=show)
