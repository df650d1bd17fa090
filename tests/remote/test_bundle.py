"""What is streamed to a node: modules with what they import, without what only a reader needs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import commcli
from commcli.remote import program
from commcli.remote.bundle import bundle_of, lean
from commcli.remote.run import ENTRY

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SOURCE = '''\
"""A module."""

from __future__ import annotations

# A comment.
LONG = "#"  # noqa: E501  (as a tool's word may be)
QUOTED = "x  # noqa"  # noqa: E501  it's left
SHELL = """
# no comment
"""


class Nothing:
    """Only told about."""


def told(name: str) -> str:
    """Two
    lines."""
    # Why.
    return f"""
# {name} {1 / 0}
"""
'''


def test_a_bundle_holds_what_its_modules_import_and_no_more() -> None:
    sources = json.loads(zlib.decompress(bundle_of("commcli.health.onnode")))
    held = {name for name, source in sources.items() if source}
    assert {"commcli.health.onnode", "commcli.relay.process.control", "commcli.remote.onnode.channel"} <= held
    assert not any(name.startswith("commcli.remote.steps") for name in held)
    assert sources["commcli.health"] == "", "a package above is empty, whatever it holds here"


def test_what_only_a_reader_needs_is_not_sent_and_lines_stay() -> None:
    sent = lean(SOURCE)
    assert sent.count("\n") == SOURCE.count("\n")
    assert not any(word in sent for word in ("A module", "A comment", "Only told", "lines.", "Why"))
    known: dict[str, object] = {}
    exec(compile(sent, "<sent>", "exec"), known)
    assert known["SHELL"] == "\n# no comment\n"
    told = known["told"]
    assert callable(told)
    try:
        told("x")
    except ZeroDivisionError as error:
        trace = error.__traceback__
        assert trace is not None and trace.tb_next is not None
        assert SOURCE.splitlines()[trace.tb_next.tb_lineno - 1] == "# {name} {1 / 0}"


def test_a_play_that_asks_for_little_loads_little_on_the_node() -> None:
    # On many nodes at once, and on small ones, imports are most of what a play costs there.
    words = [
        f"import commcli.remote.steps.{name}" for name in ("file", "directory", "line", "command", "link")
    ]
    program = "\n".join(
        ["import commcli.remote.onnode.executor", *words, "import sys", "print(*sys.modules)"]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "asyncio",
        "difflib",
        "logging",
        "platform",
        "random",
        "socket",
        "ssl",
        "subprocess",
        "traceback",
    }
    assert "hashlib" in loaded and loaded & heavy == set()


@pytest.mark.parametrize("package", ["health", "probe", "relay", "remote", "routing"])
def test_our_own_modules_are_the_same_programs_without_it(package: str) -> None:
    for path in (Path(commcli.__file__).parent / package).rglob("*.py"):
        source = path.read_text()
        assert _bare(lean(source)) == _bare(source), path


def _bare(source: str) -> str:
    """The program, without docstrings and what functions say of types."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[:1] = [] if node.body[1:] or isinstance(node, ast.Module) else [ast.Pass()]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return ast.dump(tree)


def test_what_the_library_has_for_a_play_is_loaded_while_the_play_is_on_its_way() -> None:
    sources = json.loads(zlib.decompress(bundle_of(ENTRY.partition(":")[0], "commcli.remote.steps.file")))
    needed = {module for source in sources.values() for module in _of_the_library(ast.parse(source))}
    loaded = set(_of_the_library(ast.parse(program._BOOT)))
    # What every Python has loaded by then, or takes no time, is not named.
    assert needed - loaded <= {"__future__", "os", "sys", "types", "collections", "commcli"}
    assert loaded - needed <= {"os", "sys"}


def _of_the_library(tree: ast.Module) -> Iterator[str]:
    """The modules that are loaded with this one, by their first names."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
