"""The log of the probe runs that were not good: a JSON document a line, the newest last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commcli.errors import BadInput

# Some thousand runs; the file before it is kept too.
MOST_BYTES = 4_000_000


def append(path: Path, document: Mapping[str, Any], most_bytes: int = MOST_BYTES) -> None:
    """Add the document; a file that is full becomes `.1` first. Raises BadInput."""
    try:
        if path.exists() and path.stat().st_size > most_bytes:
            path.replace(path.with_name(f"{path.name}.1"))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
    except OSError as error:
        raise BadInput(f"{path}: can not write: {error.strerror}") from None
