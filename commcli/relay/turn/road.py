"""How an allocation's packets are to travel, which the end of its user id says.

    anybody+direct       past the overlay, from edge to edge
    probe+via=sg-1       over this one relay between the edges, and over no other path
    probe+plain          without the overlay's repair

They combine. A client can not change its user id: a time-limited password is a MAC over all of it. `+via=` and `+plain`
are for our own probes; of any other user they are part of the name.
"""

from __future__ import annotations

from typing import FrozenSet, List, NamedTuple, Optional, Tuple

PROBE = "probe"  # the only user who may ask for more than DIRECT
DIRECT, VIA, PLAIN = "direct", "via=", "plain"
NOWHERE = ""  # a `via` that is no node's id
LONGEST_ID = 32


class Road(NamedTuple):
    """`via`: the id of a node, None for any path; NOWHERE if the user id contradicts itself."""

    direct: bool = False
    via: Optional[str] = None
    plain: bool = False


OVERLAY = Road()


def split(userid: str) -> Tuple[str, FrozenSet[str]]:
    """The user whom quotas count, and the words that the user id ends with (without the plus)."""
    name, *words = userid.split("+")
    if name == PROBE and all(word in (DIRECT, PLAIN) or word.startswith(VIA) for word in words):
        return name, frozenset(words)
    kept: List[str] = [name, *words]
    while len(kept) > 1 and kept[-1] == DIRECT:
        kept.pop()
    return "+".join(kept), frozenset((DIRECT,) if len(kept) <= len(words) else ())


def of(userid: str) -> Road:
    """What this user id asks for."""
    words = split(userid)[1]
    if not words:
        return OVERLAY
    nodes = [word[len(VIA) :] for word in words if word.startswith(VIA)]
    is_direct, is_plain = DIRECT in words, PLAIN in words
    if not nodes:
        return Road(is_direct, None, is_plain)
    is_clear = len(nodes) == 1 and len(nodes[0]) <= LONGEST_ID and not is_direct
    return Road(False, nodes[0] if is_clear else NOWHERE, is_plain)
