"""The layers and doors of pyproject.toml hold, and the relay stays an island of the standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELAY = sorted((ROOT / "commcli/relay").rglob("*.py"))


def test_import_linter_is_content() -> None:
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-logo', '--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all that is imported, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("path", RELAY, ids=lambda path: path.name)
def test_relay_imports_only_the_standard_library_and_itself(path: Path) -> None:
    foreign = {
        name
        for name in imported(ast.parse(path.read_text()))
        if name.split(".")[0] not in sys.stdlib_module_names and not f"{name}.".startswith("commcli.relay.")
    }
    assert foreign - {"commcli"} == set()


def test_the_relay_runs_without_site_packages() -> None:
    # -S leaves no third-party library to import, -I not even the current folder.
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import commcli.relay.__main__"
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
