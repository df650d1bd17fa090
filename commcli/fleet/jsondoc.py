"""JSON that a program printed, as values whose places can be told: the path of the key stands for the line."""

from __future__ import annotations

import json
from typing import NoReturn

from commcli.fleet.yamlfile import Problems, YamlList, YamlMap


class _Pairs(list[tuple[str, object]]):
    """An object as it was written, with keys that are there twice."""


def parse(text: bytes, file: str, problems: Problems) -> object:
    """The value of the document, or None after adding to `problems` why there is none; `file` names it."""
    try:
        raw = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_no_constant)
        return _Builder(file, problems).value(raw, 0)
    except RecursionError:
        problems.add(file, 0, "is nested too deep")
    except UnicodeDecodeError:
        problems.add(file, 0, "broken JSON: not UTF-8 text")
    except json.JSONDecodeError as error:
        problems.add(file, 0, f"broken JSON: {error.msg} (line {error.lineno} of its output)")
    except ValueError as error:
        problems.add(file, 0, f"broken JSON: {error}")
    return None


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


class _Builder:
    """Numbers the places from 1, as lines are; `Problems` knows their paths."""

    def __init__(self, file: str, problems: Problems) -> None:
        self._file = file
        self._problems = problems
        self._places = problems.places_of(file)

    def value(self, raw: object, place: int) -> object:
        if isinstance(raw, _Pairs):
            return self._map(raw, place)
        if isinstance(raw, list):
            return self._list(raw, place)
        return raw

    def _map(self, raw: _Pairs, place: int) -> YamlMap:
        result = YamlMap(place)
        for key, held in raw:
            inner = self._place(place, f".{key}" if place else key)
            value = self.value(held, inner)
            if key in result:
                self._problems.add(self._file, inner, "is written twice")
            else:
                result[key] = value
                result.lines[key] = inner
        return result

    def _list(self, raw: list[object], place: int) -> YamlList:
        result = YamlList(place)
        for number, held in enumerate(raw):
            inner = self._place(place, f"[{number}]")
            result.append(self.value(held, inner))
            result.lines.append(inner)
        return result

    def _place(self, outer: int, step: str) -> int:
        self._places.append((outer, step))
        return len(self._places)
