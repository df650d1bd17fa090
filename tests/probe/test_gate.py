"""Which call a rollout's gate makes after a wave."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.errors import Refused
from commcli.fleet.model import Fleet, Market, Node, Region, Signing, SshDefaults, SshTarget
from commcli.probe.gate import ask_for

EDGES = {"sg": ("sg-1",), "br": ("br-1",), "us": ("us-1",)}


def fleet_of(*, without_python: str = "") -> Fleet:
    """An edge each in three markets, and a relay between."""
    nodes = {
        name: Node(
            name, "x", name[:2], "127.0.0.1", SshTarget("127.0.0.1", "ops"),
            probe_python=None if name in without_python.split() else "python3",
        )
        for name in ("sg-1", "br-1", "us-1", "de-1")
    }  # fmt: skip
    markets = {name: Market(name, name, edges) for name, edges in EDGES.items()}
    signing, ssh = Signing(Path("signers")), SshDefaults(Path("known_hosts"))
    region = {"x": Region("x", "x", "sg", "asia")}
    return Fleet("f", False, "f.example", region, nodes, markets, (), {}, signing, ssh)


def asked(fleet: Fleet, *wave: str) -> tuple[str, str, str | None]:
    ask = ask_for(fleet, [fleet.nodes[name] for name in wave])
    return ask.a, ask.b, ask.via


def test_an_edge_of_the_wave_calls_one_that_was_not_changed() -> None:
    assert asked(fleet_of(), "sg-1") == ("sg-1", "br-1", None)
    one, other, via = asked(fleet_of(), "sg-1", "br-1", "de-1")
    assert one in ("sg-1", "br-1") and (other, via) == ("us-1", None)
    assert asked(fleet_of(without_python="br-1"), "sg-1") == ("sg-1", "us-1", None)


def test_a_relay_that_is_no_edge_stands_between_two() -> None:
    assert asked(fleet_of(), "de-1") == ("sg-1", "br-1", "de-1")


def test_all_edges_in_a_wave_call_each_other() -> None:
    one, other, via = asked(fleet_of(), "sg-1", "br-1", "us-1")
    assert one != other and via is None


def test_where_no_call_can_be_made_nothing_begins() -> None:
    with pytest.raises(Refused, match="no probe call can be made at or through de-1"):
        asked(fleet_of(without_python="sg-1 br-1"), "de-1")
