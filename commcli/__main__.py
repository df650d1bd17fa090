"""Entry point: run the command line, and turn what it raised into one line and the right exit code.

What a shell asks at a key press, and --version, are answered before the command line is loaded.
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys

from commcli import __version__, completion

_STOPS = (signal.SIGINT, signal.SIGTERM)
# What is loaded stays: to look for garbage in it after each 700 new objects was a tenth of a command's start.
_GARBAGE_AFTER = 100_000


def main() -> None:
    # A stop that comes while the command line is loaded, or after its answer, would end in Python's own traceback.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    _open_standard_streams()
    gc.set_threshold(_GARBAGE_AFTER)
    code = _at_once(sys.argv[1:])
    code = _loaded_and_run(sys.argv[1:]) if code is None else code
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    sys.exit(code)


def _at_once(arguments: list[str]) -> int | None:
    """The exit code of what can be answered at once; None: of what can not."""
    if completion.VARIABLE in os.environ:
        answer = completion.answer(os.environ)
    else:
        answer = (f"commcli {__version__}\n", 0) if arguments == ["--version"] else None
    if answer is None:
        return None
    try:
        sys.stdout.write(answer[0])
        sys.stdout.flush()
    except OSError:
        return None  # the command line knows what to say of a full disk, or of a reader who has gone
    return answer[1]


def _loaded_and_run(arguments: list[str]) -> int:
    try:
        from commcli.cli import execute
    except Exception as error:
        # Half an installation. Python's own exit code, 1, would read as "unhealthy" to a script, and as WARNING to a
        # monitoring system, which must see 3 (UNKNOWN) instead.
        import traceback

        traceback.print_exc()
        if "--plugin" in arguments:
            print(f"UNKNOWN - commcli does not start: {error}".splitlines()[0])
            return 3
        return 70
    try:
        return execute(arguments)
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
