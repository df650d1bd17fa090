"""docs/turn.md says of the relay what is so: its numbers, options, metrics, reasons and events."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from commcli.cli import command_line
from commcli.relay import config
from commcli.relay.process import metrics
from tests.relay.test_metrics import figures

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "turn.md").read_text()
RELAY = ROOT / "commcli" / "relay"
# The client side and what it shares with the rest; the overlay and the mesh have reasons of their own.
CLIENT_SIDE = ("server", "edge", "udp", "stream", "connection", "daemon", "front", "sisters", "workers")


def section(title: str) -> str:
    """The text under a heading."""
    return re.split(r"^##+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, without head and rule."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("|-"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def words(text: str) -> set[str]:
    """What stands in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text))


def constants() -> list[tuple[str, str]]:
    """(module.NAME, value as written)."""
    found = [
        (cells[2].strip("`"), cells[1]) for cells in rows(section("Limits and defaults")) if len(cells) == 3
    ]
    return [(name, value) for name, value in found if re.fullmatch(r"[a-z_]+\.[A-Za-z_.]+", name)]


def path_of(module: str) -> Path:
    """The one file of the relay with this name, whatever its package."""
    [path] = RELAY.rglob(f"{module}.py")
    return path


def value_of(name: str) -> Any:
    module, *path = name.split(".")
    where = path_of(module).relative_to(ROOT).with_suffix("")
    value: Any = importlib.import_module(".".join(where.parts))
    for part in path:
        defaults = getattr(value, "_field_defaults", {})  # of a NamedTuple
        value = defaults[part] if part in defaults else getattr(value, part)
    return value


def test_the_page_has_a_table_of_constants() -> None:
    assert len(constants()) > 20


@pytest.mark.parametrize(("name", "written"), constants())
def test_constants_are_as_documented(name: str, written: str) -> None:
    assert ast.literal_eval(written) == value_of(name)


def test_every_key_of_the_configuration_is_documented() -> None:
    # Of the fleet's own keys the inventory speaks; `listen` stands for address and port.
    elsewhere = {
        "schema", "node", "base", "realm", "overlay_port", "stamp_port", "faults", "log_json", "principal",
        "mesh",
    }  # fmt: skip
    assert config._KEYS - elsewhere <= words(section("Limits and defaults"))


def test_every_option_of_serve_is_documented() -> None:
    command: Any = get_command(command_line())
    serve = command.commands["relay"].commands["serve"]
    # A hidden option is one that our own processes start each other with.
    shown = (p for p in serve.params if not getattr(p, "hidden", False))
    options = {spelling for p in shown for spelling in p.opts} - {"--tcp", "--user"}
    assert [option for option in sorted(options) if option not in PAGE] == []


def test_metrics_are_the_documented_ones() -> None:
    named = {
        name for cells in rows(section("Metrics and logs")) if len(cells) == 3 for name in words(cells[0])
    }
    page = metrics.render(figures())
    assert named == set(re.findall(r"^# TYPE commcli_relay_(\w+) ", page, flags=re.M))


def sources(paths: Iterable[Path]) -> Iterator[ast.Module]:
    for path in paths:
        yield ast.parse(path.read_text())


def reasons() -> set[str]:
    """Every word that a client-side module counts under `drops`."""
    found = set()
    for tree in sources(map(path_of, CLIENT_SIDE)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("drops"):
                found |= strings(node.slice)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in COUNTING and node.args:
                found |= set().union(*map(strings, node.args))
    return found - {""}


COUNTING = {"self._drop", "self._lost", "self._count", "self._doom", "Gone"}


def strings(node: ast.AST) -> set[str]:
    """Every text in an expression, of a composed one what it begins with."""
    if isinstance(node, ast.Call) and not ast.unparse(node.func).endswith(("_drop", "_lost")):
        node = node.func  # not the arguments: "a b".replace(" ", "_")
    if isinstance(node, ast.JoinedStr):
        return strings(node.values[0])
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    return set().union(*map(strings, ast.iter_child_nodes(node)))


def test_every_reason_of_a_drop_is_documented() -> None:
    assert len(reasons()) > 30
    assert sorted(reasons() - words(section("Metrics and logs"))) == []


def events() -> set[str]:
    """The first word of every call of a log, anywhere on the node."""
    found = set()
    for tree in sources(RELAY.rglob("*.py")):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and re.search(r"(^|[._])log$", ast.unparse(node.func))
                and node.args
            ):
                found |= strings(node.args[0])
    return found


def test_every_log_event_is_documented() -> None:
    assert len(events()) > 10
    assert sorted(events() - words(section("Metrics and logs"))) == []
