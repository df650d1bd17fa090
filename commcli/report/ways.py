"""Drawer of the ways over the overlay: which path is in use towards each edge, and why no longer the first one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from commcli.report.culprits import by_culprit, named
from commcli.report.terminal import capped, grid, ms, styled

Document = Mapping[str, Any]

LATEST_SWITCH_S = 3600.0
# So many ways are shown one by one, more by what happened to them.
MOST_ROWS = 15
_PLACE = re.compile(r"(.*) from (\S+) to (\S+)")


class _Way(NamedTuple):
    node: str
    egress: str
    unix: float | None
    told: Document


def ways(answers: Iterable[Document], in_full: bool) -> tuple[Any, list[str]]:
    """A table and lines about what it leaves out: each way, or what is unusual, or what happened to how many."""
    known = [
        _Way(row["node"], egress, row["answer"].get("unix"), told)
        for row in answers
        for egress, told in sorted((row["answer"]["overlay"].get("paths") or {}).items())
    ]
    shown = known if in_full else [way for way in known if not _is_usual(way)]
    hidden = len(known) - len(shown)
    usual = f"{hidden} more ways over a primary path that is up" if hidden else ""
    if in_full or len(shown) <= MOST_ROWS:
        return _each(shown), [usual]
    table = grid("ways", "what", title="paths, by what happened to them")
    lines, more = capped(_happened(shown), MOST_ROWS)
    for count, text in lines:
        table.add_row(str(count), text)
    return table, [more, usual]


def _each(shown: Iterable[_Way]) -> Any:
    table = grid(title="paths")
    for column in ("from", "to", "in use", "state", "rtt ms"):
        table.add_column(column, no_wrap=True)
    for column in ("path", "others", "last switch"):
        table.add_column(column)
    for node, egress, _, way in shown:
        others = (
            f"{label} {other['state']}"
            for label, other in way["candidates"].items()
            if label != way["active"]
        )
        table.add_row(
            node,
            egress,
            "straight" if way["straight"] else way["active"],
            styled(way["state"]),
            ms(way["rtt_ms"], 1),
            " ".join(way["path"]),
            ", ".join(others),
            _switch(way),
        )
    return table


def _is_usual(way: _Way) -> bool:
    told = way.told
    return not told["straight"] and told["active"] == "primary" and told["state"] == "up" and not _lately(way)


def _lately(way: _Way) -> list[Document]:
    return [
        switch
        for switch in way.told.get("switches") or ()
        if way.unix is None or way.unix - switch["unix"] < LATEST_SWITCH_S
    ]


def _switch(way: Document) -> str:
    switches = way.get("switches") or []
    if not switches:
        return ""
    last = switches[-1]
    at = datetime.fromtimestamp(last["unix"], UTC)
    before = f" ({len(switches)} in all)" if len(switches) > 1 else ""
    return f"{at:%m-%d %H:%M:%SZ} {last['from']} > {last['to']}: {last['reason']}{before}"


# --- many ways --------------------------------------------------------------------------------------------------


def _happened(shown: Iterable[_Way]) -> list[tuple[int, str]]:
    """(how many ways, what happened to them and by whose fault), the most first."""
    alike: dict[tuple[str, str, bool], dict[tuple[str, str], tuple[str, ...]]] = {}
    moves = {(way.node, way.egress): len(_lately(way)) for way in shown}
    for way in shown:
        what, reason = _what(way.told)
        cause, place = _cause(reason)
        # A dead segment has one of its two ends to blame, a path that does not answer any node on it.
        suspects = place or tuple(_left(way.told))
        alike.setdefault((what, cause, bool(place)), {})[way.node, way.egress] = suspects
    lines = []
    for (what, cause, has_place), members in alike.items():
        for culprit, pairs in by_culprit(members):
            text = f"{what}: {cause}" if cause else what
            if culprit is not None:
                text += f" at {culprit}" if has_place else f"; {culprit} is on each of these paths"
            text += named([f"{node} > {egress}" for node, egress in pairs])
            moved = sum(moves[pair] for pair in pairs)
            lines.append((len(pairs), text + (f"; {moved} moves in an hour" if moved > len(pairs) else "")))
    return sorted(lines, key=lambda line: -line[0])


def _what(told: Document) -> tuple[str, str]:
    """What happened to a way, and why ("": that says it all)."""
    last = (told.get("switches") or [{}])[-1]
    if told["straight"]:
        return "straight, since no path answers", ""
    if told["state"] == "dead":
        return "dead: no path answers", ""
    if last.get("to") == told["active"]:
        back = "back " if told["active"] == "primary" else ""
        return f"moved {back}from {last['from']} to {last['to']}", last["reason"]
    return f"on {told['active']}, {told['state']}", ""


def _left(told: Document) -> list[str]:
    """The path that is no longer in use, or the one in use if there was no other."""
    last = (told.get("switches") or [{}])[-1]
    path: list[str] = (told["candidates"].get(last.get("from")) or told)["path"]
    return path


def _cause(reason: str) -> tuple[str, tuple[str, ...]]:
    """A reason without its figures and its place, and the two ends of the segment that it names."""
    found = _PLACE.fullmatch(reason)
    cause = found[1] if found else reason
    return re.split(r"\s*\d", cause, maxsplit=1)[0], found.groups()[1:] if found else ()
