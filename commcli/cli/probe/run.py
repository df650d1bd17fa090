"""`commcli probe run`: what probes.yaml schedules, for cron."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from commcli.cli import output
from commcli.cli.gauges import Gauges, TextfileOpt
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import BadInput, LockHeld, gravest

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.report.progress import Progress
    from commcli.settings import Settings
    from commcli.store.sqlite import Store

LOCK, LOG = "probe-run.lock", "probe-run.log"


def run(
    textfile: TextfileOpt = None,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Do what probes.yaml has due; for cron, every minute. Silent when good, one line when not; 75: one is at work."""
    from commcli.report.probe.run import text

    settings = settings_from(inventory, state)
    gauges = Gauges(textfile, text)
    with gauges.written(), _alone(settings):
        gauges.doc = doc = _run(settings, deadline, quiet=quiet or as_json)
        gauges.code = doc["exit_code"]
        _tell(doc, settings, as_json=as_json, quiet=quiet)
    raise typer.Exit(gravest((doc["exit_code"], gauges.problem_code)))


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """A lock of its own: while a table is published or a play runs, measuring goes on."""
    from commcli.store.lock import exclusive

    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(settings.state / LOCK, "probe run"))
        except LockHeld as error:
            # One line, for cron: without the hint, which is for changes.
            raise LockHeld(str(error)) from None
        yield


def _run(settings: Settings, deadline_s: float | None, *, quiet: bool) -> dict[str, Any]:
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe.schedule import jobs_of
    from commcli.report.progress import following

    fleet = fleets.load(settings.inventory)
    if not jobs_of(fleet.probes):
        # A file that was lost must not look like a fleet that is well.
        raise BadInput(
            f"{settings.inventory}: nothing is scheduled", hint="probes.yaml says what, and how often."
        )
    with (
        output.storing(settings.database, fleet, quiet=True) as store,
        following("probe run", quiet=quiet) as progress,
    ):
        return asyncio.run(_go(fleet, store, progress, deadline_s))


async def _go(fleet: Fleet, store: Store, progress: Progress, deadline_s: float | None) -> dict[str, Any]:
    from commcli.probe.run import Run
    from commcli.remote.ssh import Pool

    def explore() -> dict[str, list[str]]:
        if not fleet.mesh_is_tight:
            return {}
        from commcli.routing.explore import wanted

        return wanted(fleet, store, time.time())

    def heard(key: str, text: str, state: str) -> None:
        progress.done(key, state) if state else progress.update(key, text)

    async with Pool(fleet) as pool:
        return await Run(fleet, pool, store, heard, explore=explore).go(deadline_s)


def _tell(doc: dict[str, Any], settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """A person sees a table; cron hears nothing, or one line. What was not good is in the log, whoever looks."""
    from commcli.probe import runlog
    from commcli.report.probe.run import line

    good, log = doc["exit_code"] == 0, settings.state / LOG
    if not good:
        runlog.append(log, doc)
    if as_json or sys.stdout.isatty():
        output.emit(doc, as_json=as_json, quiet=quiet, good=good)
    elif not good:
        print(line(doc, log))
