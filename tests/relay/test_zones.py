"""The rule as a table: who talks with whom, over which countries, and which zone says no."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.table.zones import Judge, Zone, concerns, permits, violated


@dataclass(frozen=True)
class Spot:
    country: str | None
    markets: frozenset[str] = frozenset()


NODES = {
    "br-1": Spot("br", frozenset({"br"})),
    "hk-1": Spot("hk", frozenset({"cn", "hk"})),
    "sg-1": Spot("sg", frozenset({"sg", "cn"})),
    "us-1": Spot("us"),
    "de-1": Spot("de", frozenset({"de"})),
    "no-1": Spot(None, frozenset({"de"})),
    "nil-1": Spot("", frozenset({"de"})),
}


def zone(a: str, b: str, forbid: str = "", allow: str | None = None, name: str = "z") -> Zone:
    sides = (frozenset(a.split()), frozenset(b.split()))
    return Zone(name, sides, frozenset(forbid.split()), None if allow is None else frozenset(allow.split()))


@pytest.mark.parametrize(
    ("rule", "path", "broken"),
    [
        (zone("br", "cn", forbid="us"), "br-1 us-1 hk-1", True),
        (zone("cn", "br", forbid="us"), "br-1 us-1 hk-1", True),  # symmetric
        (zone("br", "cn", forbid="us"), "hk-1 us-1 br-1", True),
        (zone("br", "cn", forbid="us"), "br-1 sg-1 hk-1", False),
        (zone("br", "de", forbid="us"), "br-1 us-1 hk-1", False),  # not these markets
        (zone("br", "cn", forbid="br"), "br-1 hk-1", True),  # an edge is on the path
        (zone("br", "cn", forbid="hk"), "br-1 hk-1", True),
        (zone("br", "cn", allow="br hk sg"), "br-1 sg-1 hk-1", False),
        (zone("br", "cn", allow="br hk sg"), "br-1 de-1 hk-1", True),
        (zone("br", "cn", allow="br hk sg", forbid="sg"), "br-1 sg-1 hk-1", True),  # forbid wins
        (zone("br", "cn", allow=""), "br-1 hk-1", True),  # an empty allow allows nothing
        (zone("*", "*", forbid="us"), "us-1 br-1", True),  # an edge that serves no market
        (zone("*", "cn", forbid="us"), "us-1 hk-1", True),
        (zone("br", "*", forbid="us"), "us-1 hk-1", False),
        (zone("br", "cn"), "br-1 no-1 hk-1", True),  # an unknown country is forbidden by every zone
        (zone("br", "cn"), "br-1 nil-1 hk-1", True),
        (zone("br", "cn"), "br-1 xx-9 hk-1", True),  # so is an unknown node
        (zone("br", "br"), "br-1 xx-9", True),  # which as an edge may serve any market
        (zone("de", "de"), "br-1 no-1 hk-1", False),
        (zone("cn", "cn", forbid="us"), "hk-1 us-1 sg-1", True),
        (zone("cn", "sg", forbid="us"), "sg-1 us-1 sg-1", True),  # one edge in both sides
        (zone("br", "br", forbid="br"), "br-1", True),
    ],
)
def test_a_path_under_one_rule(rule: Zone, path: str, broken: bool) -> None:
    assert violated([rule], NODES, path.split()) == ("z" if broken else None)


def test_the_first_broken_zone_is_named() -> None:
    rules = [
        zone("de", "br", "us", name="a"),
        zone("br", "cn", "us", name="b"),
        zone("*", "*", "us", name="c"),
    ]
    assert violated(rules, NODES, ["br-1", "us-1", "hk-1"]) == "b"


def test_no_zone_breaks_nothing_even_an_unknown_node() -> None:
    assert violated([], NODES, ["xx-9", "xx-8"]) is None


def test_permits_and_concerns_are_the_two_halves() -> None:
    rule = zone("br", "cn", forbid="us", allow="us sg")
    assert [permits(rule, country) for country in ("us", "sg", "hk", "", None)] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert concerns(rule, NODES["br-1"], NODES["sg-1"])
    assert not concerns(rule, NODES["br-1"], NODES["de-1"])


COUNTRIES = st.sampled_from(["us", "sg", "hk", "br", "de"])
MARKETS = st.frozensets(st.sampled_from(["br", "cn", "de", "*"]), min_size=1)


@given(MARKETS, MARKETS, st.frozensets(COUNTRIES), st.permutations(list(NODES)), st.integers(1, 4))
def test_a_path_backwards_is_judged_alike(
    a: frozenset[str], b: frozenset[str], forbid: frozenset[str], order: list[str], hops: int
) -> None:
    rule = Zone("z", (a, b), forbid)
    path = order[:hops]
    assert violated([rule], NODES, path) == violated([rule], NODES, path[::-1])


@given(
    st.lists(
        st.tuples(MARKETS, MARKETS, st.frozensets(COUNTRIES), st.none() | st.frozensets(COUNTRIES)),
        max_size=3,
    ),
    st.lists(
        st.permutations([*NODES, "xx-9"]).flatmap(lambda order: st.integers(1, 4).map(lambda n: order[:n]))
    ),
)
def test_a_judge_of_many_paths_says_what_the_rule_says_of_each(
    rules: list[tuple[frozenset[str], frozenset[str], frozenset[str], frozenset[str] | None]],
    paths: list[list[str]],
) -> None:
    zones = [Zone(f"z{n}", (a, b), forbid, allow) for n, (a, b, forbid, allow) in enumerate(rules)]
    judge = Judge(zones, NODES)
    assert [judge.violated(path) for path in paths] == [violated(zones, NODES, path) for path in paths]
