"""`commcli probe run`: what probes.yaml schedules, for cron."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import DeadlineOpt, InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import BadInput, CommcliError, Interrupted, LockHeld, Terminated, gravest
from commcli.report import textfile as textfiles

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.report.terminal import Progress
    from commcli.settings import Settings
    from commcli.store.sqlite import Store

LOCK, LOG = "probe-run.lock", "probe-run.log"
BUG = 70


def run(
    textfile: Annotated[
        Path | None,
        typer.Option("--textfile", help="Write gauges for Prometheus here, also when the run fails."),
    ] = None,
    deadline: DeadlineOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Do what probes.yaml has due; for cron, every minute. Silent when good, one line when not; 75: one is at work."""
    settings = settings_from(inventory, state)
    gauges = _Gauges(textfile)
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


class _Gauges:
    """The textfile of one run, whichever way it ends."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._began = time.monotonic()
        self.doc: dict[str, Any] | None = None
        self.code = BUG
        self.problem_code = 0
        self._is_ours = True

    @contextmanager
    def written(self) -> Iterator[None]:
        """Around the run: what ends it is its exit code. A file that can not be written is a line on stderr, one that
        is no file is no run. Where another run is at work the file is that one's.
        """
        if self._path is not None:
            textfiles.check(self._path)
        stopped: type[CommcliError] = Interrupted
        on_sigterm = signal.getsignal(signal.SIGTERM)

        def terminated(number: int, frame: FrameType | None) -> None:
            # It takes the road of Ctrl-C from here on, but has another exit code.
            nonlocal stopped
            stopped = Terminated
            if callable(on_sigterm):
                on_sigterm(number, frame)

        signal.signal(signal.SIGTERM, terminated)
        try:
            yield
        except CommcliError as error:
            self.code = error.exit_code
            self._is_ours = not isinstance(error, LockHeld)
            raise
        except KeyboardInterrupt:
            self.code = stopped.exit_code
            raise
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)
            self._write()

    def _write(self) -> None:
        from commcli.report.probe.run import text

        if self._path is None or not self._is_ours:
            return
        seconds = time.monotonic() - self._began
        new = text(self.doc, self.code, time.time(), seconds, textfiles.read(self._path))
        try:
            textfiles.write(self._path, new)
        except CommcliError as error:
            self.problem_code = error.exit_code
            print(error, file=sys.stderr)


def _run(settings: Settings, deadline_s: float | None, *, quiet: bool) -> dict[str, Any]:
    import asyncio

    from commcli import fleet as fleets
    from commcli.probe.schedule import jobs_of
    from commcli.report import terminal
    from commcli.store.sqlite import Store

    fleet = fleets.load(settings.inventory)
    if not jobs_of(fleet.probes):
        # A file that was lost must not look like a fleet that is well.
        raise BadInput(
            f"{settings.inventory}: nothing is scheduled", hint="probes.yaml says what, and how often."
        )
    with Store(settings.database) as store, terminal.progress("probe run", quiet=quiet) as progress:
        return asyncio.run(_go(fleet, store, progress, deadline_s))


async def _go(fleet: Fleet, store: Store, progress: Progress, deadline_s: float | None) -> dict[str, Any]:
    from commcli.probe.run import Run
    from commcli.remote.ssh import Pool

    def heard(key: str, text: str, state: str) -> None:
        progress.done(key, state) if state else progress.update(key, text)

    async with Pool(fleet) as pool:
        return await Run(fleet, pool, store, heard).go(deadline_s)


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
