"""The benchmark's ten steps are a playbook of ours, and the same ten in the other tools' languages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tests.bench import ten_steps
from tests.remote import plays


@pytest.mark.parametrize("count", [10, 100])
def test_as_many_steps_in_each_language(tmp_path: Path, count: int) -> None:
    assert len(plays.play(tmp_path, ten_steps.ours(count)).steps) == count
    [theirs] = yaml.safe_load(ten_steps.ansible(count))
    assert len(theirs["tasks"]) == count
    deploy = ast.parse(ten_steps.pyinfra(count))
    operations = [node for node in deploy.body if isinstance(node, ast.Expr | ast.If)]
    assert len(operations) == count
