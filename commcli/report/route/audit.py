"""Draws what `commcli route audit` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.route.paths import span
from commcli.report.terminal import STYLES, capped, grid, styled

Document = Mapping[str, Any]

# One screen: the whole is in --json.
NODES_SHOWN = 12
FINDINGS_SHOWN = 16
NAMES_SHOWN = 4
_OF_THE_RULES = ("forbidden", "unknown-node", "outdated")
_STYLES = {"forbidden": "fail", "unknown-node": "fail", "damaged": "fail", "expired": "fail"}


def audit(doc: Document) -> RenderableType:
    """Who holds what, where that differs; then each finding with all that have it; then the whole in two lines."""
    parts: list[RenderableType] = []
    odd = {row["node"] for row in doc["findings"] if row["what"] not in _OF_THE_RULES}
    rows, more = capped([r for r in doc["nodes"] if r["state"] != "done" or r["node"] in odd], NODES_SHOWN)
    if rows:
        parts += [_nodes(rows), *([Text(more, "dim")] if more else [])]
    if doc["findings"]:
        parts.append(_findings(doc["findings"]))
    return Group(*parts, _held(doc), _verdict(doc))


def _nodes(rows: Sequence[Document]) -> RenderableType:
    table = grid()
    for head in ("node", "state"):
        table.add_column(head, no_wrap=True)
    for head in ("table", "age", "left"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("on record", no_wrap=True)
    table.add_column("reason", ratio=1)
    for row in rows:
        serial = "-" if row["serial"] is None else str(row["serial"])
        dates = (span(row.get("age_s")), span(row.get("left_s")))
        known = {True: "yes", False: "no", None: "-"}[row.get("on_record")]
        table.add_row(row["node"], styled(row["state"]), serial, *dates, known, row["reason"])
    return table


def _findings(findings: Sequence[Document]) -> RenderableType:
    """One row for each thing that is wrong, however many nodes have it; forbidden paths first."""
    causes: dict[tuple[str, str], list[Document]] = {}
    for row in sorted(findings, key=lambda row: row["what"] != "forbidden"):
        text = f"{' > '.join(row['path'])}: {row['text']}" if row["path"] else row["text"]
        causes.setdefault((row["what"], text), []).append(row)
    table = grid()
    table.add_column("finding", no_wrap=True)
    table.add_column("what", ratio=3)
    table.add_column("on", ratio=1)
    shown, more = capped(list(causes.items()), FINDINGS_SHOWN)
    for (what, text), rows in shown:
        table.add_row(Text(what, STYLES[_STYLES.get(what, "warn")]), text, _whose(rows))
    return Group(table, *([Text(more, "dim")] if more else []))


def _whose(rows: Sequence[Document]) -> str:
    """Who has it: of a path the role it plays where it begins, and how many carry it."""
    carry = sum(1 for row in rows if row["where"] == "carries")
    names = [row["node"] for row in rows if not row["where"]]
    roles = [row["where"] for row in rows if row["where"] not in ("", "carries")]
    words = names[:NAMES_SHOWN] + ([f"{len(names) - NAMES_SHOWN} more"] if len(names) > NAMES_SHOWN else [])
    return ", ".join([*words, *roles, *([f"{carry} carry it"] if carry else [])])


def _held(doc: Document) -> Text:
    """Which tables there are: "table 7 on 4 of 5 nodes, signed 1.2 d ago, expires in 5.8 d"."""
    by_serial: dict[int, list[Document]] = {}
    for row in doc["nodes"]:
        if row["serial"] is not None:
            by_serial.setdefault(row["serial"], []).append(row)
    words = [
        f"table {serial} on {len(rows)} of {len(doc['nodes'])} relays"
        + (
            f", {span(rows[0]['age_s'])} old, expires in {span(rows[0]['left_s'])}"
            if rows[0].get("age_s")
            else ""
        )
        for serial, rows in sorted(by_serial.items(), reverse=True)
    ]
    record = (
        f"by our record {doc['serial']} is in force" if doc["serial"] else "our record has no table in force"
    )
    return Text("; ".join([*words, record]), "dim")


def _verdict(doc: Document) -> Text:
    both = doc["paths"] + doc["carried"]
    forbidden = sum(1 for row in doc["findings"] if row["what"] == "forbidden")
    if forbidden:
        text = f"{doc['fleet']}: {forbidden} of {both} paths break a zone of today; commcli route apply"
        return Text(text, STYLES["fail"])
    lawful = f"{doc['fleet']}: {both} paths, {doc['carried']} of them carried for others; none breaks a zone of today"
    if not both:
        lawful = f"{doc['fleet']}: there was no path to judge"
    if doc["exit_code"] == 0:
        return Text(lawful, STYLES["ok"])
    silent = sum(1 for row in doc["nodes"] if row["state"] != "done")
    words = [f"{len(doc['findings'])} findings"] if doc["findings"] else []
    words += [f"{silent} of {len(doc['nodes'])} relays gave no word"] if silent else []
    return Text(f"{lawful}; {' and '.join(words)}", STYLES["warn"])
