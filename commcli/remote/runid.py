"""What a run is called: 20261123T094500Z-ab12. It sorts by its time and can be read out over the phone."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

_FORM = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}\Z")


def new(unix: float | None = None) -> str:
    """A name for a run that begins at this time (None: now)."""
    at = datetime.now(UTC) if unix is None else datetime.fromtimestamp(unix, UTC)
    return f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def is_one(text: str) -> bool:
    """Whether this is the name of a run. It becomes part of a path, so nothing else may pass."""
    return _FORM.match(text) is not None
