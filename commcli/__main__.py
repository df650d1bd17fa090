"""Entry point: run the command line, and turn what it raised into one line and the right exit code."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback

_STOPS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    # A stop that comes while the command line is loaded, or after its answer, would end in Python's own traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    _open_standard_streams()
    code = _loaded_and_run(sys.argv[1:])
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    sys.exit(code)


def _loaded_and_run(arguments: list[str]) -> int:
    try:
        from commcli.cli import run
    except Exception as error:
        # Half an installation. Python's own exit code, 1, would read as "unhealthy" to a script, and as WARNING to a
        # monitoring system, which must see 3 (UNKNOWN) instead.
        traceback.print_exc()
        if "--plugin" in arguments:
            print(f"UNKNOWN - commcli does not start: {error}".splitlines()[0])
            return 3
        return 70
    try:
        return run(arguments)
    except KeyboardInterrupt:
        # The second Ctrl-C, into the answer to the first.
        return 130


def _open_standard_streams() -> None:
    """Whoever closed one of them (`>&-`) must not find the database written to as if it were stdout."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no arrows gets question marks, and its answer.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
