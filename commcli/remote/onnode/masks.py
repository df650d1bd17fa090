"""Secrets are masked by value: whatever text they land in, on the node before it is sent and again here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

MASK = "***"
SHORTEST = 4
# Inside a secret document (peers.json) the words that can only be keys are secrets of their own: hex or base64, and
# longer than the parts of a node's id, which stand there too.
_KEY = re.compile(r"[A-Za-z0-9+/_]{24,}={0,2}")

_RESERVED = re.compile(r"[^A-Za-z0-9._~-]+")


def expand(secrets: Sequence[str]) -> list[str]:
    """Every text to look for, the longest first: the secrets, their lines and keys, JSON, base64 and URL forms.

    Secrets shorter than four characters are not looked for: they would mask the whole page.
    """
    found: set[str] = set()
    for secret in secrets:
        found.update((secret, secret.strip(), json.dumps(secret)[1:-1]))
        found.add(base64.b64encode(secret.encode()).decode())
        found.update((_in_url(secret), _in_url(secret).replace("%20", "+")))
        found.update(_KEY.findall(secret))
        if secret[:1] not in ("{", "["):
            found.update(secret.split("\n"))  # several secrets, one a line, while they rotate
    return sorted((word for word in found if len(word) >= SHORTEST), key=len, reverse=True)


def _in_url(secret: str) -> str:
    # urllib.parse does the same, but is milliseconds of import on each node.
    return _RESERVED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), secret)


def mask(value: Any, words: Sequence[str]) -> Any:
    """`value` (JSON-able) with every one of `words` replaced in every string, dictionary keys included."""
    if not words:
        return value
    if isinstance(value, str):
        for word in words:
            value = value.replace(word, MASK)
        return value
    if isinstance(value, dict):
        return {mask(key, words): mask(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item, words) for item in value]
    return value
