"""What nodes, servers and certificates say, so that a terminal shows it and obeys none of it. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# C0 and C1 but for line feed and tab, and the marks that turn the direction of what follows (Unicode TR 9).
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {0x0A, 0x09}
_SHOWN = dict.fromkeys(_CONTROLS, "?")


def printable(text: str) -> str:
    """`text` with a question mark for each character that would steer a terminal."""
    return text.translate(_SHOWN)


def printable_document(value: Any) -> Any:
    """A JSON-able document, all of its texts printable; keys too, since some are names."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_document(key): printable_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_document(item) for item in value]
    return value
