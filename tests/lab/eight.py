"""A fleet of eight as values, so that the lab's tests do not depend on what the example inventory says today."""

from __future__ import annotations

from pathlib import Path

from commcli.fleet.model import Fleet, Market, Node, Region, Signing, SshDefaults, SshTarget, Zone
from commcli.fleet.secrets import SecretRef

CITIES = {
    "ae-1": ("Dubai", "asia"), "kr-1": ("Seoul", "asia"), "sg-1": ("Singapore", "asia"),
    "hk-1": ("Hong Kong", "asia"), "jp-1": ("Tokyo", "asia"), "de-1": ("Frankfurt", "europe"),
    "br-1": ("Sao Paulo", "south-america"), "us-1": ("New York", "north-america"),
}  # fmt: skip


def fleet() -> Fleet:
    regions, nodes, markets = {}, {}, {}
    for node, (city, continent) in CITIES.items():
        region, country = f"{node[:2]}-region", node[:2]
        regions[region] = Region(region, city, country, continent, 1.5, -2.5)
        nodes[node] = Node(node, region, country, "192.0.2.1", SshTarget("example.net", "ops"))
        markets[country] = Market(country, f"Market {country}", (node,))
    zone = Zone(
        "no-us", (frozenset({"br"}), frozenset({"*"})), frozenset({"jp"}), None, "a rule: with a colon"
    )
    return Fleet(
        "example", True, "example", regions, nodes, markets, (zone,),
        {"overlay": SecretRef("overlay", env="X"), "turn": SecretRef("turn", env="Y")},
        Signing(Path("/nowhere/signers")), SshDefaults(Path("/nowhere/known_hosts")),
    )  # fmt: skip
