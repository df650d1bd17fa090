"""Record a terminal picture: `python tools/picture.py OUT.svg [COMMAND...]` runs it (default: the demo) and draws it.

The command believes it writes to a colour terminal of WIDTH columns. With `--from FILE` an earlier recording is drawn
instead of a new run.
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


def record(command: list[str]) -> str:
    """What `command` writes to stdout, colours and all. Ends this program if the command fails."""
    environ = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}; no picture drawn")
    return done.stdout


def draw(output: str, title: str) -> str:
    """The SVG of a terminal that shows `output`."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text.from_ansi(output.rstrip()))
    # Rich names web fonts, which a picture in a repository must not fetch; the reader's own monospace serves.
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.S)


def main(arguments: list[str]) -> None:
    out, *rest = arguments
    if rest[:1] == ["--from"]:
        output, title = Path(rest[1]).read_text(), "make demo"
    else:
        output, title = record(rest or DEMO), " ".join(rest) or "make demo"
    Path(out).write_text(draw(output, title))


if __name__ == "__main__":
    main(sys.argv[1:])
