"""Work on nodes with a display of how far it is, and a word on those of whom nobody knows when it is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from commcli.cli import output
from commcli.errors import BadInput

if TYPE_CHECKING:
    import asyncio

    from commcli.fleet.model import Fleet
    from commcli.remote.hostkeys import HostKeys
    from commcli.remote.outcome import Event, OnEvent
    from commcli.remote.ssh import Pool
    from commcli.store.recorded import Recording

T = TypeVar("T")


def watched(
    fleet: Fleet,
    title: str,
    work: Callable[[Pool, OnEvent], Awaitable[T]],
    *,
    quiet: bool,
    keys: HostKeys | None = None,
    recording: Recording | None = None,
) -> T:
    """Run with a progress display. After Ctrl-C, name the nodes whose state nobody knows.

    `keys` stand in for those of the known_hosts file; `recording` is told what the display is.
    """
    import asyncio

    from commcli.remote.ssh import Pool
    from commcli.report.progress import following

    async def pooled(on_event: OnEvent) -> T:
        async with Pool(fleet, keys=keys) as pool:
            return await work(pool, on_event)

    with following(title, quiet=quiet) as progress, output.naming_unknowns(progress.now):

        def take(event: Event) -> None:
            progress.take(event)
            if recording is not None:
                recording.take(event)

        return asyncio.run(pooled(take))


def tell(recording: Recording, act: Callable[[], Any], *, quiet: bool) -> Any:
    """The document of `act`. Its run is named on stderr: at once to who watches, and where it does not end well."""
    is_watched = sys.stderr.isatty() and not quiet
    if is_watched:
        print(f"run {recording.run}", file=sys.stderr)
    try:
        doc = act()
    except BaseException as error:
        from commcli.store.door import StoreBroken

        # Of bad input no node was touched; a disk that fills up is found by writing what was done.
        if not isinstance(error, BadInput) or isinstance(error, StoreBroken):
            print(_where(recording), file=sys.stderr)
        raise
    recording.end(doc)
    if doc["exit_code"] and not quiet:
        print(_where(recording), file=sys.stderr)
    return doc


def _where(recording: Recording) -> str:
    return f"run {recording.run}: log {recording.log}"


@contextmanager
def connected(runner: asyncio.Runner, pool: Pool) -> Iterator[Pool]:
    """The one pool of a command of several steps: a second login would cost more than most of them."""
    runner.run(pool.__aenter__())
    try:
        yield pool
    finally:
        runner.run(pool.__aexit__(None, None, None))
