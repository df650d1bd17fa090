"""What a run is called: 20261123T094500Z-ab12. It sorts by its time and can be read out over the phone."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

_FORM = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}\Z")
# What is behind the hyphen. A journal's runs are in the order of their names, within a second too.
_A_SECOND = 1 << 16
_last = 0


def new() -> str:
    """A name for a run that begins now, later than the last one here."""
    global _last
    _last = max(_last + 1, int(time.time() * _A_SECOND))
    second, part = divmod(_last, _A_SECOND)
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%dT%H%M%SZ}-{part:04x}"


def is_one(text: str) -> bool:
    """Whether this is the name of a run. It becomes part of a path, so nothing else may pass."""
    return _FORM.match(text) is not None
