"""What two tables do differently: pairs role by role, nodes, zones, client networks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from commcli.routing.policy import NodeRow
from commcli.routing.table import Pair, Path, Route, Table, iso

SCHEMA = 1
ROLES = ("primary", "backup", "last_resort")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RoleChange:
    """One path of a pair's route; None: there is no such path."""

    role: Literal["primary", "backup", "last_resort"]
    before: Path | None
    after: Path | None


@dataclass(frozen=True, slots=True)
class PairChange:
    """One pair that is routed differently; `roles` are those that differ. Blocked: a zone forbids the pair itself."""

    pair: Pair
    roles: tuple[RoleChange, ...]
    blocked_before: bool
    blocked_after: bool

    @property
    def primary(self) -> RoleChange | None:
        """The change of the primary path; None where that stays. A pair without one that is blocked changes too."""
        found = next((change for change in self.roles if change.role == "primary"), None)
        if found is None and not self.roles:
            return RoleChange("primary", None, None)
        return found


@dataclass(frozen=True, slots=True)
class RowChange:
    """A named thing that is not the same: {field: (before, after)}; None as a whole where it is new or gone."""

    name: str
    kind: Literal["new", "gone", "changed"]
    fields: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """All that `after` has otherwise than `before`."""

    before: Table
    after: Table
    pairs: tuple[PairChange, ...]
    nodes: tuple[RowChange, ...]
    zones: tuple[RowChange, ...]
    prefixes: tuple[RowChange, ...]
    probe_kbit_s: tuple[int, int] | None

    @property
    def is_same(self) -> bool:
        """Whether relays do the same under both, whatever their serials and dates."""
        return not (self.pairs or self.nodes or self.zones or self.prefixes or self.probe_kbit_s)


def difference(before: Table, after: Table) -> Difference:
    """Compare two tables, everything in order."""
    budget = before.probe_kbit_s, after.probe_kbit_s
    return Difference(
        before,
        after,
        pairs=tuple(pairs(before, after)),
        nodes=_rows(_plain(before.nodes), _plain(after.nodes)),
        zones=_rows(_zones(before), _zones(after)),
        prefixes=_rows(_edges(before), _edges(after)),
        probe_kbit_s=None if budget[0] == budget[1] else budget,
    )


def pairs(before: Table | None, after: Table) -> list[PairChange]:
    """The pairs that `after` routes otherwise, in order; without a table `before` it routes all of its pairs anew."""
    old = before.routes if before else {}
    blocked = before.blocked if before else frozenset()
    found = []
    for pair in {*old, *after.routes, *blocked, *after.blocked}:
        was, now = old.get(pair), after.routes.get(pair)
        walls = pair in blocked, pair in after.blocked
        if was != now or walls[0] != walls[1]:
            found.append(PairChange(pair, _roles(was, now), *walls))
    return sorted(found, key=lambda change: change.pair)


def _roles(was: Route | None, now: Route | None) -> tuple[RoleChange, ...]:
    both = (
        RoleChange(role, getattr(was, role, None), getattr(now, role, None))  # type: ignore[arg-type]
        for role in ROLES
    )
    return tuple(change for change in both if change.before != change.after)


def _rows(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> tuple[RowChange, ...]:
    found = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        fields = {
            key: ((was or {}).get(key), (now or {}).get(key))
            for key in sorted({*(was or {}), *(now or {})})
            if (was or {}).get(key) != (now or {}).get(key)
        }
        if fields:
            kind: Literal["new", "gone", "changed"] = (
                "new" if was is None else "gone" if now is None else "changed"
            )
            found.append(RowChange(name, kind, fields))
    return tuple(found)


def _plain(rows: Mapping[str, NodeRow]) -> dict[str, dict[str, Any]]:
    """Rows from memory and rows from JSON, alike: tuples and lists are one."""
    return {name: {key: _listed(value) for key, value in row.items()} for name, row in rows.items()}


def _zones(table: Table) -> dict[str, dict[str, Any]]:
    return {str(row["id"]): {key: _listed(row[key]) for key in row if key != "id"} for row in table.zones}


def _edges(table: Table) -> dict[str, dict[str, Any]]:
    return {text: {"edges": list(edges)} for text, edges in table.prefixes.items()}


def _listed(value: Any) -> Any:
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


def document(found: Difference, fleet: str) -> Document:
    """What `route diff` answers."""
    return {
        "schema": SCHEMA,
        "kind": "route.diff",
        "fleet": fleet,
        "before": _head(found.before),
        "after": _head(found.after),
        "same": found.is_same,
        "counts": {
            "pairs": len({*found.before.routes, *found.after.routes}),
            "pairs_differing": len(found.pairs),
            **{role: _count(found, role) for role in ROLES},
        },
        "pairs": [
            {
                **{"from": change.pair[0], "to": change.pair[1]},
                **{"blocked_before": change.blocked_before, "blocked_after": change.blocked_after},
                "roles": {each.role: {"before": each.before, "after": each.after} for each in change.roles},
            }
            for change in found.pairs
        ],
        **{
            part: [asdict(row) for row in rows]
            for part, rows in (("nodes", found.nodes), ("zones", found.zones), ("prefixes", found.prefixes))
        },
        "probe_kbit_s": found.probe_kbit_s,
    }


def _head(table: Table) -> Document:
    return {"serial": table.serial, "created": iso(table.created), "expires": iso(table.expires)}


def _count(found: Difference, role: str) -> int:
    return sum(1 for change in found.pairs if any(each.role == role for each in change.roles))
