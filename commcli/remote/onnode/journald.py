"""What a unit has said of late, by systemd's journal."""

from __future__ import annotations

from commcli.remote.onnode import command
from commcli.remote.onnode.step import Place, StepFailed

LINES = 5
# It comes to a step that has failed already, whose time may be over.
WITHIN_S = 5


def last_words(unit: str, place: Place) -> str:
    """The last lines, as the end of a sentence; "" where there are none."""
    ask = ["journalctl", f"--unit={unit}", f"--lines={LINES}", "--output=cat", "--no-pager", "--quiet"]
    try:
        ran = command.run(["timeout", str(WITHIN_S), *ask], place)
    except StepFailed:
        return ""
    lines = ran.stdout.splitlines() if ran.status == 0 else []
    return f"; the journal ends with: {' | '.join(lines[-LINES:])}" if lines else ""
