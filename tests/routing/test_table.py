from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given

from commcli.errors import BadInput, Refused
from commcli.fleet.model import Ports
from commcli.relay.table import shard as shard_rule
from commcli.relay.table.shard import SHARED, Shard
from commcli.relay.turn.alternates import Alternates
from commcli.routing import policy as policies
from commcli.routing import table as tables
from commcli.routing.cost import Prices
from commcli.routing.decision import decide
from commcli.routing.estimate import Matrix
from commcli.routing.planner import plan
from commcli.routing.policy import Policy, masks
from commcli.routing.table import Encoded, Route, Table
from tests.routing.fleets import fleet, zone
from tests.routing.strategies import HOP_MS, worlds
from tests.routing.worlds import NOW, decision, small_fleet, windows

DOOR = ("turn_port", "tls_port", "domain", "address6")


def table_of(policy: Policy, total: Matrix, serial: int = 3) -> Table:
    made = plan(policy.ids, total, masks(policy), hop_ms=HOP_MS)
    return tables.from_plan(
        made, policy, fleet="test", serial=serial, created=NOW, measurements="m", rules="p"
    )


def loaded(encoded: Encoded, node: str) -> Shard:
    """What the relay makes of it."""
    files = encoded.shards[node], encoded.shards[SHARED]
    return shard_rule.load(encoded.manifest, files[0], shared=files[1], node=node, unix=NOW, highest_serial=0)


def numbered(encoded: Encoded, node: str) -> tuple[dict[str, Any], list[str]]:
    """A shard as written, and the ids that its numbers stand for."""
    return json.loads(encoded.shards[node]), sorted(json.loads(encoded.shards[SHARED])["nodes"])


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


@given(worlds())
def test_each_relay_carries_what_others_routes_lead_over_it_and_nothing_else(
    world: tuple[Policy, Matrix],
) -> None:
    table = table_of(*world)
    encoded = tables.encode(table)
    paths = {path for route in table.routes.values() for _, path in route.paths()}
    for node in table.nodes:
        shard = loaded(encoded, node)
        assert shard.carries == frozenset(path for path in paths if node in path[1:])


def test_what_a_relay_carries_is_spelled_in_one_way() -> None:
    shard, ids = numbered(tables.encode(decision().table), "sg-1")
    carried = [tuple(ids[at] for at in path) for path in shard["carries"]]
    assert ("ae-1", "sg-1", "kr-1") in carried and ("ae-1", "sg-1") in carried
    ends_here = [path[-1] == "sg-1" for path in carried]
    assert ends_here == sorted(ends_here, reverse=True), "first those that end there"


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
    encoded = tables.encode(made.table)
    shard, ids = numbered(encoded, "ae-1")
    rows = {
        role: [[ids[at] for at in path] for path in paths if ids[path[-1]] == "kr-1"]
        for role, paths in shard["routes"].items()
    }
    assert rows == {
        "primary": [["ae-1", "sg-1", "kr-1"]],
        "backup": [["ae-1", "hk-1", "kr-1"]],
        "last_resort": [["ae-1", "kr-1"]],
    }
    assert shard.keys() == {"schema", "serial", "node", "routes", "blocked", "carries"}
    shared = json.loads(encoded.shards[SHARED])
    assert shared["zones"] == [{"id": "z", "between": [["ae"], ["kr"]], "forbid": ["in"], "allow": None}]
    assert shared["nodes"]["sg-1"] == {
        "address": "127.9.0.5",
        "overlay_port": 3479,
        "relay_ports": [49152, 65535],
        "country": "sg",
        "markets": ["sg"],
        "turn_port": 3478,
    }
    assert (shard["node"], shard["serial"]) == ("ae-1", 1)
    assert json.loads(encoded.manifest)["expires"] == "2027-01-22T08:00:00Z"


@given(worlds())
def test_shards_are_spelled_canonically(world: tuple[Policy, Matrix]) -> None:
    for data in tables.encode(table_of(*world)).shards.values():
        assert data == tables.canonical(json.loads(data))


