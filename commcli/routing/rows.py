"""A table's routes as the planner's arrays; and these arrays as the text of shards, in as few steps as there are roles.

A table of a thousand nodes has a million routes: to make an object of each, or a text of each path, takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from commcli.routing.planner import Incumbent, Routes
from commcli.routing.search import NOBODY

Path = tuple[str, ...]
Pair = tuple[str, str]
Records = NDArray[np.void]
Numbers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """What one edge does towards another: each path lists the nodes from edge to edge."""

    primary: Path
    backup: Path | None = None
    last_resort: Path | None = None

    def paths(self) -> Iterator[tuple[str, Path]]:
        """(role, path) of every path that is there, the preferred one first."""
        for role in ROLES:
            path = getattr(self, role)
            if path is not None:
                yield role, path

    def row(self) -> dict[str, list[str] | None]:
        """As documents tell it."""
        return {role: None if (path := getattr(self, role)) is None else list(path) for role in ROLES}


ROLES = ("primary", "backup", "last_resort")


class Rows(Mapping[Pair, Route]):
    """The routes of arrays over `ids`, made into values only when somebody reads them."""

    def __init__(self, ids: tuple[str, ...], routes: Routes) -> None:
        self.ids, self.routes = ids, routes

    @cached_property
    def _made(self) -> dict[Pair, Route]:
        roles = [of_source(getattr(self.routes, role), self.ids) for role in ROLES]
        made = {}
        for source, *found in zip(self.ids, *roles, strict=True):
            for target, primary, backup, last in zip(self.ids, *found, strict=True):
                if primary is not None:
                    made[source, target] = Route(primary, backup, last)
        return made

    def __getitem__(self, pair: Pair) -> Route:
        return self._made[pair]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._made)

    def __len__(self) -> int:
        return int(self.routes.primary.present.sum())

    def __eq__(self, other: object) -> bool:
        return self._made == (other._made if isinstance(other, Rows) else other)

    __hash__ = None  # type: ignore[assignment]  # as of every other mapping


def of_source(role: Incumbent, ids: Sequence[str]) -> Iterator[list[Path | None]]:
    """For each source in turn its paths to every node, None where there is none."""
    for source, first, second, present in zip(
        ids, role.first.tolist(), role.second.tolist(), role.present.tolist(), strict=True
    ):
        yield [
            None
            if not there
            else (source, target)
            if one == NOBODY
            else (source, ids[one], target)
            if two == NOBODY
            else (source, ids[one], ids[two], target)
            for target, one, two, there in zip(ids, first, second, present, strict=True)
        ]


class Spelling:
    """The routes as JSON text by node: `rows` of a role, and what a node `carries` of all other nodes' rows.

    A path is a list of node numbers. Each is put together from tokens of fixed width, filled with NUL, which are taken
    out of a whole node's text at once.
    """

    def __init__(self, routes: Routes) -> None:
        size = len(routes.primary.present)
        names = [b"%d" % number for number in range(size)]
        self._opening = np.array([b"[" + name for name in names])
        self._relay = np.array([*(b"," + name for name in names), b""])  # NOBODY is the last of them
        self._closing = np.array([b"," + name + b"]," for name in names])
        self._roles = {role: self._records(getattr(routes, role)) for role in ROLES}
        self._carried, self._which, self._ends = self._by_node(routes, size)

    def rows(self, role: str, node: int) -> bytes:
        """The paths of one role from the node of this number, by their egresses."""
        records, ends = self._roles[role]
        return _joined(records[ends[node] : ends[node + 1]])

    def carries(self, node: int) -> bytes:
        """The paths on which the node of this number is transit or egress: first those that end there."""
        return _joined(self._carried[self._which[self._ends[node] : self._ends[node + 1]]])

    def _records(self, role: Incumbent) -> tuple[Records, Numbers]:
        counts = role.present.sum(axis=1)
        parts = (
            np.repeat(self._opening, counts),
            self._relay[role.first[role.present]],
            self._relay[role.second[role.present]],
            self._closing[_targets(role.present)],
        )
        records = np.empty(len(parts[0]), [(f"{n}", part.dtype) for n, part in enumerate(parts)])
        for n, part in enumerate(parts):
            records[f"{n}"] = part
        # As one field each: what is taken of them is copied in one go then.
        return records.view(f"V{records.itemsize}"), _ends(counts)

    def _by_node(self, routes: Routes, size: int) -> tuple[Records, Numbers, Numbers]:
        """All paths once; the numbers of those that each node carries, in order of the nodes; where each node's end."""
        records, egress, relays = [], [], []
        seen: list[Incumbent] = []
        for role in ROLES:
            paths: Incumbent = getattr(routes, role)
            new = paths.present.copy()
            for other in seen:
                new &= (other.first != paths.first) | (other.second != paths.second) | ~other.present
            seen.append(paths)
            records.append(self._roles[role][0][new[paths.present]])
            egress.append(_targets(new))
            relays.append((paths.first[new], paths.second[new]))
        node, which = [np.concatenate(egress)], [np.arange(sum(map(len, egress)), dtype=np.int32)]
        for hop in range(2):
            relay = np.concatenate([pair[hop] for pair in relays])
            which.append(np.flatnonzero(relay != NOBODY).astype(np.int32))
            node.append(relay[which[-1]])
        nodes = np.concatenate(node, dtype=node[0].dtype, casting="same_kind")
        order = np.argsort(nodes, kind="stable")
        ends = _ends(np.bincount(nodes, minlength=size))
        return np.concatenate(records), np.concatenate(which)[order], ends


def _targets(present: NDArray[np.bool_]) -> Numbers:
    """The column of each that is there, row by row; in as few bytes as they fit, which sorts in linear time."""
    size = len(present)
    columns = np.arange(size, dtype=np.int16 if size < 1 << 15 else np.int32)
    return cast("Numbers", np.broadcast_to(columns, present.shape)[present])


def _ends(counts: Numbers) -> Numbers:
    """(N + 1,) where each node's begins among all, which are in their order, when each has so many (N,)."""
    ends: Numbers = np.concatenate([[0], np.cumsum(counts)])
    return ends


def _joined(records: Records) -> bytes:
    return b"[" + records.tobytes().translate(None, b"\0")[:-1] + b"]"
