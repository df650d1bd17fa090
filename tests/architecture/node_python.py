"""The floor of what runs on nodes: python 3.9 and its standard library.

Two checks, because each misses what the other sees: vermin knows in which version a function of the standard
library appeared; a real python 3.9, where one is found, compiles the sources.
`python -m tests.architecture.node_python` runs both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOOR = (3, 9)
# Everything that is shipped to a node and runs there under its own python3. (Probe endpoints are not: they run under
# a python that has aiortc.)
NODE_SIDE = (
    "commcli/relay/**/*.py",
    "commcli/remote/steps/*.py",
    "commcli/*/onnode.py",
    "commcli/*/onnode_*.py",
    "commcli/*/onnode/**/*.py",
)


def sources() -> list[Path]:
    """The files that run on nodes."""
    return sorted(path for pattern in NODE_SIDE for path in ROOT.glob(pattern))


def vermin(files: list[Path]) -> str:
    """What needs more than the floor, one finding a line; empty when nothing does."""
    code = "import vermin; vermin.main()"
    flags = [f"-t={FLOOR[0]}.{FLOOR[1]}-", "--violations", "--no-tips", "--format", "parsable"]
    command = [sys.executable, "-c", code, *flags, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def a_python(version: str) -> str | None:
    """A python of this version ("3.9") that starts on this machine, or None."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    # Where the version manager is another user's, it is as good as absent.
    readable = os.access(versions, os.R_OK | os.X_OK)
    kept = sorted(map(str, versions.glob(f"{version}.*/bin/python{version}"))) if readable else []
    for candidate in filter(None, [*kept, shutil.which(f"python{version}")]):
        # A version manager's shim is on PATH even where it has no such version to start.
        if subprocess.run([candidate, "-c", "pass"], capture_output=True).returncode == 0:
            return candidate
    return None


def floor_python() -> str | None:
    """A python of exactly the floor's version on this machine, or None."""
    return a_python(f"{FLOOR[0]}.{FLOOR[1]}")


def compile_under(python: str, files: list[Path]) -> str:
    """What `python` says against the files; empty when it compiles them all."""
    code = "import sys\nfor f in sys.argv[1:]: compile(open(f, 'rb').read(), f, 'exec')"
    done = subprocess.run([python, "-IS", "-c", code, *map(str, files)], capture_output=True, text=True)
    return done.stderr


def main() -> int:
    files = sources()
    python = floor_python()
    complaints = vermin(files) + (compile_under(python, files) if python else "")
    print(complaints, end="")
    where = python or "not found here, so only the linter spoke"
    print(f"{len(files)} node-side files {'need more than' if complaints else 'run on'} python 3.9 ({where})")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
