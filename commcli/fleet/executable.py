"""An inventory, or a part of one, that a program prints as JSON: run without a shell, bounded in time and in size."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import time
from pathlib import Path

from commcli.fleet import jsondoc
from commcli.fleet.record import Record
from commcli.fleet.yamlfile import Problems, YamlMap, shown

DEADLINE_S = 30.0
MOST_BYTES = 64 << 20
STDERR_KEPT = 2000
MOST_CACHE_S = 86_400
# Nothing else of our environment: what the program is to know, it looks up, or it is a script that says so.
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")


class NoAnswer(Exception):
    """The program gave none; `str(error)` is why."""


def is_executable(path: Path) -> bool:
    """Whether it is a file that we may run."""
    return path.is_file() and os.access(path, os.X_OK)


def ask(path: Path, problems: Problems, *, deadline_s: float = DEADLINE_S) -> tuple[object, int | None]:
    """What it prints, None after adding to `problems` why not; and for how many seconds that may be kept (its
    `cache_s`; None: not at all).
    """
    file = shown(path)
    try:
        text = _output(path, deadline_s)
    except NoAnswer as error:
        problems.add(file, 0, str(error))
        return None, None
    value = jsondoc.parse(text, file, problems)
    if not isinstance(value, YamlMap) or "cache_s" not in value:
        return value, None
    cache_s = Record(value, 0, file, "", problems).integer_or("cache_s", None, 0, MOST_CACHE_S)
    del value["cache_s"]
    return value, cache_s


def _output(path: Path, deadline_s: float) -> bytes:
    if path.stat().st_mode & stat.S_IWOTH:
        raise NoAnswer("is not run: everybody may write to it (chmod o-w)")
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    command = [str(path.absolute())]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=path.absolute().parent, env={**environment, "LC_ALL": "C.UTF-8"}, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise NoAnswer(f"does not run: {error.strerror} (is it a file to read? then chmod -x)") from None
    until = time.monotonic() + deadline_s
    try:
        out, err = _read(process, until, deadline_s)
        status = process.wait(max(0.0, until - time.monotonic()))
    except BaseException as error:
        # It is not waited for yet, so the group is its own, also where it has ended and its children have not.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        if isinstance(error, subprocess.TimeoutExpired):
            raise NoAnswer(f"no end after {deadline_s:g} s") from None
        raise
    finally:
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if status != 0:
        said = " / ".join(err.decode("utf-8", "replace").strip().splitlines()[-5:])
        ended = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise NoAnswer(f"{ended}: {said}" if said else f"{ended}, and said nothing")
    return out


def _read(process: subprocess.Popen[bytes], until: float, deadline_s: float) -> tuple[bytes, bytes]:
    """Its stdout, and the end of its stderr, once both are closed. Raises NoAnswer."""
    kept: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise NoAnswer(f"no end after {deadline_s:g} s")
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                kept[key.data] += data
            if len(kept["out"]) > MOST_BYTES:
                raise NoAnswer(f"prints more than {MOST_BYTES >> 20} MiB")
            del kept["err"][:-STDERR_KEPT]
    return bytes(kept["out"]), bytes(kept["err"])
