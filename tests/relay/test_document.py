"""JSON in small steps says what the standard library's decoder says."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from commcli.relay.table.document import decode, decode_at_once, undisturbed

VALUES = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=False, allow_infinity=False)
    | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=30,
)


@given(VALUES, some.sampled_from([None, 0, 1, "\t"]))
def test_what_was_written_is_read(value: Any, indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent)
    assert decode(f" \r\n{text}\n ") == decode_at_once(f" \r\n{text}\n ") == json.loads(text) == value


@given(some.text(alphabet='{}[]":, \n\\u0123aet-.fnrlsE'))
def test_what_is_no_json_is_refused(text: str) -> None:
    try:
        known = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            decode(text)
    else:
        try:
            assert decode(text) == known
        except ValueError as error:
            assert "twice" in str(error) or "is not JSON" in str(error)


@pytest.mark.parametrize("read", [decode, decode_at_once])
@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '{"x": {"a": 1, "a": 2}}', '{"x": {"y": {"a": 1, "a": 2}}}', '[{"a": 1, "a": 2}]'],
)
def test_a_key_stands_once_in_an_object(text: str, read: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="a key stands twice in one object"):
        read(text)


@pytest.mark.parametrize("read", [decode, decode_at_once])
@pytest.mark.parametrize("text", ["NaN", '{"a": Infinity}', '{"a": {"b": [-Infinity]}}'])
def test_constants_that_are_no_json(text: str, read: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        read(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_what_is_nested_too_deeply(text: str) -> None:
    with pytest.raises((RecursionError, ValueError)):
        decode(text)


def test_nobody_collects_garbage_meanwhile() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), undisturbed():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
