"""Whether a relay takes no new client, until how few are left, and a file that remembers it over a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional


class Drain:
    """The state of one drain. A fleet's relay keeps it in a file; a plain relay has none and forgets."""

    def __init__(self, file: Optional[Path]) -> None:
        self._file = file
        self.on = False
        self.sessions = 0
        self.stop = False
        self.since_unix: Optional[float] = None

    def restore(self, otherwise: int) -> bool:
        """Take up what an earlier run of this relay left; `otherwise` is the threshold of a file that says none.

        That the file is there says "drained", whatever became of its content: who drained this relay has its reasons.
        A `stop` is over once the relay has stopped, or nobody could start it again.
        """
        if self._file is None or not self._file.exists():
            return False
        kept = _read(self._file)
        sessions, since = kept.get("sessions"), kept.get("since_unix")
        self.on, self.stop = True, False
        self.sessions = sessions if type(sessions) is int and sessions >= 0 else otherwise
        self.since_unix = float(since) if isinstance(since, (int, float)) else None
        return True

    def take(self, document: Mapping[str, Any]) -> None:
        """Go on with the drain of another process, whose `document` this is. Raises KeyError."""
        self.on, self.sessions, self.stop = True, document["sessions"], document["stop"]
        self.since_unix = document["since_unix"]

    def begin(self, sessions: int, stop: bool, unix: float) -> Optional[str]:
        """Drain down to `sessions` allocations, then, with `stop`, end. Why it can not be remembered, or None.

        To ask again changes the aim of the drain, not since when it lasts.
        """
        self.since_unix = self.since_unix if self.on else unix
        self.on, self.sessions, self.stop = True, sessions, stop
        kept = {"schema": 1, "sessions": sessions, "stop": stop, "since_unix": self.since_unix}
        return self._change(lambda file: _write(file, json.dumps(kept) + "\n"))

    def end(self) -> Optional[str]:
        """Take clients again. Why the file can not be removed, or None."""
        self.on, self.sessions, self.stop, self.since_unix = False, 0, False, None
        return self._change(lambda file: file.unlink(missing_ok=True))

    def done(self, allocations: int) -> bool:
        """Whether so few allocations are left that this relay may be taken away."""
        return self.on and allocations <= self.sessions

    def document(self) -> Optional[Dict[str, Any]]:
        """{"sessions", "stop", "since_unix"}, None when there is no drain."""
        if not self.on:
            return None
        return {"sessions": self.sessions, "stop": self.stop, "since_unix": self.since_unix}

    def _change(self, act: Callable[[Path], object]) -> Optional[str]:
        try:
            if self._file is not None:
                act(self._file)
        except OSError as error:
            # A full disk must not keep an operator from draining: it holds until the next start.
            return f"{self._file}: {error.strerror}"
        return None


def _read(file: Path) -> Dict[str, Any]:
    try:
        kept = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(file.name + ".new")
    aside.write_text(text, "utf-8")
    aside.replace(file)
