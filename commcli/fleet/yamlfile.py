"""The one door to YAML: files in, plain values with their lines out, everything wrong collected on the way.

YAML 1.2 (core schema) and not 1.1: `no` is Norway and not False, `12:30` is text and not 750, `017` is 17.
Values are str, int, float, bool, None and the two containers below. Errors never quote a value (secrets!).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from commcli.errors import BadInput

# libyaml's parser is six times as fast as the one in Python; a PyYAML without it still works.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{word}" for word in ("null", "bool", "int", "float", "str")
)
_MAP, _SEQ = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"


class _CoreLoader(_Loader):  # type: ignore[misc]  # its base is chosen at run time
    """Resolves plain scalars by the core schema (YAML 1.2.2 section 10.3.2)."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


for _tag, _pattern, _first in (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (_FLOAT, r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


class YamlMap(dict[str, object]):
    """A mapping; `line` is where it starts, `lines` where each of its keys stands."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class YamlList(list[object]):
    """A sequence; `line` is where it starts, `lines` where each of its items stands."""

    __slots__ = ("line", "lines")

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []

    def placed(self) -> Iterator[tuple[object, int]]:
        """Each item with its line."""
        return zip(self, self.lines, strict=True)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong. `line` counts from 1; 0 is the file as a whole."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class Problems:
    """Everything wrong in some files, told at once: whoever mends a file wants the whole list."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, file: str, line: int, reason: str) -> None:
        """Note `reason` at this line (0: the whole file)."""
        self._found.append(Problem(file, line, reason))

    def among(self, files: Collection[str]) -> bool:
        """Whether one of these files has a problem."""
        return any(problem.file in files for problem in self._found)

    def extend(self, others: Problems) -> None:
        """Note those too."""
        self._found += others._found

    def as_error(self) -> BadInput | None:
        """All of them, by file and line, each `file:line: reason`; None when there are none."""
        return BadInput([str(problem) for problem in sorted(set(self._found))]) if self._found else None

    def raise_if_any(self) -> None:
        """Raise BadInput with all of them."""
        if (error := self.as_error()) is not None:
            raise error


def shown(path: Path) -> str:
    """The path as a person would type it here: relative if it lies below the working directory."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def read(path: Path, problems: Problems) -> object:
    """The value of a YAML file, or None after adding to `problems` why there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.add(shown(path), 0, error.strerror or str(error))
        return None
    return parse(data, shown(path), problems)


def parse(text: str | bytes, file: str, problems: Problems) -> object:
    """The value of one document, or None after adding to `problems` why there is none; `file` names it."""
    try:
        root = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add(file, mark.line + 1 if mark else 0, f"broken YAML: {reason}")
        return None
    except yaml.reader.ReaderError as error:
        line = _line_of(text, error.position)
        problems.add(file, line, f"broken YAML: {error.reason} (byte {error.position})")
        return None
    if root is None:
        problems.add(file, 0, "is empty")
        return None
    try:
        return _Builder(file, problems).value(root)
    except RecursionError:
        problems.add(file, 0, "is nested too deep")
        return None


def _line_of(text: str | bytes, position: int) -> int:
    before = text[:position]
    return 1 + (before.count(b"\n") if isinstance(before, bytes) else before.count("\n"))


# The tag itself is not quoted: it may be the start of a password.
_NO_TAG = "a tag (!) is not allowed; put text that begins with ! in quotes"


class _Builder:
    """Turns YAML's node graph into values. An alias gives the same value; one inside itself is refused."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._built: dict[int, object] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node) -> object:
        if id(node) in self._built:
            return self._built[id(node)]
        if id(node) in self._open:
            return self._wrong(node, "an alias (*) lies inside the value that it stands for")
        self._open.add(id(node))
        built = self._build(node)
        self._open.discard(id(node))
        self._built[id(node)] = built
        return built

    def _build(self, node: yaml.Node) -> object:
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self._map(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return self._list(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        return self._wrong(node, _NO_TAG)

    def _map(self, node: yaml.MappingNode) -> YamlMap:
        result = YamlMap(_line(node))
        for key_node, value_node in node.value:
            key = self.value(key_node)
            if not isinstance(key, str):
                self._wrong(key_node, f"a key must be text, not {kind_of(key)}: put it in quotes")
            elif key in result:
                self._wrong(key_node, f'key "{key}" is written twice (first in line {result.lines[key]})')
                self.value(value_node)  # what is wrong inside the second one is told as well
            else:
                result.lines[key] = _line(key_node)
                result[key] = self.value(value_node)
        return result

    def _list(self, node: yaml.SequenceNode) -> YamlList:
        result = YamlList(_line(node))
        for item in node.value:
            result.append(self.value(item))
            result.lines.append(_line(item))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text = str(node.value)
        try:
            return _SCALARS[node.tag](text)
        except KeyError:
            return self._wrong(node, _NO_TAG)
        except ValueError:
            return self._wrong(node, "is no value of its type")

    def _wrong(self, node: yaml.Node, reason: str) -> object:
        self._problems.add(self._file, _line(node), reason)
        return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _integer(text: str) -> int:
    if text.startswith(("0x", "0o")):
        return int(text, 0)
    return int(text, 10)


_SCALARS: dict[str, Any] = {
    _NULL: lambda text: None,
    _BOOL: lambda text: text.lower() == "true",
    _INT: _integer,
    _FLOAT: float,
    _STR: str,
}


def kind_of(value: object) -> str:
    """What a value is, in the words of an error message: "a list", "text"."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "a mapping"