def with_doors() -> Table:
    """sg-1 has TLS and IPv6, hk-1 drains, and clients of one network are nearest to either."""
    world = small_fleet(states={"hk-1": "drain", "kr-1": "no-transit"})
    door: dict[str, Any] = {
        "address6": "2001:db8::5",
        "domain": "sg-1.relay.example",
        "ports": Ports(tls=443),
    }
    nodes = {**world.nodes, "sg-1": dataclasses.replace(world.nodes["sg-1"], **door)}
    prefixes = {"203.0.113.0/24": ("hk-1", "sg-1"), "198.51.100.0/24": ("de-1",)}
    world = dataclasses.replace(world, nodes=nodes, prefixes=prefixes)
    return decide(world, windows(), in_force=None, serial=1, now_unix=NOW, away={"de-1"}).table


def test_a_table_says_where_clients_find_the_nodes_that_take_them() -> None:
    rows = json.loads(tables.encode(with_doors()).shards[SHARED])["nodes"]
    doors = {name: {key: row[key] for key in DOOR if key in row} for name, row in rows.items()}
    assert doors == {
        "ae-1": {"turn_port": 3478},
        "de-1": {},  # away
        "hk-1": {},  # drains
        "kr-1": {"turn_port": 3478},  # no transit, but an edge
        "sg-1": {
            "turn_port": 3478,
            "tls_port": 443,
            "domain": "sg-1.relay.example",
            "address6": "2001:db8::5",
        },
    }


def test_a_node_that_serves_nobody_has_no_door_unless_a_network_is_near_it() -> None:
    world = fleet({"a": "ae", "t": ""})
    assert "turn_port" not in policies.of(world).nodes["t"]
    near = dataclasses.replace(world, prefixes={"203.0.113.0/24": ("a", "t")})
    assert policies.of(near).nodes["t"]["turn_port"] == 3478


def test_the_prefix_map_reaches_every_relay_and_comes_back() -> None:
    table = with_doors()
    encoded = tables.encode(table)
    tables.check(encoded, now_unix=NOW, highest_serial=0)
    back = tables.decode(encoded.manifest, encoded.shards)
    assert back.prefixes == table.prefixes and back.same_routing(table)
    shard = loaded(encoded, "ae-1")
    chosen = Alternates(shard).choose("203.0.113.4", "tls", False)
    assert chosen == ((table.nodes["sg-1"]["address"], 443), "sg-1.relay.example"), "hk-1 drains"


def test_a_prefix_map_that_no_relay_would_read_is_refused() -> None:
    encoded = tables.encode(with_doors())
    spoilt = encoded.shards[SHARED].replace(b"203.0.113.0/24", b"203.0.113.1/24")
    manifest = json.loads(encoded.manifest)
    manifest["shards"][SHARED] = tables.sha256(spoilt)
    forged = tables.Encoded(tables.canonical(manifest), {**encoded.shards, SHARED: spoilt})
    with pytest.raises(Refused, match=r"must be written as 203\.0\.113\.0/24"):
        tables.check(forged, now_unix=NOW, highest_serial=0)


def test_what_all_share_stays_the_same_while_only_routes_change() -> None:
    one, other = decision().table, with_doors()
    later = dataclasses.replace(one, serial=9, created=NOW + 9, routes=dict(list(one.routes.items())[:3]))
    assert tables.encode(later).shards[SHARED] == tables.encode(one).shards[SHARED]
    assert tables.encode(other).shards[SHARED] != tables.encode(one).shards[SHARED]


def test_routes_of_arrays_and_of_values_are_the_same_bytes() -> None:
    table = decision([zone("z", "ae", "kr", forbid=["in"])]).table
    plain = dataclasses.replace(table, routes=dict(table.routes))
    assert tables.encode(plain) == tables.encode(table) and plain.same_routing(table)
    assert (len(table.routes), list(table.routes)) == (len(plain.routes), list(plain.routes))


