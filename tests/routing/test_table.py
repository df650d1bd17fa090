from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given

from commcli.errors import BadInput, Refused
from commcli.relay import shard as shard_rule
from commcli.routing import table as tables
from commcli.routing.cost import Prices
from commcli.routing.estimate import Matrix
from commcli.routing.planner import plan
from commcli.routing.policy import Policy, masks
from commcli.routing.table import Route, Table
from tests.routing.fleets import zone
from tests.routing.strategies import HOP_MS, worlds
from tests.routing.worlds import NOW, decision


def table_of(policy: Policy, total: Matrix, serial: int = 3) -> Table:
    made = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS)
    return tables.from_plan(
        made, policy, fleet="test", serial=serial, created=NOW, measurements="m", rules="p"
    )


@given(worlds())
def test_round_trip_and_every_relay_accepts_it(world: tuple[Policy, Matrix]) -> None:
    table = table_of(*world)
    encoded = tables.encode(table)
    tables.check(encoded, now_unix=NOW, highest_serial=2)
    back = tables.decode(encoded.manifest, encoded.shards)
    assert back.routes == table.routes
    assert back.blocked == table.blocked
    assert back.same_routing(table)
    assert (back.serial, back.created, back.expires) == (3, NOW, NOW + 7 * 86400)


@given(worlds())
def test_equal_input_gives_equal_bytes(world: tuple[Policy, Matrix]) -> None:
    policy, total = world
    one, other = tables.encode(table_of(policy, total)), tables.encode(table_of(policy, total.copy()))
    assert one.manifest == other.manifest
    assert one.shards == other.shards


def test_bytes_do_not_depend_on_the_order_of_routes() -> None:
    table = decision().table
    turned = dataclasses.replace(
        table,
        routes=dict(reversed(list(table.routes.items()))),
        nodes=dict(reversed(list(table.nodes.items()))),
    )
    assert tables.encode(turned) == tables.encode(table)


def test_canonical_json_is_sorted_and_compact() -> None:
    assert tables.canonical({"b": [1, None], "a": "ü"}) == '{"a":"ü","b":[1,null]}\n'.encode()


def test_a_shard_holds_what_the_format_says() -> None:
    made = decision([zone("z", "ae", "kr", forbid=["in"])])
    shard = json.loads(tables.encode(made.table).shards["ae-1"])
    assert shard["routes"]["kr-1"] == {
        "primary": ["ae-1", "sg-1", "kr-1"],
        "backup": ["ae-1", "hk-1", "kr-1"],
        "last_resort": ["ae-1", "kr-1"],
    }
    assert shard["zones"] == [{"id": "z", "between": [["ae"], ["kr"]], "forbid": ["in"], "allow": None}]
    assert shard["nodes"]["sg-1"] == {
        "address": "127.9.0.5",
        "overlay_port": 3479,
        "relay_ports": [49152, 65535],
        "country": "sg",
        "markets": ["sg"],
    }
    assert (shard["node"], shard["serial"], shard["expires"]) == ("ae-1", 1, "2027-01-22T08:00:00Z")


def test_the_manifest_names_shards_and_inputs() -> None:
    made = decision()
    encoded = tables.encode(made.table)
    manifest = json.loads(encoded.manifest)
    assert manifest["shards"] == {node: tables.sha256(data) for node, data in encoded.shards.items()}
    assert manifest["inputs"]["measurements"] == made.estimate.sha256()
    assert len(manifest["inputs"]["policy"]) == 64


def test_a_path_through_a_forbidden_country_is_refused_before_signing() -> None:
    table = decision([zone("z", "ae", "kr", forbid=["sg"])]).table
    bad = Route(("ae-1", "kr-1"), ("ae-1", "sg-1", "kr-1"), None)
    forged = dataclasses.replace(table, routes={**table.routes, ("ae-1", "kr-1"): bad})
    with pytest.raises(Refused, match="zone: backup to kr-1 breaks z"):
        tables.check(tables.encode(forged), now_unix=NOW, highest_serial=0)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (("ae-1", "sg-1", "sg-1", "kr-1"), "loop"),
        (("ae-1", "sg-1", "hk-1", "de-1", "kr-1"), "at most 4"),
        (("de-1", "sg-1", "kr-1"), "starts at de-1"),
        (("ae-1", "nowhere", "kr-1"), "unknown hop"),
    ],
)
def test_paths_that_no_relay_would_take_are_refused(path: tuple[str, ...], reason: str) -> None:
    table = decision().table
    forged = dataclasses.replace(table, routes={**table.routes, ("ae-1", "kr-1"): Route(path)})
    with pytest.raises(Refused, match=reason):
        tables.check(tables.encode(forged), now_unix=NOW, highest_serial=0)


def test_old_and_expired_tables_are_refused() -> None:
    encoded = tables.encode(decision(serial=4).table)
    with pytest.raises(Refused, match="older than 5"):
        tables.check(encoded, now_unix=NOW, highest_serial=5)
    with pytest.raises(Refused, match="expired"):
        tables.check(encoded, now_unix=NOW + 8 * 86400, highest_serial=0)


