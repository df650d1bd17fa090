"""The door to PyYAML: the events of its parser become values with their lines.

Events and not PyYAML's own tree of nodes: of a thousand machines the tree costs more than all that is made of it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import yaml
from yaml import (
    AliasEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from commcli.fleet.yamlfile import Problems, YamlList, YamlMap, kind_of

# libyaml's parser is six times as fast as the one in Python; a PyYAML without it still works.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAGS = "tag:yaml.org,2002:"
# The core schema (YAML 1.2.2 section 10.3.2); whatever fits none of them is text.
_NUMBER_FIRST = frozenset("-+.0123456789")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("~", "null", "Null", "NULL", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# The tag itself is not quoted: it may be the start of a password.
_NO_TAG = "a tag (!) is not allowed; put text that begins with ! in quotes"
_OPEN = object()  # stands for what an anchor names until it is whole


def parse(text: str | bytes, file: str, problems: Problems, *, old: bool = False) -> object:
    """See yamlfile.parse."""
    found = Problems()
    try:
        reader = _Reader(_LOADER(text), file, found, old=old)
        value = reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add(file, mark.line + 1 if mark else 0, f"broken YAML: {reason}")
        return None
    except yaml.reader.ReaderError as error:
        problems.add(
            file, _line_of(text, error.position), f"broken YAML: {error.reason} (byte {error.position})"
        )
        return None
    except RecursionError:
        problems.add(file, 0, "is nested too deep")
        return None
    problems.extend(found)
    return value


def _line_of(text: str | bytes, position: int) -> int:
    before = text[:position]
    return 1 + (before.count(b"\n") if isinstance(before, bytes) else before.count("\n"))


class _Reader:
    """Turns events into values. An alias gives the same value; one inside itself is refused."""

    def __init__(self, loader: Any, file: str, problems: Problems, *, old: bool) -> None:
        self._next = loader.get_event
        self._old = old
        self._plain = plain_of_1_1 if old else plain
        self._file = file
        self._problems = problems
        self._anchors: dict[str, object] = {}

    def document(self) -> object:
        self._next()  # the stream's start
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._problems.add(self._file, 0, "is empty")
            return None
        value = self.value(self._next())
        self._next()  # the document's end
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise yaml.composer.ComposerError(
                "expected a single document in the stream",
                None,
                "but found another document",
                event.start_mark,
            )
        return value

    def value(self, event: Any) -> object:
        kind = type(event)
        if kind is AliasEvent:
            return self._named(event)
        anchor = event.anchor
        if anchor is not None:
            if anchor in self._anchors:
                raise yaml.composer.ComposerError(None, None, "found duplicate anchor", event.start_mark)
            self._anchors[anchor] = _OPEN
        if kind is ScalarEvent:
            value = self._scalar(event)
        elif kind is MappingStartEvent:
            value = self._map(event)
        else:
            value = self._list(event)
        if anchor is not None:
            self._anchors[anchor] = value
        return value

    def _named(self, event: Any) -> object:
        if event.anchor not in self._anchors:
            raise yaml.composer.ComposerError(None, None, "found undefined alias", event.start_mark)
        value = self._anchors[event.anchor]
        if value is _OPEN:
            return self._wrong(event, "an alias (*) lies inside the value that it stands for")
        return value

    def _map(self, start: Any) -> object:
        if start.tag is not None and start.tag not in ("!", f"{_TAGS}map"):
            return self._refused(start)
        result = YamlMap(start.start_mark.line + 1)
        lines, problems = result.lines, self._problems
        merged: list[object] = []
        while type(key_event := self._next()) is not MappingEndEvent:
            key = self.value(key_event)
            line = key_event.start_mark.line + 1
            value = self.value(self._next())
            if self._old and key == "<<":
                merged += value if isinstance(value, YamlList) else [value]
            elif not isinstance(key, str):
                problems.add(self._file, line, f"a key must be text, not {kind_of(key)}: put it in quotes")
            elif key in lines:
                words = f'key "{key}" is written twice (first in line {lines[key]})'
                problems.add(self._file, line, words)
            else:
                lines[key] = line
                result[key] = value
        for other in merged:
            if not isinstance(other, YamlMap):
                problems.add(self._file, result.line, f"<< must be a mapping, not {kind_of(other)}")
                continue
            for key in other.keys() - result.keys():
                lines[key], result[key] = other.lines[key], other[key]
        return result

    def _list(self, start: Any) -> object:
        if start.tag is not None and start.tag not in ("!", f"{_TAGS}seq"):
            return self._refused(start)
        result = YamlList(start.start_mark.line + 1)
        while type(event := self._next()) is not SequenceEndEvent:
            result.append(self.value(event))
            result.lines.append(event.start_mark.line + 1)
        return result

    def _scalar(self, event: Any) -> object:
        text, tag = event.value, event.tag
        if tag is None or tag == "!":
            try:
                return self._plain(text) if event.implicit[0] else text
            except ValueError:
                return self._wrong(event, "is a number of too many digits")
        if tag not in _BY_TAG:
            return self._wrong(event, _NO_TAG)
        try:
            return _BY_TAG[tag](text)
        except ValueError:
            return self._wrong(event, "is no value of its type")

    def _refused(self, start: Any) -> object:
        """Pass over a map or a list with a tag that is not allowed."""
        depth = 1
        while depth:
            kind = type(self._next())
            depth += (kind in (MappingStartEvent, SequenceStartEvent)) - (
                kind in (MappingEndEvent, SequenceEndEvent)
            )
        return self._wrong(start, _NO_TAG)

    def _wrong(self, event: Any, reason: str) -> object:
        self._problems.add(self._file, event.start_mark.line + 1, reason)
        return None


def plain(text: str) -> object:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] in _NUMBER_FIRST:
        if _INT.match(text):
            return _integer(text)
        if _FLOAT.match(text):
            return float(text)
    return text


@cache
def _resolver() -> Any:
    return yaml.SafeLoader("")


def plain_of_1_1(text: str) -> object:
    """The same of YAML 1.1, by PyYAML. What it makes an object of (a date) is text."""
    tag = _resolver().resolve(yaml.ScalarNode, text, (True, False))
    try:
        value = yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text))
    except (ValueError, yaml.YAMLError):
        return text
    return value if value is None or isinstance(value, str | int | float) else text


def _integer(text: str) -> int:
    if text.startswith(("0x", "0o")):
        return int(text, 0)
    return int(text, 10)


_BY_TAG: dict[str, Any] = {
    f"{_TAGS}null": lambda text: None,
    f"{_TAGS}bool": lambda text: text.lower() == "true",
    f"{_TAGS}int": _integer,
    f"{_TAGS}float": float,
    f"{_TAGS}str": str,
}
