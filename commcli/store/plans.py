"""How far scheduled and long work has come: jobs of `probe run`, matrices of calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.errors import BadInput
from commcli.store.door import Door, Row, read_document, to_json


class Plans(Door):
    """The tables `jobs` and `matrices`."""

    # Jobs

    def record_job(self, key: str, due_unix: float, exit_code: int, *, ran_unix: float | None = None) -> None:
        """The job was due then, ran (now, unless said) and ended so."""
        ran = self._clock() if ran_unix is None else ran_unix
        self._insert(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET due = excluded.due, ran = excluded.ran,"
            " exit_code = excluded.exit_code, good = CASE excluded.exit_code WHEN 0 THEN excluded.good ELSE good END",
            # What only waits has not run.
            *(key, due_unix, ran, exit_code, ran or self._clock()),
        )

    def last_runs(self) -> dict[str, Row]:
        """{job's key: {"due_unix", "ran_unix", "exit_code", "good_unix": when it last ended with 0, or else was first
        heard of}}.
        """
        return {
            row["key"]: {
                "due_unix": row["due"],
                "ran_unix": row["ran"],
                "exit_code": row["exit_code"],
                "good_unix": row["good"],
            }
            for row in self._all("SELECT * FROM jobs ORDER BY key")
        }

    # Matrices

    def start_matrix(self, document: Mapping[str, Any]) -> int:
        """Keep what a matrix is going to do; returns its id."""
        return self._insert(
            "INSERT INTO matrices (unix, document) VALUES (?, ?)", self._clock(), to_json(document)
        )

    def update_matrix(self, matrix: int, document: Mapping[str, Any]) -> None:
        """Keep how far it has come. Raises BadInput if there is none of that id."""
        self._change_matrix(matrix, "document = ?", to_json(document))

    def finish_matrix(self, matrix: int, document: Mapping[str, Any] | None = None) -> None:
        """It needs no going on with; `document` replaces the old one if given."""
        text = None if document is None else to_json(document)
        self._change_matrix(matrix, "finished = ?, document = coalesce(?, document)", self._clock(), text)

    def matrix(self, matrix: int) -> Row | None:
        """Its document with "id", "recorded" (its start) and "finished" (None: not yet); None if there is none."""
        return self._one("SELECT * FROM matrices WHERE id = ?", matrix)

    def latest_unfinished_matrix(self) -> Row | None:
        """The newest matrix, as `matrix` gives it, if it is not finished."""
        newest = self._one("SELECT * FROM matrices ORDER BY id DESC LIMIT 1")
        return newest if newest is not None and newest["finished"] is None else None

    def _one(self, query: str, *values: object) -> Row | None:
        for row in self._all(query, *values):
            return {**read_document(row), "finished": row["finished"]}
        return None

    def _change_matrix(self, matrix: int, assignments: str, *values: object) -> None:
        with self._writing() as db:
            changed = db.execute(f"UPDATE matrices SET {assignments} WHERE id = ?", (*values, matrix))
            if changed.rowcount == 0:
                raise BadInput(f"no matrix of id {matrix} is kept")
