"""JSON read in small steps, so that a thread that reads a table does not hold up the packets.

The decoder of the standard library is C, and while it works on a text no other thread of Python runs: a prefix map of
7 MB would hold up the packet loop for a tenth of a second. Here it is asked for one member at a time. A collection of
garbage would hold it up for as long: it looks at all that has been read so far.
"""

from __future__ import annotations

import gc
import json
import re
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

# Of objects within objects; what is deeper, or in a list, is small.
DEPTH = 2
_space = re.compile(r"[ \t\n\r]*").match


@contextmanager
def undisturbed() -> Iterator[None]:
    """For a thread that reads a table beside a packet loop: no collection of garbage until the end of the body."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def decode(text: str) -> Any:
    """As `json.loads`, but a key that stands twice in one object is an error, as is NaN or Infinity.

    Raises ValueError and RecursionError.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_no_twins, parse_constant=_no_constant)
    found, at = _value(decoder, text, _after_space(text, 0), DEPTH)
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)
    return found


def decode_at_once(text: str) -> Any:
    """As `decode`, for who has no packets to forward: several times as fast."""
    return json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)


def _value(decoder: json.JSONDecoder, text: str, at: int, depth: int) -> Tuple[Any, int]:
    """The value that begins at `at`, and where the next thing begins."""
    if depth and text[at : at + 1] == "{":
        found, at = _object(decoder, text, at + 1, depth)
    else:
        found, at = decoder.raw_decode(text, at)
    return found, _after_space(text, at)


def _object(decoder: json.JSONDecoder, text: str, at: int, depth: int) -> Tuple[Dict[str, Any], int]:
    found: Dict[str, Any] = {}
    at = _after_space(text, at)
    if text[at : at + 1] == "}":
        return found, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        key, at = _value(decoder, text, at, 0)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        if key in found:
            raise ValueError(_TWINS)
        found[key], at = _value(decoder, text, _after_space(text, at + 1), depth - 1)
        end = text[at : at + 1]
        if end == "}":
            return found, at + 1
        if end != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _space(text, at)
    return at if found is None else found.end()


_TWINS = "a key stands twice in one object"


def _no_twins(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(_TWINS)
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
