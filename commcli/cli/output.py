"""The one way out: a command's document goes to stdout, drawn or as JSON; talk and errors go to stderr."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from commcli.errors import BadInput, CommcliError

Document = Mapping[str, Any]


def emit(doc: Document, *, as_json: bool, quiet: bool = False, good: bool = True) -> None:
    """Print `doc` ({"schema": 1, "kind": "noun.verb", ...}): JSON, or what report draws of it.

    `quiet` prints nothing when the answer is good.
    """
    if quiet and good:
        return
    if as_json:
        json.dump(doc, sys.stdout, allow_nan=False)
        sys.stdout.write("\n")
        return
    from commcli.report import terminal

    noun, verb = str(doc["kind"]).split(".", 1)
    drawers = importlib.import_module(f"commcli.report.{noun}").DRAW
    terminal.stdout().print(drawers[verb](doc))


def error_document(error: CommcliError) -> dict[str, Any]:
    """The error as `--json` prints it."""
    errors = list(error.errors) if isinstance(error, BadInput) else [str(error)]
    body = {"kind": error.kind, "exit_code": error.exit_code, "messages": errors, "hint": error.hint}
    return {"schema": 1, "kind": "error", "error": body}


def emit_error(error: CommcliError, *, as_json: bool) -> None:
    """One clear line (a line each for several bad inputs) on stderr; with `--json` a document on stdout."""
    if as_json:
        print(json.dumps(error_document(error)))
        return
    print(str(error), file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
