"""Small fleets for routing tests: written in a line, no YAML, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from commcli.fleet import Fleet, Market, Node, Region, Signing, SshDefaults, SshTarget, Zone
from commcli.fleet.model import NodeState


def fleet(
    countries: Mapping[str, str],
    *,
    zones: Sequence[Zone] = (),
    states: Mapping[str, NodeState] | None = None,
    markets: Mapping[str, Sequence[str]] | None = None,
    signing: Signing | None = None,
    production: bool = False,
) -> Fleet:
    """A fleet of nodes {id: country}. Unless `markets` says otherwise every node serves its own country."""
    states = states or {}
    if markets is None:
        served = sorted({country for country in countries.values() if country})
        markets = {c: [node for node, where in countries.items() if where == c] for c in served}
    return Fleet(
        name="test",
        production=production,
        realm="test",
        regions={f"r-{c}": Region(f"r-{c}", c, c, "x") for c in set(countries.values())},
        nodes={
            node: Node(
                id=node,
                region=f"r-{country}",
                country=country,
                address=f"127.9.{number // 250}.{number % 250 + 1}",
                ssh=SshTarget(host="127.0.0.1", user="ops"),
                state=states.get(node, "active"),
            )
            for number, (node, country) in enumerate(countries.items())
        },
        markets={market: Market(market, market, tuple(edges)) for market, edges in markets.items()},
        zones=tuple(zones),
        secrets={},
        signing=signing or Signing(signers=Path("allowed_signers")),
        ssh=SshDefaults(known_hosts=Path("known_hosts")),
    )


def zone(
    zone_id: str, one: str, other: str, *, forbid: Sequence[str] = (), allow: Sequence[str] | None = None
) -> Zone:
    """A zone between markets given as `"sg,hk"` or `"*"`."""
    return Zone(
        id=zone_id,
        between=(frozenset(one.split(",")), frozenset(other.split(","))),
        forbid=frozenset(forbid),
        allow=None if allow is None else frozenset(allow),
    )
