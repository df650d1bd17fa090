"""Drawers of `commcli play ...`: what changed, then what went wrong, grouped by identical cause."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report import overview
from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]
# What to type next, by a node's state.
_NEXT = {
    "failed": "mend the cause, then: commcli play run {file} '{at}'",
    "unreachable": "commcli doctor   says whether it is us; then: commcli play run {file} '{at}'",
    "refused": "settle the refusal, then: commcli play run {file} '{at}'",
    "lost": "it may have happened; running again is safe: commcli play run {file} '{at}'",
    "timeout": "commcli play run {file} '{at}' --check   shows how far it came",
}
# The same where a rollback did not come to its end.
_NEXT_BACK = dict.fromkeys(_NEXT, "commcli rollback {undoes} '{at}'")
LONGEST_STOP = 160


def _ran(doc: Document) -> RenderableType:
    return Group(*changed(doc), *troubles(doc, _NEXT), *_stop(doc), summary(doc))


def _stop(doc: Document) -> Iterator[RenderableType]:
    """Why a rollout was stopped, what is left of it, and what to type next."""
    rollout = doc.get("rollout") or {}
    if drained := rollout.get("drained"):
        yield Text.assemble(styled("drained"), f"  {names(drained)}: takes no new calls, by this run")
        yield Text(f"  next: commcli relay undrain {','.join(drained)}", style="dim")
    if not rollout.get("stopped"):
        return
    why = str(rollout["stopped"])  # the reasons of nodes stand above, whole
    yield Text.assemble(
        styled("stopped"), f"  {why if len(why) <= LONGEST_STOP else why[:LONGEST_STOP] + '…'}"
    )
    if left := rollout["not_tried"]:
        yield Text(f"  not tried: {names(left)}")
    back = rollout["rolled_back"]
    if back is None:
        yield Text(
            f"  next: mend the cause, then: commcli play run {doc['file']} --resume {doc['run']}", style="dim"
        )
        yield Text(f"  or put back what it changed: commcli rollback {doc['run']}", style="dim")
        return
    touched = sum(1 for row in back["nodes"] if row["changed"])
    yield Text.assemble(
        styled("rolled back"), f"  {back['changed']} things on {touched} nodes, run {back['run']}"
    )
    yield from troubles({**back, "undoes": doc["run"]}, _NEXT_BACK)


def changed(doc: Document) -> list[RenderableType]:
    """What changed, with the differences of files and what else is worth a word."""
    parts: list[RenderableType] = []
    if changes := _changes(doc["nodes"]):
        parts.append(_change_table(changes, doc["check"]))
        parts += [_diff(diff) for diff in _diffs(doc["nodes"])]
    return [*parts, *_notes(doc["nodes"])]


def _changes(rows: Sequence[Document]) -> dict[tuple[str, str], list[str]]:
    """(step, what changes) -> nodes, in the order of the play; items of a loop that change alike stand together."""
    found: list[tuple[tuple[str, str], str]] = []
    for row in rows:
        alike: dict[tuple[str, str], list[str]] = {}
        for step in row["steps"]:
            if step["state"] == "changed":
                items = alike.setdefault((step["name"], _text(step)), [])
                items += [step["item"]] if step.get("item") else []
        for (name, text), items in alike.items():
            label = f"{name}: {', '.join(items)}" if items else name
            found.append(((label, text), row["node"]))
    return _alike(found)


def _alike(found: Sequence[tuple[tuple[str, str], str]]) -> dict[tuple[str, str], list[str]]:
    """What is told of nodes, each with the nodes that it is told of: texts that differ by the node's own name alone
    stand together, with NODE in its place.
    """
    grouped: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for (head, text), node in found:
        nameless = re.sub(rf"(?<![\w-]){re.escape(node)}(?![\w-])", "NODE", text)
        grouped.setdefault((head, nameless), []).append((node, text))
    result = {}
    for (head, nameless), told in grouped.items():
        is_same = len({text for _, text in told}) == 1
        result[head, told[0][1] if is_same else nameless] = [node for node, _ in told]
    return result


def _text(step: Document) -> str:
    return str(step["text"]) + (f" ({_attempts(step)} attempts)" if _attempts(step) > 1 else "")


def _attempts(step: Document) -> int:
    return int(step.get("attempts", 1))  # a run that was recorded before has none


def _notes(rows: Sequence[Document]) -> Iterator[RenderableType]:
    """What is neither a change nor a trouble: failures with an answer, what was asked again, files that came here."""
    notes = ((_note(step), row["node"]) for row in rows for step in row["steps"])
    found = [(note, node) for note, node in notes if note is not None]
    for (word, text), nodes in sorted(_alike(found).items()):
        yield Text.assemble(styled(word), f"  {names(nodes)}: {text}")


def _note(step: Document) -> tuple[str, str] | None:
    label = f"{step['name']}: {step['item']}" if step.get("item") else step["name"]
    if step["state"] in ("rescued", "ignored"):
        return step["state"], f'step "{label}": {_text(step)}'
    if file := step.get("file"):
        return "fetched", str(file)
    if _attempts(step) > 1 and step["state"] == "ok":
        return "again", f'step "{label}": {_attempts(step)} attempts'
    return None


def _change_table(changes: Mapping[tuple[str, str], Sequence[str]], check: bool) -> RenderableType:
    table = grid(title="would change" if check else "changed")
    for head in ("step", "what", "nodes"):
        table.add_column(head, overflow="fold")
    for (name, text), nodes in changes.items():
        table.add_row(Text(name), Text(text), Text(names(nodes)))
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
    from rich.syntax import Syntax  # takes as long to load as all the rest of rich that a play needs

    return Syntax(text, "diff", background_color="default", word_wrap=True)


def troubles(doc: Document, hints: Mapping[str, str]) -> Iterator[RenderableType]:
    """What went wrong, by cause, each with what to type next: `hints` by a node's state."""
    found = [((row["state"], row["reason"]), row["node"]) for row in doc["nodes"] if row["state"] != "done"]
    for (state, reason), nodes in sorted(_alike(found).items()):
        following = hints[state].format(**doc, at=",".join(nodes))
        line = Text.assemble(styled(state), f"  {names(nodes)}: {reason}")
        yield Group(line, Text(f"  next: {following}", style="dim"))


