"""`block: {path, content, marker, after, before, state, create, mode}`: some lines in a file that is not ours alone.

They stand between two lines that name them: `marker` with `{mark}` in it, which becomes BEGIN and END (by default
`# {mark} commcli`, so that a second block in one file needs a marker of its own). Where there are none yet, they are
put after the last line that `after` matches, before the first that `before` does, or at the end. `state: absent`:
neither markers nor what is between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict
from commcli.remote.steps import text

KEYS = {
    **text.KEYS,
    "content": Key("text"),
    "marker": Key("text"),
}
MARKER = "# {mark} commcli"


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the file with what is wanted."""
    return text.check(args, place, lambda lines: edited(lines, args))


def edited(lines: list[str], args: Mapping[str, Any]) -> list[str]:
    """The lines as they are to be. Raises StepFailed for half a pair of markers, or a place that is not there."""
    marker = args.get("marker", MARKER)
    if "{mark}" not in marker:
        raise StepFailed(f"marker {marker!r} has no {{mark}}")
    begin, end = marker.replace("{mark}", "BEGIN"), marker.replace("{mark}", "END")
    if (begin in lines) != (end in lines) or (begin in lines and lines.index(begin) > lines.index(end)):
        raise StepFailed(f"{begin!r} and {end!r} are no pair in {args['path']}")
    if begin in lines:
        first, rest = lines[: lines.index(begin)], lines[lines.index(end) + 1 :]
    elif args.get("state") == "absent":
        return lines
    else:
        at = text.place_for(lines, args)
        first, rest = lines[:at], lines[at:]
    if args.get("state") == "absent":
        return [*first, *rest]
    return [*first, begin, *text.lines_of(args.get("content", "")), end, *rest]
