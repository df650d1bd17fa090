"""docs/overlay.md says of the overlay what is so: its numbers, kinds of datagram, reasons of drops and buffers."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.overlay import wire
from tests.architecture.test_turn_document import rows, strings, value_of, words
from tests.relay.bad_days_world import world

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "overlay.md").read_text()
RELAY = ROOT / "commcli" / "relay"
PACKAGES = ("overlay", "protect")
# What bounds something.
BOUND = re.compile(r"(MAX|MOST|LONGEST)_")
KINDS = (
    *("DATA", "AGAIN", "TRAIN", "BARE", "PARITY", "HELLO", "REPORT", "NACK", "PROBE", "ECHO", "MTU"),
    "MTU_OK",
)


def section(title: str) -> str:
    """The text under a heading, with what is below it."""
    return re.split(r"^## ", PAGE.split(f"\n## {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def constants() -> list[tuple[str, str]]:
    """(module.NAME, value as written)."""
    found = [(cells[2].strip("`"), cells[1]) for cells in rows(section("Limits and constants"))]
    return [(name, value) for name, value in found if re.fullmatch(r"[a-z0-9_]+\.[A-Za-z_.]+", name)]


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((RELAY / package).glob("*.py"))


@pytest.mark.parametrize(("name", "written"), constants())
def test_constants_are_as_documented(name: str, written: str) -> None:
    assert ast.literal_eval(written) == value_of(name)


def bounds() -> set[str]:
    """module.NAME of every number that bounds something."""
    found = set()
    for path in modules():
        module = importlib.import_module(f"commcli.relay.{path.parent.name}.{path.stem}")
        for node in ast.parse(path.read_text()).body:
            targets: list[Any] = list(node.targets) if isinstance(node, ast.Assign) else []
            for target in targets:
                for name in getattr(target, "elts", [target]):
                    if isinstance(name, ast.Name) and BOUND.match(name.id):
                        assert isinstance(getattr(module, name.id), int | float)
                        found.add(f"{path.stem}.{name.id}")
    return found


def test_every_bound_is_documented() -> None:
    assert len(bounds()) > 40
    assert sorted(bounds() - {name for name, _ in constants()}) == []


def test_kinds_of_datagrams_are_the_documented_ones() -> None:
    table = {cells[1].strip("`"): cells[0] for cells in rows(section("The datagram")) if len(cells) == 4}
    assert {name: table.get(name) for name in KINDS} == {name: str(getattr(wire, name)) for name in KINDS}


def reasons() -> set[str]:
    """Every word that the overlay counts under `drops`."""
    found = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("drops"):
                found |= strings(node.slice)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Step" and node.args:
                found |= strings(node.args[0])
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("refusal"):
                found |= strings(node.value)
            elif isinstance(node, ast.FunctionDef) and node.name == "begin":
                found |= set().union(*(strings(at) for at in ast.walk(node) if isinstance(at, ast.Return)))
    return {word for word in found if re.fullmatch(r"[a-z_]+", word)}


def test_every_reason_of_a_drop_is_documented_and_no_other() -> None:
    assert len(reasons()) > 20
    told = {word for cells in rows(section("What is refused")) for word in words(cells[0])}
    assert reasons() == told


def test_every_buffer_is_documented() -> None:
    buffers = set(world().nodes["sg-1"].buffers())
    assert buffers <= {word for cells in rows(section("Watching it")) for word in words(cells[0])}


def test_links_within_the_page_lead_somewhere() -> None:
    heads = re.findall(r"^#+ (.*)$", PAGE, flags=re.M)
    anchors = {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors
