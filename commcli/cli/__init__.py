"""The command line: one noun a file, one verb a function."""

from __future__ import annotations

import importlib
import itertools
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from commcli import __version__
from commcli.cli import output
from commcli.errors import CommcliError, Interrupted, Terminated, Usage
from commcli.health import plugin

NOUNS = ("fleet", "play", "health", "probe", "route", "relay", "key", "lab", "audit", "runs")
# Nouns that need no verb.
ALONE = ("sla", "rollback", "run", "ssh", "push", "fetch", "doctor")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"commcli {__version__}")
        raise typer.Exit()


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Operate a global fleet of relay nodes: provision, measure, decide, publish, forward."""


def command_line(word: str = "") -> typer.Typer:
    """The tree of commands, or of it only what begins with this word, where something does: all takes time to load."""
    app = typer.Typer(
        name="commcli",
        help="Operate a global fleet of relay nodes: provision, measure, decide, publish, forward.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(root)
    is_known = word in (*NOUNS, *ALONE)
    for noun in NOUNS:
        if not is_known or noun == word:
            app.add_typer(importlib.import_module(f"commcli.cli.{noun}").app, name=noun)
    for noun in ALONE:
        if not is_known or noun == word:
            app.command(noun)(getattr(importlib.import_module(f"commcli.cli.{noun}"), noun))
    return app


# What ends a command early; __main__ holds them back while nobody can answer them yet.
STOPS = (signal.SIGINT, signal.SIGTERM)

_terminated = False


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    # SIGTERM takes the road of Ctrl-C, so that one clean-up serves both; only the exit code differs.
    global _terminated
    _terminated = True
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell without job control starts what ends in `&`.
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (DESIGN: exit codes)."""
    try:
        code = _answered(arguments)
        code = Terminated.exit_code if _terminated and code == 0 else code
        code = _for_monitoring(code) if "--plugin" in _ours(arguments) else code
        output.flush()
    except CommcliError as error:
        # Even the word on the trouble could not be delivered as it was asked for.
        print(error, file=sys.stderr)
        code = error.exit_code
    return code


def _answered(arguments: Sequence[str]) -> int:
    try:
        signal.signal(signal.SIGTERM, _on_sigterm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        _check(arguments)
        app = command_line(arguments[0] if arguments else "")
        code = int(app(list(arguments), standalone_mode=False, prog_name="commcli") or 0)
        # Typer makes a code of a KeyboardInterrupt by itself.
        return code if code != Interrupted.exit_code else _stopped(arguments)
    except CommcliError as error:
        return _say(error, arguments)
    except typer.TyperException as error:
        return _say(Usage(error.format_message(), hint="Try --help."), arguments)
    except (KeyboardInterrupt, typer.Abort):
        return _stopped(arguments)
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        # The reader of a --help has seen enough. Typer makes an exit code 1 of that.
        output.discard_stdout()
        return 0
    except Exception as error:
        traceback.print_exc()
        words = f"a bug in commcli, please report the lines on stderr: {type(error).__name__}"
        return _say(CommcliError(words), arguments)


def _check(arguments: Sequence[str]) -> None:
    """Raises Usage for what no report, store or node could be told: bytes that are no text."""
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise Usage(f"argument {word!a}: is not UTF-8 text") from None


def _ours(arguments: Sequence[str]) -> Sequence[str]:
    """Without the command of somebody else that comes after `--`."""
    return list(itertools.takewhile(lambda word: word != "--", arguments))


def _stopped(arguments: Sequence[str]) -> int:
    return _say(Terminated("ended by SIGTERM") if _terminated else Interrupted("interrupted"), arguments)


def _say(error: CommcliError, arguments: Sequence[str]) -> int:
    """Tell the error the way this command line asks for; its exit code."""
    if "--plugin" in _ours(arguments):
        return _unknown(str(error))
    output.emit_error(error, as_json="--json" in _ours(arguments))
    return error.exit_code


def _for_monitoring(code: int) -> int:
    # 1 and 2 would be read as WARNING and CRITICAL, so whatever is no answer must be 3 (UNKNOWN).
    if code in (0, 1, 2, 3):
        return code
    return _unknown(f"ended with {code} before it had an answer")


def _unknown(message: str) -> int:
    status, line = plugin.unknown(message)
    print(line)
    return status
