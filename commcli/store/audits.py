"""Who has changed the fleet: rows that are only ever added to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from commcli.store.door import Door, Row
from commcli.store.operator import operator


class Audits(Door):
    """The table `audit`."""

    def audit(
        self,
        command: str,
        reason: str | None,
        result: str,
        detail: Mapping[str, Any],
        *,
        who: str | None = None,
    ) -> int:
        """A row about a command that has changed the fleet (or tried to); returns its id."""
        now = self._clock()
        return self._insert(
            "INSERT INTO audit (started, ended, who, pid, command, reason, result, detail)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(now, now, who or operator(), os.getpid(), command, reason, result, _told(detail)),
        )

    @contextmanager
    def audited(self, command: str, reason: str | None, detail: Mapping[str, Any]) -> Iterator[Row]:
        """Around a change: a row before it ("started"), and its result after. A killed command leaves the first.

        Yields a dict to add to `detail`. The result is "done", or what the body raised: "interrupted", the error's
        kind, "exit 4". Set `["result"]` of the dict for another word.
        """
        told: Row = dict(detail)
        row = self._insert(
            "INSERT INTO audit (started, who, pid, command, reason, result, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(self._clock(), operator(), os.getpid(), command, reason, "started", _told(told)),
        )
        result = "done"
        try:
            yield told
        except BaseException as error:
            result = result_of(error)
            raise
        finally:
            word = str(told.pop("result", result))
            values = (self._clock(), word, _told(told), row)
            self._insert("UPDATE audit SET ended = ?, result = ?, detail = ? WHERE id = ?", *values)

    def audits(self, limit: int = 100) -> list[Row]:
        """The last rows, the newest first: {"id", "started", "ended", "who", "pid", "command", "reason", "result",
        "detail"}; `ended` is None for a command that still runs or was killed.
        """
        rows = self._all("SELECT * FROM audit ORDER BY id DESC LIMIT ?", limit)
        return [{**dict(row), "detail": json.loads(row["detail"])} for row in rows]


def _told(detail: Mapping[str, Any]) -> str:
    # The change has happened: an odd value must not cost us the row. A Secret is written as ***.
    return json.dumps(detail, default=str)


def result_of(error: BaseException) -> str:
    """What to write about a command that ended with `error`; an exit with 0 is a good end."""
    from asyncio import CancelledError  # not at the top: `route history` has no use for it

    # Inside an event loop Ctrl-C arrives as the task's cancellation.
    if isinstance(error, KeyboardInterrupt | CancelledError):
        return "interrupted"
    if kind := getattr(error, "kind", None):
        return str(kind)
    code = getattr(error, "exit_code", getattr(error, "code", None))
    if code is None:
        return "bug"
    return "done" if code == 0 else f"exit {code}"
