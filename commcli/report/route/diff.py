"""Draws what `commcli route diff` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.route.paths import route
from commcli.report.terminal import STYLES, capped, grid

Document = Mapping[str, Any]

PAIRS_SHOWN = 30
ROWS_SHOWN = 10
_WORDS = {"nodes": "node", "zones": "zone", "prefixes": "client network"}


def diff(doc: Document) -> RenderableType:
    before, after = doc["before"]["serial"], doc["after"]["serial"]
    if doc["same"]:
        return Text(f"{doc['fleet']}: tables {before} and {after} make relays do the same", STYLES["ok"])
    parts: list[RenderableType] = [_head(doc)]
    if doc["pairs"]:
        parts.append(_pairs(doc["pairs"], before, after))
    for part, word in _WORDS.items():
        parts += _rows(doc[part], word)
    if doc["probe_kbit_s"]:
        parts.append(Text("probes' share: {} kbit/s, then {}".format(*doc["probe_kbit_s"])))
    return Group(*parts)


def _head(doc: Document) -> Text:
    before, after, counts = doc["before"], doc["after"], doc["counts"]
    text = Text(f"{doc['fleet']}: ", style="bold")
    text.append(
        f"table {before['serial']} of {before['created']} and {after['serial']} of {after['created']}: "
    )
    return text.append(
        f"{counts['pairs_differing']} of {counts['pairs']} pairs differ ({counts['primary']} in the primary, "
        f"{counts['backup']} in the backup, {counts['last_resort']} in the last resort)"
    )


def _pairs(pairs: Sequence[Document], before: int, after: int) -> RenderableType:
    """A row for each path that differs; pairs whose primary does come first."""
    table = grid()
    for head in ("from", "to", "role", f"table {before}", f"table {after}"):
        table.add_column(head, no_wrap=head in ("from", "to", "role"))
    ordered = sorted(pairs, key=lambda row: "primary" not in row["roles"])
    shown, more = capped(ordered, PAIRS_SHOWN)
    for row in shown:
        # A pair that had no path, and that a zone blocks now, differs in no role.
        roles = row["roles"] or {"-": {"before": None, "after": None}}
        for number, (role, paths) in enumerate(roles.items()):
            ends = ("", "") if number else (row["from"], row["to"])
            sides = [_path(paths[side], row[f"blocked_{side}"]) for side in ("before", "after")]
            table.add_row(*ends, role.replace("_", " "), *sides)
    return Group(table, *([Text(more, "dim")] if more else []))


def _path(path: Sequence[str] | None, blocked: bool) -> Text:
    return Text("blocked by a zone", STYLES["warn"]) if blocked else route(path)


def _rows(rows: Sequence[Document], word: str) -> list[Text]:
    shown, more = capped(rows, ROWS_SHOWN)
    lines = [Text(f"{word} {row['name']}: {_change(row)}") for row in shown]
    return [*lines, *([Text(more, "dim")] if more else [])]


def _change(row: Document) -> str:
    if row["kind"] != "changed":
        return str(row["kind"])
    return "; ".join(f"{key} {_told(was)}, then {_told(now)}" for key, (was, now) in row["fields"].items())


def _told(value: object) -> str:
    """Lists of words as people write them."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_told(each) for each in value) + "]"
    return str(value)
