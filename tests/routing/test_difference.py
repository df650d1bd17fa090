"""What two tables do differently."""

from __future__ import annotations

import dataclasses

from commcli.routing import table as tables
from commcli.routing.difference import RoleChange, difference, document, pairs
from commcli.routing.table import Route
from tests.routing.fleets import zone
from tests.routing.worlds import NOW, decision


def test_serials_and_dates_and_where_it_was_read_from_are_no_difference() -> None:
    table = decision([zone("z", "ae", "kr", forbid=["de"])]).table
    encoded = tables.encode(tables.under_serial(table, 7, NOW + 9))
    assert difference(table, tables.decode(encoded.manifest, encoded.shards)).is_same


def test_paths_differ_role_by_role() -> None:
    table = decision().table
    was = table.routes["ae-1", "kr-1"]
    now = Route(was.primary, ("ae-1", "de-1", "kr-1"), None)
    found = difference(table, dataclasses.replace(table, routes={**table.routes, ("ae-1", "kr-1"): now}))
    assert not found.is_same
    (change,) = found.pairs
    assert change.pair == ("ae-1", "kr-1")
    assert [(each.role, each.before, each.after) for each in change.roles] == [
        ("backup", was.backup, now.backup),
        ("last_resort", was.last_resort, None),
    ]
    counts = document(found, "f")["counts"]
    assert (counts["pairs_differing"], counts["primary"], counts["backup"]) == (1, 0, 1)


def test_a_pair_that_a_zone_blocks() -> None:
    free, walled = decision().table, decision([zone("z", "ae", "kr", forbid=["ae"])]).table
    change = next(each for each in difference(free, walled).pairs if each.pair == ("ae-1", "kr-1"))
    assert (change.blocked_before, change.blocked_after) == (False, True)
    assert change.roles[0].after is None


def test_nodes_zones_and_client_networks() -> None:
    table = decision([zone("z", "ae", "kr", forbid=["de"])]).table
    nodes = {name: dict(row) for name, row in table.nodes.items() if name != "de-1"}
    nodes["sg-1"]["address"] = "127.9.9.9"
    after = dataclasses.replace(
        table,
        nodes=nodes,
        zones=decision([zone("z", "ae", "kr", forbid=["hk"])]).table.zones,
        prefixes={"203.0.113.0/24": ("sg-1",)},
        probe_kbit_s=7,
    )
    found = difference(table, after)
    assert [(row.name, row.kind) for row in found.nodes] == [("de-1", "gone"), ("sg-1", "changed")]
    assert found.nodes[1].fields["address"][1] == "127.9.9.9"
    assert [(row.name, dict(row.fields)) for row in found.zones] == [("z", {"forbid": (["de"], ["hk"])})]
    assert [(row.name, row.kind) for row in found.prefixes] == [("203.0.113.0/24", "new")]
    assert found.probe_kbit_s == (table.probe_kbit_s, 7)
    assert not found.pairs and not found.is_same


def test_before_the_first_table_every_pair_is_new() -> None:
    table = decision().table
    found = pairs(None, table)
    assert len(found) == 20 and pairs(table, table) == []
    assert all(each.primary and each.primary.before is None and each.primary.after for each in found)


def test_what_becomes_of_the_primary() -> None:
    table = decision().table
    pair, rest = ("ae-1", "kr-1"), {p: r for p, r in table.routes.items() if p != ("ae-1", "kr-1")}
    spared = dataclasses.replace(table.routes[pair], backup=None)
    (backup,) = pairs(table, dataclasses.replace(table, routes={**rest, pair: spared}))
    assert backup.primary is None
    none, walled = (
        dataclasses.replace(table, routes=rest, blocked=b) for b in (frozenset(), frozenset({pair}))
    )
    (gone,) = pairs(table, walled)
    assert gone.primary == RoleChange("primary", ("ae-1", "sg-1", "kr-1"), None)
    (blocked,) = pairs(none, walled)
    assert (blocked.roles, blocked.primary) == ((), RoleChange("primary", None, None))
