"""What is streamed to a node: our modules, by name, with all that they import, as one blob."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_HOLDING = (ast.stmt, ast.ExceptHandler, ast.match_case)
# A line of its own, or a word to our tools behind one.
_COMMENT = re.compile(r"""^\s*#.*|\s+# (noqa|type: ignore)[^"'\n]*$""")
_ALWAYS = ("commcli.remote.onnode.channel", "commcli.remote.onnode.importer", "commcli.remote.onnode.masks")


def bundle(modules: Mapping[str, str]) -> bytes:
    """Modules (name -> source) as one blob for `Program.start`, with the channel they talk through.

    Packages above them are empty on the node, whatever they hold here.
    """
    sources = {**{name: source_of(name) for name in _ALWAYS}, **modules}
    return _packed({name: lean(source) for name, source in sources.items()})


@lru_cache(maxsize=32)
def bundle_of(*names: str) -> bytes:
    """These modules and all of ours that they import, as one blob for `Program.start`."""
    sources: dict[str, str] = {}
    waiting = [*names, *_ALWAYS]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            source = source_of(name)
            tree = ast.parse(source)
            sources[name] = lean(source, tree)
            waiting += _imports(tree)
    return _packed(sources)


def _packed(sources: dict[str, str]) -> bytes:
    for name in list(sources):
        while name := name.rpartition(".")[0]:
            sources.setdefault(name, "")
    return zlib.compress(json.dumps(sources, sort_keys=True).encode(), 9)


def _imports(tree: ast.Module) -> Iterator[str]:
    """Our modules that this one imports, but for those that only a type checker reads."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("commcli."):
            yield from _modules_of(str(node.module), [alias.name for alias in node.names])
        # A statement stands in no expression, and those are most of the tree.
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, _HOLDING)]


def _modules_of(module: str, names: Sequence[str]) -> Iterator[str]:
    """What `from module import names` asks for: the module, or modules in it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.submodule_search_locations is None:
        # Not looked for below it: that would import it, and so what it imports.
        yield module
        return
    for name in names:
        inner = f"{module}.{name}"
        yield inner if importlib.util.find_spec(inner) is not None else module


def lean(source: str, tree: ast.Module | None = None) -> str:
    """Without docstrings, lines of comment and what functions say of types: a third of what would be sent; every line
    stays where it was.
    """
    lines = source.splitlines(keepends=True)
    tree = tree or ast.parse(source)
    for number, begin, end in sorted(_types(tree, lines), reverse=True):
        line = lines[number].encode()
        lines[number] = (line[:begin] + line[end:]).decode()
    for docstring, is_all in _docstrings(tree):
        lines[docstring.lineno - 1 : docstring.end_lineno] = ["\n"] * _height(docstring)
        if is_all:
            lines[docstring.lineno - 1] = " " * docstring.col_offset + "pass\n"
    left = "".join(lines)
    # To look at every node takes as long as all the rest, and is needed only where a text has lines of its own.
    inside_text = set(_inside_texts(tree)) if '"""' in left or "'''" in left else set()
    return "".join(
        line if number in inside_text else _COMMENT.sub("", line)
        for number, line in enumerate(left.splitlines(keepends=True), start=1)
    )


def _types(tree: ast.Module, lines: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Where functions say of what types their arguments and answers are: line, first byte, end. Not what goes over a
    line's end.
    """
    for node in _functions(tree):
        words = node.args
        given = [*words.posonlyargs, *words.args, *words.kwonlyargs, words.vararg, words.kwarg]
        for arg in given:
            if arg is not None and arg.annotation is not None and arg.lineno == arg.end_lineno:
                yield (
                    arg.lineno - 1,
                    arg.col_offset + len(arg.arg.encode()),
                    arg.annotation.end_col_offset or 0,
                )
        if node.returns is not None and node.returns.lineno == node.returns.end_lineno:
            before = lines[node.returns.lineno - 1].encode()[: node.returns.col_offset]
            yield node.returns.lineno - 1, before.rindex(b" ->"), node.returns.end_col_offset or 0


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, _HOLDING)]


def _docstrings(block: _Documented) -> Iterator[tuple[ast.stmt, bool]]:
    """The docstring of this and of all that it defines, and whether it is all that is there."""
    if ast.get_docstring(block, clean=False) is not None:
        yield block.body[0], len(block.body) == 1 and not isinstance(block, ast.Module)
    for node in block.body:
        if isinstance(node, _DOCUMENTED):
            yield from _docstrings(node)


def _inside_texts(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr):
            yield from range(node.lineno, (node.end_lineno or 0) + 1)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def source_of(name: str) -> str:
    """The source of one of our modules, by its dotted name, also from a zip."""
    spec = importlib.util.find_spec(name)
    loader = None if spec is None else spec.loader
    source = loader.get_source(name) if loader is not None and hasattr(loader, "get_source") else None
    if not isinstance(source, str):
        raise LookupError(f"no source for {name}")
    return source
