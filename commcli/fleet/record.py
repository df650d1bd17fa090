"""A YAML mapping while it is being read: keys are taken by type, and what is wrong is noted, not raised.

After a problem a reader gets the default (or "", 0, ()) and goes on, so that one pass finds everything.
Values are never quoted unless they are names (of a node, a region, a word of ours).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

from commcli.fleet.yamlfile import Problems, YamlList, YamlMap, kind_of

T = TypeVar("T")
# What people write for a word of ours, too far from it to be "near".
_MEANT = {"uk": "gb", "no_transit": "no-transit", "draining": "drain", "up": "active"}
_ID_IS = "lower-case letters, digits and inner hyphens, 32 at most"
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?\Z")


def nearest(word: str, words: Collection[str]) -> str:
    """`; did you mean "x"?` if one of `words` is near, else ""."""
    from difflib import get_close_matches  # costs time to import; only errors need it

    lowered = {candidate.lower(): candidate for candidate in words}
    if (meant := _MEANT.get(word.lower())) in lowered:
        return f'; did you mean "{meant}"?'
    close = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6) if len(word) > 1 else []
    if not close and len(word) > 2:
        close = [candidate for candidate in lowered if word.lower() in candidate]
    return f'; did you mean "{lowered[close[0]]}"?' if close else ""


def is_id(text: str) -> bool:
    """Lower-case letters, digits and inner hyphens, 32 at most: safe in paths, selectors and URLs."""
    return _ID.match(text) is not None


class Record:
    """One mapping and its name (`node sg-1: ssh`). Call `finish` when every key was asked for."""

    def __init__(
        self, value: object, line: int, file: str, what: str, problems: Problems, *, told: bool = False
    ) -> None:
        """`told`: why there is no mapping here has been noted already."""
        self.what = what
        self.file = file
        self.line = line
        self._problems = problems
        self._taken: set[str] = set()
        # A broken record complains no more: nothing in it is missing, nothing that refers to it is wrong.
        self.broken = not isinstance(value, YamlMap)
        self._map = value if isinstance(value, YamlMap) else YamlMap(line)
        if self.broken and not told:
            self.problem(f"must be a mapping, not {kind_of(value)}")

    def problem(self, reason: str, *, key: str | None = None, line: int | None = None) -> None:
        """Note what is wrong, at `line`, or where `key` stands, or where this mapping does."""
        place = line if line is not None else self._map.lines.get(key or "", self.line)
        self._problems.add(self.file, place, f"{self.what}: {reason}" if self.what else reason)

    def has(self, key: str) -> bool:
        """Whether the key is written (with a value or without)."""
        return key in self._map

    def place(self, key: str) -> int:
        """The line where `key` stands, or this mapping."""
        return self._map.lines.get(key, self.line)

    def take(self, key: str) -> object:
        """The raw value, None if there is none; the key counts as known from now on."""
        self._taken.add(key)
        return self._map.get(key)

    def text(self, key: str) -> str:
        """Required text."""
        return self._required(key, self.text_or(key, ""))

    def text_or(self, key: str, default: T) -> str | T:
        """Text that is not empty, else `default`."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            return self._bad_type(key, "text", value, default)
        if not value.strip():
            self.problem(f"{key} is empty", key=key)
            return default
        return value

    def integer_or(self, key: str, default: T, low: int, high: int) -> int | T:
        """A whole number in low..high, else `default`."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            return self._bad_type(key, "a whole number", value, default)
        if not low <= value <= high:
            self.problem(f"{key} must be {low} to {high}", key=key)
            return default
        return value

    def number_or(self, key: str, default: T, low: float, high: float) -> float | T:
        """A number in low..high, both finite, else `default`."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            return self._bad_type(key, "a number", value, default)
        if not low <= value <= high:
            self.problem(f"{key} must be {low:g} to {high:g}", key=key)
            return default
        return float(value)

    def flag_or(self, key: str, default: T) -> bool | T:
        """true or false, else `default`."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            return self._bad_type(key, "true or false", value, default)
        return value

    def id_or(self, key: str, default: T) -> str | T:
        """An id, else `default`."""
        value = self.text_or(key, None)
        if value is None:
            return default
        if not is_id(value):
            self.problem(f'{key} "{value}" must be {_ID_IS}', key=key)
            return default
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; () if the key is missing."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, YamlList):
            return self._bad_type(key, "a list of texts", value, ())
        for item, line in value.placed():
            if not isinstance(item, str):
                self.problem(f"{key} must hold texts, not {kind_of(item)}", line=line)
        return tuple(item for item in value if isinstance(item, str))

    def word(self, key: str, words: Collection[str] | None, noun: str) -> str:
        """Required: one of `words` (None: any); `noun` is what they are ("region")."""
        return self._required(key, self.word_or(key, "", words, noun))

    def word_or(self, key: str, default: T, words: Collection[str] | None, noun: str) -> str | T:
        """One of `words`, else `default`."""
        value = self.text_or(key, None)
        if value is None:
            return default
        known = words is None or self.check(value, words, noun, self._map.lines[key])
        return value if known else default

    def words(self, key: str, words: Collection[str] | None, noun: str) -> tuple[str, ...]:
        """A list of names without repeats, each one of `words` (None: any id); () if the key is missing."""
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, YamlList):
            return self._bad_type(key, f"a list of {noun}s", value, ())
        return self._names(value, words, noun)

    def names(
        self, key: str, value: object, words: Collection[str] | None, noun: str, line: int
    ) -> tuple[str, ...]:
        """Like `words`, for a list, or one bare name, found at `line` inside the value of `key`."""
        if isinstance(value, YamlList):
            return self._names(value, words, noun)
        if not isinstance(value, str):
            self.problem(f"{key} must hold {noun}s, not {kind_of(value)}", line=line)
        elif words is None or self.check(value, words, noun, line):
            return (value,)
        return ()

    def _names(self, items: YamlList, words: Collection[str] | None, noun: str) -> tuple[str, ...]:
        good: list[str] = []
        for item, line in items.placed():
            if not isinstance(item, str):
                self.problem(f"a {noun} must be text, not {kind_of(item)}", line=line)
            elif item in good:
                self.problem(f'{noun} "{item}" is written twice', line=line)
            elif words is None and not is_id(item):
                self.problem(f'{noun} "{item}" must be {_ID_IS}', line=line)
            elif words is None or self.check(item, words, noun, line):
                good.append(item)
        return tuple(good)

    def check(self, name: str, words: Collection[str], noun: str, line: int | None = None) -> bool:
        """Whether `name` is one of `words`; if not, notes that, and what may have been meant."""
        if name in words:
            return True
        self.problem(f'unknown {noun} "{name}"{nearest(name, words)}', line=line)
        return False

    def table(self, key: str) -> Record:
        """The required mapping under `key`, of ids to what they stand for."""
        value = self.take(key)
        line = self._map.lines.get(key, self.line)
        if value is None and not self.broken:
            self.problem(f"{key} is missing: write `{key}: {{}}` if there are none", key=key)
        elif value is not None and not isinstance(value, YamlMap):
            self._bad_type(key, "a mapping of ids", value, None)
        return Record(value, line, self.file, "", self._problems, told=True)

    def section(self, key: str, problems: Problems | None = None) -> Record:
        """The mapping under `key`; one that is missing reads as empty, one inside what is broken as broken. `problems`
        is where to note what is wrong in it, if not with the rest.
        """
        value = self.take(key)
        line = self._map.lines.get(key, self.line)
        name = f"{self.what}: {key}" if self.what else key
        if value is None and not self.broken:
            value = YamlMap(line)
        problems = self._problems if problems is None else problems
        return Record(value, line, self.file, name, problems, told=self.broken)

    def entries(self, noun: str) -> Iterator[tuple[str, Record]]:
        """The mapping as id -> mapping: yields each id with its own Record, named "noun id"."""
        for key, value in self._map.items():
            self._taken.add(key)
            line = self._map.lines[key]
            if not is_id(key):
                self.problem(f'{noun} id "{key}" must be {_ID_IS}', line=line)
            yield key, Record(value, line, self.file, f"{noun} {key}", self._problems)

    def rows(self, key: str, noun: str) -> Iterator[Record]:
        """The mappings of the list under `key`, each its own Record named `noun`; none if the key is missing."""
        value = self.take(key)
        if value is not None and not isinstance(value, YamlList):
            self._bad_type(key, f"a list of {noun}s", value, None)
            return
        for item, line in value.placed() if value is not None else ():
            yield Record(item, line, self.file, noun, self._problems)

    def items(self) -> Iterator[tuple[str, object, int]]:
        """Every key with its value and line; all count as known."""
        for key, value in self._map.items():
            self._taken.add(key)
            yield key, value, self._map.lines[key]

    def row(self, key: str, what: str) -> Record:
        """The value under `key` as a Record named `what`, for one that is no mapping: it takes the complaints."""
        return Record(self._map.get(key), self._map.lines[key], self.file, what, self._problems, told=True)

    def ids(self) -> tuple[str, ...] | None:
        """The keys, good or bad: what others may refer to without a second complaint. None: nobody knows."""
        return None if self.broken else tuple(self._map)

    def is_empty(self, key: str | None = None) -> bool:
        """Whether this mapping, or the list under `key`, is there and has nothing in it."""
        if key is None:
            return not self.broken and not self._map
        return key in self._map and self._map[key] in ([], None)

    def finish(self) -> None:
        """Complain about every key that nobody took."""
        for key in self._map:
            if key not in self._taken:
                self.problem(f'unknown key "{key}"{nearest(key, self._taken - set(self._map))}', key=key)

    def _required(self, key: str, value: str) -> str:
        if not self.broken and self._map.get(key) is None:
            self.problem(f"{key} is missing", key=key)
        return value

    def _bad_type(self, key: str, wanted: str, value: object, default: T) -> T:
        self.problem(f"{key} must be {wanted}, not {kind_of(value)}", key=key)
        return default


def listed(names: Sequence[str], limit: int = 4) -> str:
    """`a, b, c, d and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
