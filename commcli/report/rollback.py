"""Draws the document of `commcli rollback`: what was put back, what stays, what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report import play
from commcli.report.terminal import grid

Document = Mapping[str, Any]
_NEXT = {
    "failed": "mend the cause, then: commcli rollback {undoes} '{at}'",
    "unreachable": "commcli doctor   says whether it is us; then: commcli rollback {undoes} '{at}'",
    "refused": "see what it is: commcli rollback {undoes} '{at}' --check --diff --force",
    "lost": "it may have happened; doing it again is safe: commcli rollback {undoes} '{at}'",
    "timeout": "doing it again is safe: commcli rollback {undoes} '{at}'",
}


def _ran(doc: Document) -> RenderableType:
    parts = [*play.changed(doc), *_stays(doc), *play.troubles(doc, _NEXT)]
    nothing = "nothing was put back" if doc["exit_code"] else "nothing to put back"
    return Group(*parts, play.summary(doc, nothing))


def _stays(doc: Document) -> Iterator[RenderableType]:
    """What a rollback can not put back, and so is told."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in doc["nodes"]:
        for step in row["steps"]:
            if step["state"] == "skipped" and step["text"]:
                found.setdefault((step["name"], step["text"]), []).append(row["node"])
    if found:
        table = grid("step", "what", "nodes", title="stays as it is")
        for (name, text), nodes in found.items():
            table.add_row(Text(name), Text(text), Text(play.names(nodes)))
        yield table


DRAW = {"run": _ran}
