"""Files of YAML in, plain values with their lines out, everything wrong collected on the way (yamlparser.py parses).

YAML 1.2 (core schema) and not 1.1: `no` is Norway and not False, `12:30` is text and not 750, `017` is 17.
Values are str, int, float, bool, None and the two containers below. Errors never quote a value (secrets!).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from commcli.errors import BadInput


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
    """One thing wrong. `line` counts from 1; 0 is the file as a whole. In a document without lines, `path` is that of
    the key.
    """

    file: str
    line: int
    reason: str
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.file}: {self.path}: {self.reason}"
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class Problems:
    """Everything wrong in some files, told at once: whoever mends a file wants the whole list."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._places: dict[str, list[tuple[int, str]]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, file: str, line: int, reason: str) -> None:
        """Note `reason` at this line (0: the whole file)."""
        self._found.append(Problem(file, line, reason, self._path(file, line)))

    def places_of(self, file: str) -> list[tuple[int, str]]:
        """Where the places of a document without lines are to be noted: each the number of the one around it, and the
        step from there. Their numbers count from 1, and stand for lines.
        """
        return self._places.setdefault(file, [])

    def _path(self, file: str, place: int) -> str:
        if not place or file not in self._places:
            return ""
        outer, step = self._places[file][place - 1]
        return self._path(file, outer) + step

    def among(self, files: Collection[str]) -> bool:
        """Whether one of these files has a problem."""
        return any(problem.file in files for problem in self._found)

    def extend(self, others: Problems) -> None:
        """Note those too."""
        self._found += others._found

    def listed(self) -> list[Problem]:
        """All of them, by file and line, each once."""
        return sorted(set(self._found))

    def as_error(self) -> BadInput | None:
        """All of them, by file and line, each `file:line: reason`; None when there are none."""
        return BadInput([str(problem) for problem in self.listed()]) if self._found else None

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


def parse(text: str | bytes, file: str, problems: Problems, *, old: bool = False) -> object:
    """The value of one document, or None after adding to `problems` why there is none; `file` names it. `old`: it is
    one of YAML 1.1, with its truth values, octals and merged mappings (`<<`), as Ansible reads them.
    """
    from commcli.fleet import yamlparser  # PyYAML costs time to import; a cached inventory needs none

    return yamlparser.parse(text, file, problems, old=old)


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
