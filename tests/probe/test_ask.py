"""What a call is asked to be is checked before anything starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commcli.errors import BadInput, CommcliError, Refused, Usage
from commcli.fleet.model import Fleet, Ports, Zone
from commcli.probe.ask import Ask, check
from tests.probe import fleets

ZONE = Zone("hk-law", (frozenset({"aa"}), frozenset({"*"})), forbid=frozenset({"hk"}), reason="media law")


def fleet() -> Fleet:
    nodes = [fleets.node(name, python="python3") for name in ("aa-1", "bb-1", "hk-1", "cc-1")]
    nodes.append(fleets.node("dd-1", state="no-transit"))
    nodes[0] = replace(nodes[0], ports=Ports(tls=443))
    markets: dict[str, tuple[str, ...]] = {"aa": ("aa-1",), "bb": ("bb-1",), "hk": ("hk-1",)}
    return replace(fleets.fleet(*nodes, markets=markets), zones=(ZONE,))


def test_a_lawful_call_gives_both_ends() -> None:
    first, second = check(fleet(), Ask("aa", "bb-1", via="cc-1", plain=True))
    assert (first.node.id, first.market, second.node.id, second.market) == ("aa-1", "aa", "bb-1", None)


@pytest.mark.parametrize(
    ("ask", "error", "line"),
    [
        (Ask("aa", "bb", profile="8k"), Usage, "no profile is called '8k' (known: hd, sd, audio, weak)"),
        (Ask("aa", "bb", transport="quic"), Usage, "no transport is called 'quic' (known: udp, tcp, tls)"),
        (Ask("aa", "bb", seconds=601), Usage, "a call lasts up to 600 s, not 601"),
        (Ask("aa", "bb", seconds=float("nan")), Usage, "a call lasts up to 600 s, not nan"),
        (Ask("aa", "bb", transport="tls"), BadInput, "node bb-1: no tls port in the inventory"),
        (Ask("aa", "bb", via="zz-1"), Usage, "no node is called 'zz-1'"),
        (Ask("aa", "bb", via="bb-1"), Usage, "bb-1 is an edge of this call: it can not be the relay between them"),
        (Ask("aa", "bb", via="dd-1"), Refused, "node dd-1 is no-transit: it relays for no others"),
        (Ask("aa", "bb", via="cc-1", direct=True), Usage,
         "--direct and --via exclude each other: one passes no relay between the edges"),
        (Ask("aa", "bb", via="hk-1"), Refused, "zone hk-law forbids aa-1 → hk-1 → bb-1: media law"),
        (Ask("aa", "hk", direct=True), Refused, "zone hk-law forbids aa-1 → hk-1: media law"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_one_line(ask: Ask, error: type[CommcliError], line: str) -> None:
    with pytest.raises(error) as caught:
        check(fleet(), ask)
    assert str(caught.value) == line
