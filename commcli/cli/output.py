"""The one way out: a command's document goes to stdout, drawn or as JSON; talk and errors go to stderr.

A reader who has seen enough (`| head`) changes no exit code: the command's own answer still counts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from commcli.errors import BadInput, CommcliError
from commcli.report.printable import printable, printable_document

Document = Mapping[str, Any]


class AnswerLost(BadInput):
    """Stdout takes nothing (a full disk); the word on that must go elsewhere."""


def emit(doc: Document, *, as_json: bool, quiet: bool = False, good: bool = True) -> bool:
    """Print `doc` ({"schema": 1, "kind": "noun.verb", ...}): JSON, or what report draws of it.

    `quiet` prints nothing when the answer is good. False: the reader has gone, more would be for nobody.
    """
    if quiet and good:
        return True
    return _deliver(lambda: _print(doc, as_json=as_json))


def _print(doc: Document, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(doc, allow_nan=False))
        return
    from commcli.report import terminal

    noun, verb = str(doc["kind"]).split(".", 1)
    drawers = importlib.import_module(f"commcli.report.{noun}").DRAW
    terminal.stdout().print(drawers[verb](printable_document(doc)))


def flush() -> None:
    """See that what was printed without `emit` arrives too. Raises as `emit`."""
    _deliver(lambda: None)


def _deliver(write: Callable[[], None]) -> bool:
    """Write to stdout and see it arrive; False where nobody reads it. Raises AnswerLost where it can not."""
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        return False
    except OSError as error:
        discard_stdout()
        raise AnswerLost(f"stdout: {error.strerror}: the answer is lost") from None
    return True


def discard_stdout() -> None:
    """Send what is still to come, and what Python still buffers, nowhere: at exit it would complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def error_document(error: CommcliError) -> dict[str, Any]:
    """The error as `--json` prints it."""
    errors = list(error.errors) if isinstance(error, BadInput) else [str(error)]
    body = {"kind": error.kind, "exit_code": error.exit_code, "messages": errors, "hint": error.hint}
    return {"schema": 1, "kind": "error", "error": body}


def emit_error(error: CommcliError, *, as_json: bool) -> None:
    """One clear line (a line each for several bad inputs) on stderr; with `--json` a document on stdout."""
    if as_json and not isinstance(error, AnswerLost):
        _deliver(lambda: print(json.dumps(error_document(error))))
        return
    if message := printable(str(error)):
        print(message, file=sys.stderr)
    if message and error.hint:
        print(f"  {printable(error.hint)}", file=sys.stderr)


@contextmanager
def naming_unknowns(busy: Mapping[str, str]) -> Iterator[None]:
    """For the body of a change: after Ctrl-C say where nobody knows how far it came. `busy`: node -> what it is at."""
    try:
        yield
    except KeyboardInterrupt:
        if busy:
            where = ", ".join(f"{node} ({text})" for node, text in sorted(busy.items()))
            print(f"not known how far: {where}. Running again is safe.", file=sys.stderr)
        raise
