"""The text of a known_hosts file (sshd(8)): which lines name a host, and the text with other lines. Pure.

Lines with a marker (`@cert-authority`, `@revoked`) and comments are never touched.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

HASHED = "|1|"


class Line(NamedTuple):
    """A line that names hosts: where it stands (from 1), its names and its key (`type base64`)."""

    number: int
    names: tuple[str, ...]
    key: str


def lines(text: str) -> Iterator[Line]:
    """The lines of plain host keys."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) >= 3 and words[0][0] not in "#@":
            yield Line(number, tuple(words[0].split(",")), f"{words[1]} {words[2]}")


def keys_of(text: str, place: str) -> list[str]:
    """The keys that stand there under exactly this name (`host` or `[host]:port`)."""
    return [line.key for line in lines(text) if any(_is(name, place) for name in line.names)]


def is_hashed(text: str) -> bool:
    """Whether whoever keeps this file hides the names in it."""
    names = [name for line in lines(text) for name in line.names]
    return bool(names) and all(name.startswith(HASHED) for name in names)


def added(text: str, place: str, keys: Sequence[str], *, salt: Callable[[], bytes]) -> str:
    """The text with these keys for `place` at its end, hidden where all others are. `salt` makes 20 random bytes."""
    hide = is_hashed(text)
    new = "".join(f"{_hashed(place, salt()) if hide else place} {key}\n" for key in keys)
    return text + ("" if not text or text.endswith("\n") else "\n") + new


def without(text: str, place: str) -> str:
    """The text without the keys of exactly this name; the other names of a line stay."""
    named = {line.number: line for line in lines(text)}
    kept = []
    for number, raw in enumerate(text.splitlines(keepends=True), 1):
        line = named.get(number)
        if line is None or not any(_is(name, place) for name in line.names):
            kept.append(raw)
            continue
        rest = [name for name in line.names if not _is(name, place)]
        if rest:
            kept.append(raw.replace(",".join(line.names), ",".join(rest), 1))
    return "".join(kept)


def fingerprint(key: str) -> str:
    """`SHA256:...` of a key as the file has it (`type base64`)."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _is(name: str, place: str) -> bool:
    if not name.startswith(HASHED):
        return name == place
    try:
        salt, digest = (base64.b64decode(part) for part in name[len(HASHED) :].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, place.encode(), hashlib.sha1).digest(), digest)


def _hashed(place: str, salt: bytes) -> str:
    digest = hmac.new(salt, place.encode(), hashlib.sha1).digest()
    return f"{HASHED}{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
