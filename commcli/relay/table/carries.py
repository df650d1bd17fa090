"""The paths of other nodes' rows in which a node is transit or egress: the only ones that it carries packets along.

In a shard, `carries` is a list of paths, each a list of node numbers from edge to edge (in schema 1 a text, the ids
with a space between). A relay that is named on a path has no other way to know whether the ingress holds it in its
table or invented it.
"""

from __future__ import annotations

from typing import AbstractSet, FrozenSet, List, Sequence, Tuple

from commcli.relay.overlay.wire import MAX_HOPS, MIN_HOPS
from commcli.relay.table import zones

Path = Tuple[str, ...]

# A thousand nodes around one hub come to this many. A path takes some 100 bytes of memory.
MAX_CARRIED = 1 << 20


class NotCarried(ValueError):
    """Paths that can not be carried. `reason` is a word of ShardRefused: shape, path or zone."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def parse(listed: object) -> List[Path]:
    """The paths of a list of texts. Raises NotCarried."""
    if not isinstance(listed, list):
        raise NotCarried("shape", "not a list of at most %d paths" % MAX_CARRIED)
    if not all(isinstance(text, str) for text in listed):
        raise NotCarried("shape", "not all of it is text")
    return [tuple(text.split(" ")) for text in listed]


def judged(paths: Sequence[Path], node: str, known: AbstractSet[str], judge: zones.Judge) -> FrozenSet[Path]:
    """The paths if each of them is legal for somebody, with `node` on it and not as the first, and none stands twice.

    Raises NotCarried.
    """
    if len(paths) > MAX_CARRIED:
        raise NotCarried("shape", "not a list of at most %d paths" % MAX_CARRIED)
    for path in paths:
        distinct = set(path)
        if not (
            MIN_HOPS <= len(path) == len(distinct) <= MAX_HOPS
            and node in distinct
            and path[0] != node
            and distinct <= known
        ):
            raise NotCarried("path", "%s: %s" % (" ".join(path)[:200], _fault(path, node, known)))
        zone = judge.violated(path)
        if zone is not None:
            raise NotCarried("zone", "%s breaks %s" % (" ".join(path), zone))
    carried = frozenset(paths)
    if len(carried) != len(paths):
        raise NotCarried("shape", "a path stands twice")
    return carried


def _fault(ids: Path, node: str, known: AbstractSet[str]) -> str:
    """Why `judged` does not take it."""
    if not MIN_HOPS <= len(ids) <= MAX_HOPS:
        return "%d nodes; at least %d, at most %d" % (len(ids), MIN_HOPS, MAX_HOPS)
    if len(set(ids)) != len(ids):
        return "a loop"
    if node not in ids or ids[0] == node:
        return "%s neither passes it on nor receives it" % node
    return "unknown hop %s" % next(hop for hop in ids if hop not in known)
