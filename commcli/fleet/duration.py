"""Lengths of time as people write them: 30s, 5m, 2h, 1d."""

from __future__ import annotations

import re

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LENGTH = re.compile(r"([0-9]{1,6})([smhdw])\Z")
HOW = "a whole number with s, m, h, d or w, such as 30s, 5m, 2h or 1d"


def seconds(text: str) -> int | None:
    """How many seconds `text` is; None if it is no length of time."""
    match = _LENGTH.match(text)
    return None if match is None else int(match[1]) * _UNITS_S[match[2]]


def shown(seconds: float) -> str:
    """The same, the other way: "5m", "1d"."""
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS_S[unit] and seconds % _UNITS_S[unit] == 0:
            return f"{seconds / _UNITS_S[unit]:g}{unit}"
    return f"{seconds:g}s"
