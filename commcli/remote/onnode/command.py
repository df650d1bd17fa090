"""Running a command on the node: no stdin, a plain environment, output bounded, its whole group killed in time."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from commcli.remote.onnode.step import Place, StepFailed, StepTimeout

if TYPE_CHECKING:
    import subprocess

KEPT = 64 << 10
# A daemon that keeps our pipe open must not keep us: after the command's end this much is waited for its output.
LINGER_S = 0.5
TERM_S = 0.2


class Ran(NamedTuple):
    """A command's end: exit status (negative: a signal) and its output, the middle of a long one cut out."""

    status: int
    stdout: str
    stderr: str

    def why(self) -> str:
        """One line for a report."""
        said = self.last_words()
        return f"exit status {self.status}" + (f": {said}" if said else "")

    def last_words(self) -> str:
        """The last line of what it said, on stderr if it said anything there."""
        said = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return said[-1] if said else ""

    def result(self) -> Mapping[str, Any]:
        """What `register` keeps."""
        return {"status": self.status, "stdout": self.stdout.strip(), "stderr": self.stderr.strip()}


class Kept:
    """The head and tail of a stream, KEPT bytes of each."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._cut = 0

    def add(self, data: bytes) -> None:
        room = KEPT - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room < len(data) else b""
        over = len(self._tail) - KEPT
        if over > 0:
            self._cut += over
            self._tail = self._tail[over:]

    def text(self) -> str:
        gap = f"\n... {self._cut} bytes cut ...\n".encode() if self._cut else b""
        return (self._head + gap + self._tail).decode("utf-8", "replace")


def plain_environment() -> dict[str, str]:
    """Ours, with answers in one language and no questions asked."""
    plain = {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **os.environ, **plain}


def run(
    argv: list[str], place: Place, cwd: str | None = None, environment: Mapping[str, str] | None = None
) -> Ran:
    """Run to the end. Raises StepFailed (can not start) and passes StepTimeout on after killing the group."""
    import subprocess

    # An alarm while it is being started would leave a child that nobody knows: the step's time goes on after that.
    left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd,
            env={**plain_environment(), **(environment or {})}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        signal.setitimer(signal.ITIMER_REAL, left_s)
        raise StepFailed(f"{argv[0]}: {error.strerror}") from None
    with place.guard(child.pid), child:
        try:
            signal.setitimer(signal.ITIMER_REAL, left_s)
            return _collect(child)
        except StepTimeout:
            _kill(child)
            raise
        finally:
            # __exit__ of Popen waits; closed pipes keep it from waiting for a daemon's output.
            for pipe in (child.stdout, child.stderr):
                if pipe is not None:
                    pipe.close()


def _collect(child: subprocess.Popen[bytes]) -> Ran:
    kept = {child.stdout: Kept(), child.stderr: Kept()}
    ended: float | None = None
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (ended is None or time.monotonic() - ended < LINGER_S):
            for key, _ in selector.select(0.05):
                data = os.read(key.fd, 1 << 16)
                kept[key.fileobj].add(data)  # type: ignore[index]
                if not data:
                    selector.unregister(key.fileobj)
            if ended is None and child.poll() is not None:
                ended = time.monotonic()
    return Ran(child.wait(), kept[child.stdout].text(), kept[child.stderr].text())


def _kill(child: subprocess.Popen[bytes]) -> None:
    for number, wait_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        time.sleep(wait_s)
