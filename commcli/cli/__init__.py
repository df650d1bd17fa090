"""The command line: one noun a file, one verb a function."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from commcli import __version__
from commcli.cli import output
from commcli.errors import CommcliError, Usage

NOUNS = ("fleet", "play", "health", "probe", "route", "relay", "lab", "audit")

app = typer.Typer(
    name="commcli",
    help="Operate a global fleet of relay nodes: provision, measure, decide, publish, forward.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"commcli {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Operate a global fleet of relay nodes: provision, measure, decide, publish, forward."""


for _noun in NOUNS:
    if importlib.util.find_spec(f"commcli.cli.{_noun}") is None:
        continue
    app.add_typer(importlib.import_module(f"commcli.cli.{_noun}").app, name=_noun)

_terminated = False


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    # SIGTERM takes the road of Ctrl-C, so that one clean-up serves both; only the exit code differs.
    global _terminated
    _terminated = True
    signal.raise_signal(signal.SIGINT)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code (DESIGN: exit codes)."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = app(list(arguments), standalone_mode=False, prog_name="commcli")
        code = int(code or 0)
    except CommcliError as error:
        code = _say(error, arguments)
    except typer.TyperException as error:
        code = _say(Usage(error.format_message(), hint="Try --help."), arguments)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain about it at exit.
        sys.stderr.close()
        code = 0
    except Exception:
        traceback.print_exc()
        print("This is a bug in commcli; please report the lines above.", file=sys.stderr)
        code = CommcliError.exit_code
    code = 143 if _terminated and code in (0, 130) else code
    return _for_monitoring(code) if "--plugin" in arguments else code


def _say(error: CommcliError, arguments: Sequence[str]) -> int:
    """Tell the error the way this command line asks for; its exit code."""
    if "--plugin" in arguments:
        return _unknown(str(error))
    output.emit_error(error, as_json="--json" in arguments)
    return error.exit_code


def _for_monitoring(code: int) -> int:
    # 1 and 2 would be read as WARNING and CRITICAL, so whatever is no answer must be 3 (UNKNOWN).
    if code in (0, 1, 2, 3):
        return code
    return _unknown(
        "stopped before it had an answer" if code in (130, 143) else "a bug in commcli; see stderr"
    )


def _unknown(message: str) -> int:
    from commcli.health import plugin

    status, line = plugin.unknown(message)
    print(line)
    return status
