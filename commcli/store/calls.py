"""Probe calls: their documents for a while, their figures for 400 days."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.store.door import Door, Row, read_document, to_json

# A call's document is some 15 kB, its figures are 0.2 kB.
DOCUMENTS_KEPT_S = 30 * 86_400.0
FIGURES_KEPT_S = 400 * 86_400.0

_FLAGS = ("direct", "plain", "connected", "valid")
# Columns of `call_figures` that are not about the road: where each stands in the document.
_WHERE: dict[str, tuple[str, ...]] = {
    "from_node": ("from", "node"),
    "to_node": ("to", "node"),
    "from_market": ("from", "market"),
    "to_market": ("to", "market"),
    "profile": ("profile",),
    "transport": ("transport",),
    "direct": ("direct",),
    "via": ("via",),
    "plain": ("plain",),
    "verdict": ("verdict",),
    "verdict_there": ("directions", "there", "verdict"),
    "verdict_back": ("directions", "back", "verdict"),
    "valid": ("valid",),
    "connected": ("connected",),
    "mos": ("mos",),
    "rtt_ms": ("rtt_ms", "p50"),
    "setup_ms": ("setup_ms",),
    "loss_there": ("directions", "there", "audio", "loss"),
    "loss_back": ("directions", "back", "audio", "loss"),
    "jitter_there_ms": ("directions", "there", "audio", "jitter_ms"),
    "jitter_back_ms": ("directions", "back", "audio", "jitter_ms"),
    "mos_there": ("directions", "there", "mos", "mos"),
    "mos_back": ("directions", "back", "mos", "mos"),
    "one_way_there_ms": ("directions", "there", "audio", "one_way_ms", "p50"),
    "one_way_back_ms": ("directions", "back", "audio", "one_way_ms", "p50"),
}
_FREEZES = ("video", "freezes", "webrtc", "total_ms")
COLUMNS = ("id", "unix", "run", *_WHERE, "freeze_ms")


class Calls(Door):
    """The tables `calls` and `call_figures`."""

    def record_call(self, document: Mapping[str, Any], run: str | None = None) -> int | None:
        """Keep a probe call's document, and a row of its figures; returns its id, None where no zone lets it be stored.

        `run` says what it was a part of: a matrix, a scheduled run. What does not name both ends has no figures.
        """
        text, now = to_json(document), self._clock()
        figures = _figures(document)
        if not self._permits(_at(document, *_WHERE["from_node"]), _at(document, *_WHERE["to_node"])):
            return None
        with self._writing() as db:
            call = int(
                db.execute("INSERT INTO calls (unix, document) VALUES (?, ?)", (now, text)).lastrowid or 0
            )
            if figures is not None:
                marks = ", ".join("?" * len(COLUMNS))
                values = (call, document.get("unix", now), run, *figures)
                db.execute(f"INSERT INTO call_figures ({', '.join(COLUMNS)}) VALUES ({marks})", values)
            # The newest stays whatever its age, since the next id is one more than its own.
            db.execute("DELETE FROM calls WHERE unix < ? AND id < ?", (now - DOCUMENTS_KEPT_S, call))
            db.execute("DELETE FROM call_figures WHERE unix < ?", (now - FIGURES_KEPT_S,))
            return call

    def calls(self, limit: int = 100) -> list[Row]:
        """The last calls, the newest first: the documents, each with "id" and "recorded"."""
        return [
            read_document(row) for row in self._all("SELECT * FROM calls ORDER BY id DESC LIMIT ?", limit)
        ]

    def calls_since(self, since: float, until: float | None = None) -> list[Row]:
        """The figures of the calls that began in since <= t < until, the oldest first: a row of COLUMNS each.

        loss_*, jitter_*, one_way_* (median) are the audio's; freeze_ms is the longer sum of both directions by
        webrtc-stats; rtt_ms the median. None: unmeasured.
        """
        query = "SELECT * FROM call_figures WHERE unix >= ? AND unix < ? ORDER BY unix, id"
        rows = self._all(query, since, float("inf") if until is None else until)
        return [_row(dict(row)) for row in rows]

    def calls_of(self, run: str) -> list[Row]:
        """The figures of the calls of one run, the oldest first: rows as `calls_since` gives."""
        query = "SELECT * FROM call_figures WHERE run = ? ORDER BY unix, id"
        return [_row(dict(row)) for row in self._all(query, run)]


def _figures(document: Mapping[str, Any]) -> list[Any] | None:
    values = {name: _at(document, *keys) for name, keys in _WHERE.items()}
    if None in (values["from_node"], values["to_node"], values["verdict"]):
        return None
    values |= {flag: bool(values[flag]) for flag in ("direct", "plain", "connected")}
    freezes = [_at(document, "directions", name, *_FREEZES) for name in ("there", "back")]
    return [*values.values(), max((each for each in freezes if each is not None), default=None)]


def _at(document: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def _row(row: Row) -> Row:
    """SQLite has no truth values."""
    return {**row, **{flag: None if row[flag] is None else bool(row[flag]) for flag in _FLAGS}}
