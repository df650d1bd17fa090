"""What the verbs share that publish: the lock, the connections, and the consent."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from commcli.cli import output
from commcli.cli.consent import agree as consent
from commcli.cli.options import settings_from
from commcli.cli.watched import connected
from commcli.errors import Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet
    from commcli.routing.change import Change

    class Run(Protocol):
        """Runs one step of a command, under this title, and gives what it gives."""

        def __call__(
            self, title: str, work: Callable[..., Coroutine[Any, Any, Any]], *, changes: bool = False
        ) -> Any: ...


CanaryOpt = Annotated[
    str | None, typer.Option("--canary", help="The node to push to first (default: the first that answers).")
]


@contextmanager
def changing(
    command: str, inventory: Path | None, state: Path | None, deadline_s: float | None, quiet: bool
) -> Iterator[tuple[Change, Run]]:
    """The lock, the store and the connections of one changing command, and a way to run its steps with
    progress.
    """
    import asyncio

    from commcli import fleet as fleets
    from commcli.remote.ssh import Pool
    from commcli.report.progress import following
    from commcli.routing.change import Change
    from commcli.store.lock import exclusive

    settings = settings_from(inventory, state)
    fleet = fleets.load(settings.inventory)
    with (
        exclusive(settings.lock, command),
        output.storing(settings.database, fleet, quiet=quiet) as store,
        asyncio.Runner() as runner,
        connected(runner, Pool(fleet)) as pool,
    ):

        def run(title: str, work: Callable[..., Coroutine[Any, Any, Any]], *, changes: bool = False) -> Any:
            with (
                following(title, quiet=quiet) as progress,
                output.naming_unknowns(progress.now if changes else {}),
            ):
                return runner.run(work(on_event=progress.take))

        yield Change(command, fleet, store, pool, deadline_s=deadline_s), run


def check_canary(fleet: Fleet, canary: str | None) -> None:
    if canary is not None and canary not in fleet.nodes:
        raise Usage(f"--canary {canary}: no such node")


def agree(fleet: Fleet, plan_doc: Mapping[str, Any], yes: bool, reasons: Sequence[str] = ()) -> None:
    """Show the plan, and the `reasons` to publish it, and ask."""
    from commcli.report import route, terminal

    def show() -> None:
        terminal.stderr().print(route.DRAW["plan"](plan_doc))
        for reason in reasons:
            terminal.stderr().print(reason, markup=False, highlight=False)

    nodes = len(fleet.nodes)
    consent(fleet, f"publish to {nodes} nodes", nodes, yes=yes, first=show)
