"""The answer as monitoring systems read it: one line `STATUS - text | perfdata` and a status of 0 to 3.

Monitoring Plugins Development Guidelines: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN; perfdata is
label=value[unit];warn;crit;min;max, where a limit of 0 alerts above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commcli.health.answer import Document

UNKNOWN = 3
_STATUS = {"ok": (0, "OK"), "warn": (1, "WARNING"), "fail": (2, "CRITICAL")}


def line(doc: Document) -> tuple[int, str]:
    """Exit status and the one line for a `health.check` document."""
    status, word = _STATUS[doc["verdict"]]
    counts, total = doc["counts"], len(doc["nodes"])
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    text = f"{doc['fleet']}: {total} node{'' if total == 1 else 's'}: {summary}"
    for cause in doc["causes"]:
        text += f"; {cause['cause']} ({', '.join(cause['nodes'])})"
    return status, f"{word} - {_plain(text)} | {_perfdata(counts, total)}"


def drift(doc: Document) -> tuple[int, str]:
    """The same for a `play.run` document in check mode: WARNING where nodes are not as the play says, CRITICAL where it
    would fail or they were not reached.
    """
    rows = doc["nodes"]
    drifted = [row["node"] for row in rows if row["changed"]]
    causes: dict[str, list[str]] = {}
    for row in rows:
        if row["state"] != "done":
            causes.setdefault(f"{row['state']}: {row['reason']}", []).append(row["node"])
    bad = sum(map(len, causes.values()))
    status, word = (2, "CRITICAL") if bad else (1, "WARNING") if drifted else (0, "OK")
    text = f"{doc['fleet']}: play {doc['play']}: {len(rows) - bad} of {len(rows)} nodes looked at"
    text += f"; {doc['changed']} things differ ({', '.join(drifted)})" if drifted else ", nothing differs"
    for cause, nodes in causes.items():
        text += f"; {cause} ({', '.join(nodes)})"
    perfdata = f"drifted={len(drifted)};0;;0;{len(rows)} differences={doc['changed']};0;;0 bad={bad};;0;0;{len(rows)}"
    return status, f"{word} - {_plain(text)} | {perfdata}"


def unknown(message: str) -> tuple[int, str]:
    """Exit status and line when there is no answer: wrong use, bad input, a bug."""
    return UNKNOWN, f"UNKNOWN - {_plain(message)}"


def _perfdata(counts: dict[str, int], total: int) -> str:
    limits = {"ok": ";", "warn": "0;", "fail": ";0", "unreachable": ";0"}
    return " ".join(f"{name}={count};{limits[name]};0;{total}" for name, count in counts.items())


def _plain(text: str) -> str:
    # A bar would begin the perfdata and a line break the long text.
    return " ".join(text.replace("|", "/").split())
