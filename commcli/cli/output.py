"""The one way out: a command's document goes to stdout, drawn or as JSON; talk and errors go to stderr.

A reader who has seen enough (`| head`) changes no exit code: the command's own answer still counts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from commcli.errors import BadInput, CommcliError
from commcli.report.printable import printable, printable_document

if TYPE_CHECKING:
    from pathlib import Path

    from commcli.fleet.model import Fleet
    from commcli.store.sqlite import Store

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


def emit_text(text: str) -> bool:
    """Print a file that a command makes, as it is. As `emit`."""
    return _deliver(lambda: print(text, end=""))


def talk(lines: Iterable[str]) -> None:
    """Tell these on stderr, a line each."""
    for line in lines:
        print(printable(line), file=sys.stderr)


def _print(doc: Document, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(doc, allow_nan=False))
        return
    from commcli.report import terminal

    noun, verb = str(doc["kind"]).split(".", 1)
    drawers = importlib.import_module(f"commcli.report.{noun}").DRAW
    drawn = drawers[verb](printable_document(doc))
    # Mere text goes out line by line as it is: what nodes said is not ours to wrap or to cut.
    terminal.stdout().print(drawn, soft_wrap=terminal.is_text(drawn))


def flush() -> None:
    """See that what was printed without `emit` arrives too. Raises as `emit`."""
    _deliver(lambda: None)


def pass_on(data: bytes, *, stream: str) -> None:
    """What a node says on `stream` (stdout, stderr), as it comes: a terminal is not to be steered by it, a pipe gets
    every byte. Raises as `emit`.
    """
    target = sys.stdout if stream == "stdout" else sys.stderr

    def write() -> None:
        if target.isatty():
            target.write(printable(data.decode("utf-8", "replace")))
        else:
            target.buffer.write(data)
        target.flush()

    _deliver(write)


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


@contextmanager
def storing(path: Path, fleet: Fleet, *, quiet: bool) -> Iterator[Store]:
    """The store, for who measures: what a zone keeps in other countries is left out of it, and said once at the end."""
    from commcli.fleet.residency import Residency
    from commcli.report import terminal
    from commcli.store.sqlite import Store

    with Store(path).under(Residency(fleet)) as store:
        yield store
        left = store.left_out
    if left and not quiet:
        where = fleet.store_country or "a country that fleet.yaml does not say"
        zones = ", ".join(f"zone {zone} ({count})" for zone, count in left.items())
        terminal.stderr().print(
            f"not stored, since this store stands in {where}: {sum(left.values())} rows by {zones}"
        )
