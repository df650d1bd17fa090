"""A fleet as JSON-able rows, and back: the same values in a tenth of the time that it takes to read and check YAML.

A row is a value made of the rows before it: `[kind, index, ...]`, or `[0, scalar]`. What is equal is there once:
a thousand nodes share their ports and limits. Only the kinds named here can come out, whatever the rows say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from commcli import __version__
from commcli.fleet import model, probing
from commcli.fleet.secrets import SecretRef
from commcli.relay.mesh.budget import Budget

Rows = list[list[Any]]


def _values_of(module: Any) -> list[type]:
    return [kind for kind in vars(module).values() if type(kind) is type and is_dataclass(kind)]


_DATA: tuple[type, ...] = tuple(dict.fromkeys((*_values_of(model), *_values_of(probing), SecretRef, Budget)))
_SCALARS = frozenset((str, int, float, bool, type(None)))
_SCALAR, _PATH, _TUPLE, _LIST, _SET, _MAP, _FIRST = range(7)
_KIND_OF = {kind: _FIRST + number for number, kind in enumerate(_DATA)}
_FIELDS = {
    kind: tuple(getattr(kind, "_fields", ()) or (field.name for field in fields(kind))) for kind in _DATA
}


def shape() -> str:
    """A digest of all that may be in the rows: another version's rows are none of ours."""
    told = [(kind.__module__, kind.__qualname__, _FIELDS[kind]) for kind in _DATA]
    return hashlib.sha256(repr((1, __version__, told)).encode()).hexdigest()


class Unpackable(TypeError):
    """A value of a kind that is not named here."""


def pack(fleet: model.Fleet) -> Rows:
    """The rows; the last one is the fleet. Raises Unpackable."""
    rows: Rows = []
    known: dict[tuple[Any, ...], int] = {}

    def put(value: object) -> int:
        kind = type(value)
        is_scalar = kind in _SCALARS
        row = [_SCALAR, value] if is_scalar else _row(value, put)
        key = (kind, value) if is_scalar else tuple(row)  # 1, 1.0 and true are equal, and not the same
        index = known.get(key)
        if index is None:
            index = known[key] = len(rows)
            rows.append(row)
        return index

    put(fleet)
    return rows


def _row(value: object, put: Callable[[object], int]) -> list[Any]:
    if (kind := _KIND_OF.get(type(value))) is not None:
        return [kind, *(put(getattr(value, name)) for name in _FIELDS[type(value)])]
    if isinstance(value, Path):
        return [_PATH, put(str(value))]
    if isinstance(value, Mapping):
        return [_MAP, *(put(part) for item in value.items() for part in item)]
    if isinstance(value, frozenset):
        return [_SET, *sorted(put(part) for part in value)]
    if isinstance(value, tuple | list):
        return [_TUPLE if isinstance(value, tuple) else _LIST, *(put(part) for part in value)]
    raise Unpackable(type(value).__name__)


def unpack(rows: Sequence[Sequence[Any]]) -> object:
    """The value of the last row. Raises whatever Python does (IndexError, TypeError, ...) for rows that are none."""
    values: list[Any] = []
    for row in rows:
        kind = row[0]
        if kind == _SCALAR:
            values.append(row[1])
            continue
        parts = [values[index] for index in row[1:]]
        values.append(_DATA[kind - _FIRST](*parts) if kind >= _FIRST else _MADE[kind](parts))
    return values[-1]


def _paired(parts: Iterable[Any]) -> dict[Any, Any]:
    both = iter(parts)
    return dict(zip(both, both, strict=True))


_MADE: dict[int, Callable[[list[Any]], Any]] = {
    _PATH: lambda parts: Path(parts[0]),
    _TUPLE: tuple,
    _LIST: list,
    _SET: frozenset,
    _MAP: _paired,
}