def summary(doc: Document, nothing: str = "nothing to change") -> RenderableType:
    """One line about it all; a second names the run, if it has done anything."""
    total = len(doc["nodes"])
    done = doc["counts"].get("done", 0)
    touched = sum(1 for row in doc["nodes"] if row["changed"])
    slowest = max((row["seconds"] for row in doc["nodes"]), default=0.0)
    verb = "would change" if doc["check"] else "changed"
    what = f"{verb} {doc['changed']} things on {touched} nodes" if touched else nothing
    line = f"{doc['play']} on {doc['fleet']}: {done} of {total} nodes done, {what}, slowest {slowest:.1f} s"
    return Text("\n".join([line, *_run_of(doc)]))


def _run_of(doc: Document) -> list[str]:
    """The run's name, where there is something to undo or to look into."""
    return [f"run {doc['run']}"] if doc.get("run") and (doc["changed"] or doc["exit_code"]) else []


def names(nodes: Sequence[str], most: int = 8) -> str:
    """The nodes, as many as fit into a line."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + more


def _checked(doc: Document) -> RenderableType:
    lines = [Text.assemble(styled("warn"), f"  {warning}") for warning in doc["warnings"]]
    good = Text(
        f"{doc['file']}: good, {doc['steps']} steps, rendered for {len(doc['nodes'])} nodes of {doc['fleet']}"
    )
    return Group(*lines, good)


DRAW = {"run": _ran, "check": _checked, "show": overview.shown}
