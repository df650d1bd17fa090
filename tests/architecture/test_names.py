"""A module is named for its noun: a thing without a home means that a noun is missing."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
HOMELESS = {"utils", "util", "helpers", "helper", "common", "base", "core", "manager", "misc"}


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    modules = [path for path in (ROOT / "commcli").rglob("*") if path.suffix == ".py" or path.is_dir()]
    assert [str(path.relative_to(ROOT)) for path in modules if path.stem in HOMELESS] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "commcli").rglob("*.py")
        if not path.read_text().startswith(('"""', "#!"))
    ]
    assert silent == []


def test_no_path_of_a_developers_machine_is_committed() -> None:
    homes = ("/work" + "/", "/root" + "/")
    found = [
        f"{path.relative_to(ROOT)}: {home}"
        for pattern in ("*.py", "*.md", "*.toml", "*.yaml", "*.yml", "*.sh")
        for folder in ("commcli", "tests", "inventory", "playbooks", "tools")
        for path in (ROOT / folder).rglob(pattern)
        for home in homes
        if home in path.read_text()
    ]
    assert found == []
