"""Foreign programs that run beside each other: most of their seconds are spent waiting."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.relay.serving import dies_with_us

ROOT = Path(__file__).parents[2]
# Where `make peers` puts what it builds and fetches; ignored by git.
BUILT = ROOT / "build" / "peers"
# A hang must not stop the suite; none of these takes a third of it.
TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Done:
    """How a program ended and what it said. `code` None: it had not ended in time and was killed."""

    code: int | None
    output: str


class Batch:
    """Runs commands, so many at once; `result(name)` waits for the end of one."""

    def __init__(self, commands: Mapping[str, Sequence[str]], at_once: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._running: set[subprocess.Popen[str]] = set()
        self._pool = ThreadPoolExecutor(at_once)
        self._ends: dict[str, Future[Done]] = {
            name: self._pool.submit(self._run, command) for name, command in commands.items()
        }

    def result(self, name: str) -> Done:
        """How it ended."""
        return self._ends[name].result()

    def wait(self) -> None:
        """Until all of them have ended."""
        for end in self._ends.values():
            end.result()

    def close(self) -> None:
        """End what still runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._running):
            process.kill()
        self._pool.shutdown()

    def _run(self, command: Sequence[str]) -> Done:
        late = threading.Event()
        # Its standard input stays open until it ends: one that reads it knows by the end that we are gone.
        with subprocess.Popen(
            dies_with_us(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            self._running.add(process)

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(self._timeout_s, end)
            timer.start()
            try:
                output = process.stdout.read()
                code = process.wait()
            finally:
                timer.cancel()
                self._running.discard(process)
        return Done(None if late.is_set() else code, output)


@contextlib.contextmanager
def batch(
    commands: Mapping[str, Sequence[str]], *, at_once: int = 8, timeout_s: float = TIMEOUT_S
) -> Iterator[Batch]:
    """The commands, running; what still runs at the end of the body is killed."""
    running = Batch(commands, at_once, timeout_s)
    try:
        yield running
    finally:
        running.close()


def selected(request: pytest.FixtureRequest, argument: str) -> list[str]:
    """The values of the parameter `argument` in those tests of this file that this run is to do."""
    values: dict[str, None] = {}
    for item in request.session.items:
        call = getattr(item, "callspec", None)
        if call is not None and item.path == request.path and argument in call.params:
            values[call.params[argument]] = None
    return list(values)


def need_built(path: Path, what: str) -> Path:
    """A file that `make peers` makes, or a skip that names what is missing."""
    if not path.exists():
        pytest.skip(f"{what} is not built here: make peers")
    return path