def test_a_table_of_schema_1_is_still_understood() -> None:
    table = with_doors()
    encoded = tables.encode(table)
    manifest, shards = schema_1(encoded)
    assert tables.decode(manifest, shards).same_routing(table)
    for node in table.nodes:
        shard = shard_rule.load(manifest, shards[node], node=node, unix=NOW, highest_serial=0)
        same = loaded(encoded, node)
        assert dataclasses.replace(shard, prefixes=same.prefixes) == same
        assert shard.prefixes.look_up("203.0.113.7") == same.prefixes.look_up("203.0.113.7") is not None


def schema_1(encoded: Encoded) -> tuple[bytes, dict[str, bytes]]:
    """The same table as an older commcli wrote it: all in every shard, and by names."""
    manifest, shared = json.loads(encoded.manifest), json.loads(encoded.shards[SHARED])
    shards = {}
    for node in shared["nodes"]:
        shard, ids = numbered(encoded, node)
        routes: dict[str, dict[str, Any]] = {}
        for role, paths in shard["routes"].items():
            for path in paths:
                rows = routes.setdefault(
                    ids[path[-1]], {"primary": None, "backup": None, "last_resort": None}
                )
                rows[role] = [ids[at] for at in path]
        named = {
            **{"routes": routes, "blocked": [ids[at] for at in shard["blocked"]]},
            **{"carries": [" ".join(ids[at] for at in path) for path in shard["carries"]], "schema": 1},
            **{key: manifest[key] for key in ("created", "expires")},
        }
        shards[node] = tables.canonical({**shared, **shard, **named})
    digests = {node: tables.sha256(data) for node, data in shards.items()}
    return tables.canonical({**manifest, "schema": 1, "shards": digests}), shards


def test_another_nearest_edge_is_another_table() -> None:
    table = with_doors()
    turned = dataclasses.replace(table, prefixes={**table.prefixes, "203.0.113.0/24": ("sg-1", "hk-1")})
    assert not turned.same_routing(table)
    # The order in which networks were written is not.
    same = dataclasses.replace(table, prefixes=dict(reversed(list(table.prefixes.items()))))
    assert same.same_routing(table) and tables.encode(same) == tables.encode(table)


def test_a_table_without_prefixes_does_not_speak_of_them() -> None:
    assert b"prefixes" not in tables.encode(decision().table).shards[SHARED]


def test_every_relay_is_told_what_probes_may_use() -> None:
    table = with_doors()
    encoded = tables.encode(table)
    shared = json.loads(encoded.shards[SHARED])
    assert shared["probe_kbit_s"] == 4000
    closed = {node for node, row in shared["nodes"].items() if row.get("transit") is False}
    assert closed == {"hk-1", "kr-1"}, "draining, and never in between"
    back = tables.decode(encoded.manifest, encoded.shards)
    assert back.probe_kbit_s == 4000 and back.same_routing(table)
    off = dataclasses.replace(table, probe_kbit_s=0)
    assert not off.same_routing(table)
    assert b"probe_kbit_s" not in tables.encode(off).shards[SHARED]
    assert tables.under_policy(off, decision().policy).probe_kbit_s == 4000


def test_an_old_table_sends_clients_where_todays_would() -> None:
    rules = decision(states={"sg-1": "drain"}).policy
    kept = tables.under_policy(with_doors(), rules)
    assert (kept.prefixes, "turn_port" in kept.nodes["sg-1"]) == ({}, False)


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
    with pytest.raises(BadInput, match="not in the shape of one"):
        tables.decode(b"{}", encoded.shards)


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
    dear = decide(small_fleet(), windows(), in_force=None, serial=1, now_unix=NOW, prices=Prices(hop_ms=9.0))
    assert dear.table.inputs["policy"] != decision().table.inputs["policy"]


def test_schema_is_the_relays_newest() -> None:
    assert max(shard_rule.SCHEMAS) == tables.SCHEMA
