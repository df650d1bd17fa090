"""JSON files that the controller changes under a running relay: peers and keys, and the lab's faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple


class WatchedJson:
    """Applies a JSON object again when its file changed. A bad file is logged and what was applied before stays."""

    def __init__(self, path: Path, apply: Callable[[Dict[str, Any]], None]) -> None:
        """`apply(content)` raises ValueError when the content can not be used, and then has changed nothing."""
        self._path, self._apply = path, apply
        self._seen: Optional[Tuple[int, int, int]] = None

    def poll(self, log: Callable[..., None]) -> None:
        """Look at the file; an absent one changes nothing."""
        try:
            stat = self._path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if mark == self._seen:
                return
            self._seen = mark
            content = json.loads(self._path.read_text("utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
            self._apply(content)
        except FileNotFoundError:
            return
        except OSError as error:
            self._seen = None  # out of descriptors or memory, say: the file is not to blame, so look again
            self._refused(log, error.strerror or str(error))
        except RecursionError:
            self._refused(log, "nested too deeply")
        except ValueError as error:
            self._refused(log, str(error))

    def _refused(self, log: Callable[..., None], reason: str) -> None:
        log("file_refused", file=self._path.name, reason=reason)
