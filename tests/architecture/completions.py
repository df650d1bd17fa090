"""Write the shell completions that typer generates: `python -m tests.architecture.completions FOLDER`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# File names are those that each shell looks for in its folder of completions.
FILES = {"bash": "commcli.bash", "zsh": "_commcli", "fish": "commcli.fish"}


def script(shell: str) -> str:
    """The completion script for `shell`, as commcli itself prints it."""
    environ = os.environ | {"_COMMCLI_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "commcli"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def main(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
