"""What goes to a node is small and needs only an old python3."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.remote import zipapp
from tests.architecture.node_python import compile_under, floor_python, sources, vermin

MOST_BYTES = 300 * 1000


def test_node_side_needs_no_newer_python() -> None:
    assert sources(), "nothing was looked at"
    assert vermin(sources()) == ""


def test_node_side_compiles_under_the_oldest_python() -> None:
    python = floor_python()
    if python is None:
        pytest.skip("no python3.9 on this machine")
    assert compile_under(python, sources()) == ""


def test_the_lint_can_fail(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("print((5).bit_count())\n")
    assert "bit_count" in vermin([tmp_path / "new.py"])


def test_zipapp_is_small_and_always_the_same() -> None:
    assert len(zipapp.build()) < MOST_BYTES
    assert zipapp.build() == zipapp.build()
