"""JSON files that the controller changes under a running relay: peers and keys, and the lab's faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple


class WatchedJson:
    """Reads a JSON object again when its file changed. A bad file is logged, the last good one stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Optional[Tuple[int, int, int]] = None

    def changed(self, log: Callable[..., None]) -> Optional[Dict[str, Any]]:
        """The new content, None when the file is as it was, absent or bad."""
        try:
            stat = self._path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if mark == self._seen:
                return None
            self._seen = mark
            content = json.loads(self._path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log("file_refused", file=self._path.name, reason=str(error))
            return None
        return content
