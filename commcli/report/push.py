"""Draws the document of `commcli push`: what changed where, then what went wrong, as a play's."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType

from commcli.report import play

Document = Mapping[str, Any]
_NEXT = {
    "failed": "mend the cause, then: {again}",
    "unreachable": "commcli doctor   says whether it is us; then: {again}",
    "refused": "settle the refusal, then: {again}",
    "lost": "it may have happened; running again is safe: {again}",
    "timeout": "{again} --check   shows how far it came",
}


def _draw(doc: Document) -> RenderableType:
    again = "commcli push '{at}' {local} {path}"
    return Group(*play.changed(doc), *troubles(doc, again), play.summary(doc, "the same already"))


def troubles(doc: Document, again: str) -> Iterator[RenderableType]:
    """What went wrong, by cause, each with what to type next; `again` is the command with {at}, {local} and {path}."""
    quoted = {**doc, "local": shlex.quote(doc["local"]), "path": shlex.quote(doc["path"])}
    yield from play.troubles(quoted, {state: text.replace("{again}", again) for state, text in _NEXT.items()})


DRAW: dict[str, Callable[[Document], RenderableType]] = {"files": _draw}
