"""Record a terminal picture: `python tools/picture.py OUT.svg` runs the demo and draws the steps of STEPS.

The demo believes that it writes to a colour terminal of WIDTH columns. `python tools/picture.py OUT.svg RECORDING`
draws an earlier run's output instead.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 110
DEMO = [sys.executable, "-m", "commcli", "lab", "demo"]
# The whole story is a scroll; these steps show what it is about: measure, the call after, and the sum of it all.
STEPS = ("4", "7", "10")


def record() -> str:
    """What the demo writes to stdout, colours and all. Ends this program if the demo fails."""
    terminal = {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    # The demo prints its folder: not that of whoever takes the picture.
    environ = os.environ | terminal | {"COMMCLI_STATE": "/tmp/commcli"}
    environ.pop("NO_COLOR", None)
    done = subprocess.run(DEMO, env=environ, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"the demo ended with {done.returncode}; no picture drawn")
    return done.stdout


def excerpt(output: str) -> str:
    """The steps of STEPS; each begins with a line of its number, its title and a rule."""
    parts = re.split(
        r"(?m)^(?=(?:\x1b\[[\d;]*m)*\d+  [a-z ]+(?:\x1b\[[\d;]*m)* ?(?:\x1b\[[\d;]*m)*─)", output
    )
    numbered = {re.sub(r"\x1b\[[\d;]*m", "", part).split(" ")[0]: part for part in parts[1:]}
    return "".join(numbered[step] for step in STEPS)


def draw(output: str) -> str:
    """The SVG of a terminal that shows `output`."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(output.rstrip()))
    # Rich names web fonts, which a picture in a repository must not fetch; the reader's own monospace serves.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="make demo"), flags=re.S)


def main(out: Path, recording: Path | None = None) -> None:
    output = record() if recording is None else recording.read_text()
    out.parent.mkdir(exist_ok=True)
    out.write_text(draw(excerpt(output)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
