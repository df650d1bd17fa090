"""The paths of other nodes' rows in which a node is transit or egress: the only ones that it carries packets along.

In a shard, `carries` is a list of texts, each the ids of one path from edge to edge with a space between. A
relay that is named on a path has no other way to know whether the ingress holds it in its table or invented it.
"""

from __future__ import annotations

from typing import FrozenSet, List, Mapping, Sequence, Tuple

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


def parse(
    listed: object, node: str, nodes: Mapping[str, zones.Place], rules: Sequence[zones.Zone]
) -> FrozenSet[Path]:
    """The paths of the list, each of them legal for somebody, with `node` on it and not as the first.

    Raises NotCarried.
    """
    if not isinstance(listed, list) or len(listed) > MAX_CARRIED:
        raise NotCarried("shape", "not a list of at most %d paths" % MAX_CARRIED)
    names = {name: name for name in nodes}  # one copy of an id, however many paths name it
    judge = zones.Judge(rules, nodes)
    known = names.keys()
    paths: List[Path] = []
    for text in listed:
        if not isinstance(text, str):
            raise NotCarried("shape", "not all of it is text")
        ids = text.split(" ")
        distinct = set(ids)
        if not (
            MIN_HOPS <= len(ids) == len(distinct) <= MAX_HOPS
            and node in distinct
            and ids[0] != node
            and distinct <= known
        ):
            raise NotCarried("path", "%s: %s" % (text[:200], _fault(ids, node, names)))
        path = tuple([names[name] for name in ids])
        zone = judge.violated(path) if rules else None
        if zone is not None:
            raise NotCarried("zone", "%s breaks %s" % (text, zone))
        paths.append(path)
    carried = frozenset(paths)
    if len(carried) != len(paths):
        raise NotCarried("shape", "a path stands twice")
    return carried


def _fault(ids: List[str], node: str, names: Mapping[str, str]) -> str:
    """Why `parse` does not take it."""
    if not MIN_HOPS <= len(ids) <= MAX_HOPS:
        return "%d nodes; at least %d, at most %d" % (len(ids), MIN_HOPS, MAX_HOPS)
    if len(set(ids)) != len(ids):
        return "a loop"
    if node not in ids or ids[0] == node:
        return "%s neither passes it on nor receives it" % node
    return "unknown hop %s" % next(hop for hop in ids if hop not in names)
