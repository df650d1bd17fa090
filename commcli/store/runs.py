"""The records of runs: what was run where, by whom, and the document that came of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from commcli.errors import BadInput, Usage
from commcli.store.door import Door, Row, to_json
from commcli.store.operator import operator

# Records, and logs (runlog.py). A run a minute that changes something is not what a fleet is for.
KEPT = 200


class Runs(Door):
    """The table `runs`."""

    def start_run(self, run: str, command: str, document: Mapping[str, Any]) -> None:
        """A row about a run that begins; `document` says what is known of it by now. The oldest make room."""
        values = (self._clock(), command, to_json(document), run, operator())
        self._insert(
            "INSERT INTO runs (unix, command, document, run, who, result) VALUES (?, ?, ?, ?, ?, 'started')",
            *values,
        )
        self._insert("DELETE FROM runs WHERE id <= (SELECT max(id) FROM runs) - ?", KEPT)

    def end_run(self, run: str, result: str, document: Mapping[str, Any] | None = None) -> None:
        """How it ended, and its document (None: it has none, and what was known before stays)."""
        text = None if document is None else to_json(document)
        self._insert(
            "UPDATE runs SET ended = ?, result = ?, document = coalesce(?, document) WHERE run = ?",
            *(self._clock(), result, text, run),
        )

    def keep_run(self, run: str, document: Mapping[str, Any]) -> None:
        """What is known by now of a run that goes on."""
        self._insert("UPDATE runs SET document = ? WHERE run = ?", to_json(document), run)

    def record_run(self, run: str, command: str, document: Mapping[str, Any]) -> None:
        """Keep the document of a run that has ended."""
        self.start_run(run, command, document)
        self.end_run(run, result_of(document))

    def runs(self, limit: int = 100) -> list[Row]:
        """The last runs, the newest first: {"run", "started", "ended", "who", "command", "result", "document"}; `ended`
        is None for one that still runs or was killed, `who` for one of an older commcli.
        """
        return [_row(row) for row in self._all("SELECT * FROM runs ORDER BY id DESC LIMIT ?", limit)]

    def last_run(self, command: str) -> Row | None:
        """The newest run of this command, as `runs` gives it."""
        rows = self._all("SELECT * FROM runs WHERE command = ? ORDER BY id DESC LIMIT 1", command)
        return _row(rows[0]) if rows else None

    def runs_named(self, name: str, last_but: str = "") -> list[Row]:
        """Those whose name begins so, as `runs` gives them, the newest first; "last" is the newest of all, but for
        those whose command begins with `last_but`.
        """
        if name == "last":
            rows = self._all("SELECT * FROM runs ORDER BY id DESC")
            return [_row(row) for row in rows if not last_but or not row["command"].startswith(last_but)][:1]
        rows = self._all("SELECT * FROM runs WHERE substr(run, 1, ?) = ? ORDER BY id DESC", len(name), name)
        return [_row(row) for row in rows]


def result_of(document: Mapping[str, Any]) -> str:
    """The word on a run that came to its end."""
    code = document.get("exit_code", 0)
    return "done" if code == 0 else f"exit {code}"


def only(rows: list[Row], name: str) -> Row:
    """The one run that is named so. Raises BadInput for none, Usage for several."""
    if not rows:
        raise BadInput(f'no run "{name}" is kept here', hint="See `commcli runs list`.")
    if len(rows) > 1:
        raise Usage(
            f'"{name}" is the beginning of {len(rows)} runs: {", ".join(row["run"] for row in rows[:4])}'
        )
    return rows[0]


def _row(row: sqlite3.Row) -> Row:
    words = ("run", "ended", "who", "command", "result")
    about = {word: row[word] for word in words}
    return {**about, "started": row["unix"], "document": json.loads(row["document"])}
