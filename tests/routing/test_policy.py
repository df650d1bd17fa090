from __future__ import annotations

import dataclasses

from hypothesis import given

from commcli.routing import policy as policies
from commcli.routing.policy import Policy, masks
from tests.routing.fleets import fleet, zone
from tests.routing.strategies import policy


@given(policy())
def test_masks_say_what_the_one_rule_says(rules: Policy) -> None:
    """Every pair and every relay between them: the arrays must agree with relay/table/zones.py."""
    found = masks(rules)
    for i, source in enumerate(rules.ids):
        for j, target in enumerate(rules.ids):
            if i == j:
                continue
            assert found.blocked[i, j] == (rules.violated((source, target)) is not None)
            for k, relay in enumerate(rules.ids):
                if k in (i, j) or found.blocked[i, j]:
                    continue
                lawful = rules.violated((source, relay, target)) is None
                assert found.lawful[found.group[i, j], k] == lawful


def test_unknown_country_is_forbidden_by_every_zone_that_concerns_the_pair() -> None:
    world = fleet({"a": "ae", "b": "br", "x": ""}, zones=[zone("z", "ae", "br", forbid=["kp"])])
    found = masks(policies.of(world))
    group = found.group[0, 1]
    assert found.lawful[group].tolist() == [True, True, False]
    # x serves no market, so the zone does not concern pairs that end there.
    assert not found.blocked.any()


def test_a_zone_for_everybody_binds_nodes_that_serve_no_market() -> None:
    world = fleet({"a": "ae", "x": ""}, zones=[zone("z", "*", "*", forbid=["kp"])])
    assert masks(policies.of(world)).blocked[0, 1]


def test_the_three_states_differ() -> None:
    world = fleet({"a": "ae", "b": "br", "c": "cn", "d": "de"}, states={"b": "drain", "c": "no-transit"})
    rules = policies.of(world, away={"d"})
    assert [rules.not_transit(node) for node in rules.ids] == [None, "drain", "no-transit", "away"]
    found = masks(rules)
    assert found.transit.tolist() == [True, False, False, False]
    assert found.present.tolist() == [True, True, True, False]


def test_a_relay_that_says_it_drains_is_believed() -> None:
    rules = policies.of(fleet({"a": "ae", "b": "br"}), draining={"b"})
    assert [rules.not_transit(node) for node in rules.ids] == [None, "drain"]


def test_the_digest_names_every_rule() -> None:
    world = fleet({"a": "ae", "b": "br"}, zones=[zone("z", "ae", "br", forbid=["kp"])])
    rules = policies.of(world)
    assert rules.sha256() == policies.of(world).sha256()
    assert rules.sha256() != rules.without_zone("z").sha256()
    assert rules.sha256() != policies.of(world, away={"a"}).sha256()
    near = dataclasses.replace(world, prefixes={"203.0.113.0/24": ("a",)})
    assert rules.sha256() != policies.of(near).sha256()
    drained = dataclasses.replace(world.nodes["a"], state="drain")
    other = dataclasses.replace(world, nodes={**world.nodes, "a": drained})
    assert rules.sha256() != policies.of(other).sha256()