def test_a_damaged_or_missing_shard_is_noticed() -> None:
    encoded = tables.encode(decision().table)
    with pytest.raises(BadInput, match="shard sg-1"):
        tables.decode(encoded.manifest, {**encoded.shards, "sg-1": encoded.shards["sg-1"][:-5]})
    with pytest.raises(BadInput, match="shard sg-1"):
        tables.decode(encoded.manifest, {n: s for n, s in encoded.shards.items() if n != "sg-1"})
    with pytest.raises(BadInput, match="not JSON"):
        tables.decode(encoded.manifest[:-9], encoded.shards)
    with pytest.raises(BadInput, match="not in the shape"):
        tables.decode(b"{}", encoded.shards)


def test_difference_is_told_by_pair_and_its_most_important_path() -> None:
    free = decision().table
    bound = decision([zone("z", "ae", "kr", forbid=["sg"])]).table
    found = {d.pair: d for d in tables.diff(free, bound)}
    assert set(found) == {("ae-1", "kr-1"), ("kr-1", "ae-1")}
    change = found["ae-1", "kr-1"]
    assert (change.role, change.before, change.after) == (
        "primary",
        ("ae-1", "sg-1", "kr-1"),
        ("ae-1", "hk-1", "kr-1"),
    )
    assert tables.diff(free, free) == []
    assert len(tables.diff(None, free)) == 20


def test_difference_sees_a_spare_path_and_a_block() -> None:
    table = decision().table
    route = table.routes["ae-1", "kr-1"]
    other = dataclasses.replace(
        table, routes={**table.routes, ("ae-1", "kr-1"): dataclasses.replace(route, backup=None)}
    )
    assert [d.role for d in tables.diff(table, other)] == ["backup"]
    fenced = dataclasses.replace(
        table,
        routes={pair: r for pair, r in table.routes.items() if pair != ("ae-1", "kr-1")},
        blocked=frozenset({("ae-1", "kr-1")}),
    )
    (change,) = tables.diff(table, fenced)
    assert (change.after, change.blocked_before, change.blocked_after) == (None, False, True)


def test_what_a_zone_of_today_leaves_of_an_old_table() -> None:
    old = decision().table
    rules = decision([zone("z", "ae", "kr", forbid=["sg"])]).policy
    today = tables.under_policy(old, rules)
    assert [(pair, role, name) for pair, role, _, name in tables.unlawful(today, rules)] == [
        (("ae-1", "kr-1"), "primary", "z"),
        (("kr-1", "ae-1"), "primary", "z"),
    ]
    kept = tables.lawful_part(today, rules)
    assert tables.unlawful(kept, rules) == []
    # What is left moves up: the old backup is the primary now.
    assert kept.routes["ae-1", "kr-1"] == Route(("ae-1", "hk-1", "kr-1"), ("ae-1", "kr-1"), None)
    tables.check(tables.encode(kept), now_unix=NOW, highest_serial=0)


def test_lawful_part_blocks_a_pair_whose_ends_are_forbidden() -> None:
    rules = decision([zone("z", "ae", "kr", forbid=["kr"])]).policy
    kept = tables.lawful_part(tables.under_policy(decision().table, rules), rules)
    assert ("ae-1", "kr-1") not in kept.routes
    assert ("ae-1", "kr-1") in kept.blocked


def test_routes_of_nodes_that_are_gone_fall_away() -> None:
    old = decision().table
    rules = decision().policy
    smaller = dataclasses.replace(
        rules,
        ids=tuple(n for n in rules.ids if n != "sg-1"),
        nodes={n: r for n, r in rules.nodes.items() if n != "sg-1"},
    )
    kept = tables.under_policy(old, smaller)
    assert kept.routes["ae-1", "kr-1"].primary == ("ae-1", "hk-1", "kr-1")
    assert not any("sg-1" in pair for pair in kept.routes)
    tables.check(tables.encode(kept), now_unix=NOW, highest_serial=0)


def test_an_old_table_makes_no_new_transit_of_a_node_that_drains() -> None:
    kept = tables.under_policy(decision().table, decision(states={"sg-1": "drain"}).policy)
    assert kept.routes["ae-1", "kr-1"] == Route(("ae-1", "hk-1", "kr-1"), ("ae-1", "kr-1"), None)
    assert kept.routes["ae-1", "sg-1"].primary == ("ae-1", "sg-1")


def test_times() -> None:
    assert tables.iso(0) == "1970-01-01T00:00:00Z"
    assert tables.unix(tables.iso(NOW)) == NOW


def test_the_rules_digest_covers_prices() -> None:
    from commcli.routing.decision import decide
    from tests.routing.worlds import small_fleet, windows

    dear = decide(small_fleet(), windows(), in_force=None, serial=1, now_unix=NOW, prices=Prices(hop_ms=9.0))
    assert dear.table.inputs["policy"] != decision().table.inputs["policy"]


def test_schema_is_the_relays() -> None:
    assert tables.SCHEMA == shard_rule.SCHEMA
