"""Around a change of the fleet by a run: the lock, its row in the audit, its record and its log, under one name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commcli.settings import Settings
from commcli.store.audits import result_of as result_of_error
from commcli.store.lock import exclusive
from commcli.store.runlog import Happening, RunLog
from commcli.store.runs import result_of
from commcli.store.sqlite import Store


class Recording:
    """A run while it goes on: tell it what happens (`take`), and at the end its document (`end`)."""

    def __init__(self, run: str, log: RunLog, store: Store, told: Mapping[str, Any]) -> None:
        self.run = run
        self.document: Mapping[str, Any] | None = None
        self._log, self._store, self._told = log, store, told

    @property
    def log(self) -> Path:
        """Where its log is."""
        return self._log.path

    def take(self, event: Happening) -> None:
        """Keep what an event of remote work says."""
        self._log.take(event)

    def keep(self, more: Mapping[str, Any]) -> None:
        """What is known by now beside what was told at the start: it is what is left if we are killed."""
        self._store.keep_run(self.run, {**self._told, **more})

    def also(self, run: str, command: str, document: Mapping[str, Any]) -> None:
        """Another run that has ended within this one."""
        self._store.record_run(run, command, document)

    def end(self, document: Mapping[str, Any]) -> None:
        """What came of it: a document with "exit_code", and "counts" and "changed" for the audit."""
        self.document = document


@contextmanager
def recorded(
    settings: Settings, run: str, command: str, reason: str | None, told: Mapping[str, Any]
) -> Iterator[Recording]:
    """Run the body under the lock. `told` is what is known before ("nodes" are the ids of those concerned); whatever
    ends the body, audit, record and log say how. Raises LockHeld, BadInput.
    """
    with exclusive(settings.lock, command), Store(settings.database) as store:
        log = RunLog(settings.runs, run)
        recording = Recording(run, log, store, told)
        try:
            with store.audited(command, reason, {"run": run, **told}) as row:
                log.write(run=run, command=command, who=store.audits(1)[0]["who"], reason=reason, **told)
                store.start_run(run, command, told)
                result = "bug"
                try:
                    yield recording
                    result = "done" if recording.document is None else result_of(recording.document)
                except BaseException as error:
                    result = result_of_error(error)
                    raise
                finally:
                    log.write(result=result)
                    store.end_run(run, result, recording.document)
                if recording.document is not None:
                    row.update(
                        {
                            key: recording.document[key]
                            for key in ("counts", "changed")
                            if key in recording.document
                        }
                    )
                    row["result"] = result
        finally:
            log.close()
