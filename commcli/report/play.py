"""Drawers of `commcli play ...`: what changed, then what went wrong, grouped by identical cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]
# What to type next, by a node's state.
_NEXT = {
    "failed": "mend the cause, then: commcli play run {file} '{nodes}'",
    "unreachable": "ssh -v to one of them; then: commcli play run {file} '{nodes}'",
    "refused": "settle the refusal, then: commcli play run {file} '{nodes}'",
    "lost": "it may have happened; running again is safe: commcli play run {file} '{nodes}'",
    "timeout": "commcli play run {file} '{nodes}' --check   shows how far it came",
}


def _ran(doc: Document) -> RenderableType:
    parts: list[RenderableType] = []
    if changes := _changes(doc["nodes"]):
        parts.append(_change_table(changes, doc["check"]))
        parts += [_diff(diff) for diff in _diffs(doc["nodes"])]
    parts += list(_troubles(doc))
    parts.append(_summary(doc))
    return Group(*parts)


def _changes(rows: Sequence[Document]) -> dict[tuple[str, str], list[str]]:
    """(step, what changes) -> nodes, in the order of the play."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for step in row["steps"]:
            if step["state"] == "changed":
                found.setdefault((step["name"], step["text"]), []).append(row["node"])
    return found


def _change_table(changes: Mapping[tuple[str, str], Sequence[str]], check: bool) -> RenderableType:
    table = grid(title="would change" if check else "changed")
    for head in ("step", "what", "nodes"):
        table.add_column(head, overflow="fold")
    for (name, text), nodes in changes.items():
        table.add_row(Text(name), Text(text), Text(_names(nodes)))
    return table


def _diffs(rows: Sequence[Document]) -> Iterator[str]:
    """Each different diff once: a fleet mostly gets the same one."""
    seen: dict[str, None] = {}
    for row in rows:
        for step in row["steps"]:
            if step["diff"]:
                seen.setdefault(step["diff"])
    yield from seen


def _diff(text: str) -> RenderableType:
    return Syntax(text, "diff", background_color="default", word_wrap=True)


def _troubles(doc: Document) -> Iterator[RenderableType]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for row in doc["nodes"]:
        if row["state"] != "done":
            grouped.setdefault((row["state"], row["reason"]), []).append(row["node"])
    for (state, reason), nodes in sorted(grouped.items()):
        following = _NEXT[state].format(file=doc["file"], nodes=",".join(nodes))
        line = Text.assemble(styled(state), f"  {_names(nodes)}: {reason}")
        yield Group(line, Text(f"  next: {following}", style="dim"))


def _summary(doc: Document) -> RenderableType:
    total = len(doc["nodes"])
    done = doc["counts"].get("done", 0)
    touched = sum(1 for row in doc["nodes"] if row["changed"])
    slowest = max((row["seconds"] for row in doc["nodes"]), default=0.0)
    verb = "would change" if doc["check"] else "changed"
    what = f"{verb} {doc['changed']} things on {touched} nodes" if touched else "nothing to change"
    return Text(
        f"{doc['play']} on {doc['fleet']}: {done} of {total} nodes done, {what}, slowest {slowest:.1f} s"
    )


def _names(nodes: Sequence[str], most: int = 8) -> str:
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + more


def _checked(doc: Document) -> RenderableType:
    return Text(
        f"{doc['file']}: good, {doc['steps']} steps, rendered for {len(doc['nodes'])} nodes of {doc['fleet']}"
    )


def _shown(doc: Document) -> RenderableType:
    table = grid(title=f"{doc['play']}: {doc['about']}" if doc["about"] else doc["play"])
    for head in ("line", "section", "step", "does", "about", "notify"):
        table.add_column(head, overflow="fold")
    for step in doc["steps"]:
        when = f" (when {step['when']})" if step["when"] else ""
        table.add_row(
            str(step["line"]),
            step["section"],
            Text(step["name"] + when),
            step["word"],
            Text(step["about"]),
            Text(", ".join(step["notify"])),
        )
    return table


DRAW = {"run": _ran, "check": _checked, "show": _shown}
