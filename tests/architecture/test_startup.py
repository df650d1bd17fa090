"""Start-up is light: the 3 a.m. command must not wait for libraries that it does not use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "asyncssh",
    "numpy",
    "aiortc",
    "av",
    "httpx",
    "geoip2",
    "maxminddb",
    "jinja2",
    "cryptography",
    "pydantic",
)
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "fleet list": ["fleet", "list", "--inventory", "inventory", "--json"],
    "route help": ["route", "--help"],
}

# Runs the command line in a fresh interpreter and tells on stderr which of the heavy ones it loaded.
PROBE = """
import sys
sys.argv = ["commcli", *sys.argv[1:]]
from commcli.cli import execute
code = execute(sys.argv[1:])
print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_command_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = set(done.stderr.split())
    assert "typer" in loaded, "the probe saw no imports at all"
    assert loaded & set(HEAVY) == set()
