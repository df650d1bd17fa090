"""What coverage-guided runs found worth keeping: a file a target, an input a line, in base64.

One text file grows in git by what is new; a thousand little files would be noise in every listing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def load(target: str) -> list[bytes]:
    """The inputs of this target, none if it has no file."""
    path = FOLDER / f"{target}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def save(target: str, inputs: Iterable[bytes]) -> None:
    """Keep exactly these, the short ones first."""
    lines = [
        base64.b64encode(data).decode() for data in sorted(set(inputs), key=lambda data: (len(data), data))
    ]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{target}.txt").write_text("".join(line + "\n" for line in lines if line))
