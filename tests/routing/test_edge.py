"""Which edge a client gets: the words of `route edge`, and a relay that answers 300 by the same table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet import Fleet, Region
from commcli.fleet.geoip import Place
from commcli.fleet.model import GeoIp
from commcli.fleet.nearest import compiled
from commcli.relay.table import shard as shards
from commcli.relay.turn import stun
from commcli.relay.turn.alternates import Alternates
from commcli.routing import policy
from commcli.routing import table as tables
from commcli.routing.decision import decide
from commcli.routing.edge import judge, nearest_by_map
from tests.fleet.geoip_files import write
from tests.relay.turn_world import UDP_TRANSPORT, Client, World
from tests.routing.fleets import fleet
from tests.routing.worlds import COUNTRIES, NOW, windows

MARKETS = {"sg": ["sg-1", "hk-1"], "hk": ["hk-1", "sg-1"], "de": ["de-1"], "kr": ["kr-1"], "ae": ["ae-1"]}
GEO: dict[str, str | dict[str, Any]] = {
    "203.0.113.0/25": "sg",
    "203.0.113.128/25": "de",
    "198.51.100.0/24": "fr",
    "2001:db8::/32": "sg",
}


def mapped(folder: Path, **nodes: dict[str, Any]) -> Fleet:
    """The small world with GeoIP's networks in it, and nodes changed."""
    made = fleet(COUNTRIES, markets=MARKETS)
    known = dict(made.nodes)
    for name, changes in nodes.items():
        known[name] = dataclasses.replace(known[name], **changes)
    made = dataclasses.replace(made, nodes=known, geoip=GeoIp(write(folder / "c.mmdb", GEO)))
    return compiled(made, NOW)


def as_a_client_sees_it(made: Fleet, node: str, ip: str) -> tuple[int | None, tuple[str, int] | None]:
    """Error code and ALTERNATE-SERVER of an Allocate at `node`, whose relay has loaded this fleet's table."""
    decision = decide(made, windows(), in_force=None, serial=1, now_unix=NOW)
    encoded = tables.encode(decision.table)
    tables.check(encoded, now_unix=NOW, highest_serial=0)
    loaded = shards.load(
        encoded.manifest,
        encoded.shards[node],
        shared=encoded.shards["*"],
        node=node,
        unix=NOW,
        highest_serial=0,
    )
    world = World()
    world.server.alternates = Alternates(loaded)
    reply = Client(world, addr=(ip, 40001)).ask(stun.ALLOCATE, [UDP_TRANSPORT])
    where = reply.message.first(stun.ALTERNATE_SERVER)
    return reply.code, None if where is None else stun.unpack_address(where)


@pytest.mark.parametrize("ip", ["203.0.113.7", "203.0.113.200", "198.51.100.1"])
@pytest.mark.parametrize(
    "drained", [(), ("sg-1",), ("sg-1", "hk-1")], ids=lambda names: "+".join(names) or "all"
)
def test_a_relay_sends_a_client_where_we_say(tmp_path: Path, ip: str, drained: tuple[str, ...]) -> None:
    made = mapped(tmp_path, **{name: {"state": "drain"} for name in drained})
    rules = policy.of(made)
    said = judge(rules.nodes, rules.prefixes, ip, "udp").edge
    code, where = as_a_client_sees_it(made, "kr-1", ip)
    if said is None:
        assert code is None, "it is served where it comes"
    else:
        assert (code, where) == (300, (made.nodes[said].address, 3478))
        assert as_a_client_sees_it(made, said, ip) == (None, None), "and is served there"


def test_the_first_of_the_row_that_takes_clients_is_the_one(tmp_path: Path) -> None:
    for drained, edge in (((), "sg-1"), (("sg-1",), "hk-1"), (("sg-1", "hk-1"), None)):
        rules = policy.of(mapped(tmp_path, **{name: {"state": "drain"} for name in drained}))
        verdict = judge(rules.nodes, rules.prefixes, "203.0.113.7", "udp")
        assert (verdict.prefix, verdict.edge) == ("203.0.113.0/25", edge)
        barred = [each.node for each in verdict.candidates if each.barrier is not None]
        assert barred == list(drained)


def test_family_and_tls_are_barriers(tmp_path: Path) -> None:
    ports = mapped(tmp_path).nodes["hk-1"].ports
    with_tls = dataclasses.replace(ports, tls=5349)
    rules = policy.of(mapped(tmp_path, **{"hk-1": {"address6": "2001:db8:1::1", "ports": with_tls}}))

    def barriers(ip: str, transport: str) -> list[str | None]:
        return [each.barrier for each in judge(rules.nodes, rules.prefixes, ip, transport).candidates]

    assert barriers("203.0.113.7", "udp") == [None, None]
    assert barriers("203.0.113.7", "tls") == ["has no TLS port", None]
    assert barriers("2001:db8::7", "udp") == ["has no IPv6 address", None]


def test_the_same_database_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = (decide(mapped(tmp_path), windows(), in_force=None, serial=1, now_unix=NOW) for _ in "12")
    assert first.table.inputs == again.table.inputs
    assert tables.encode(first.table) == tables.encode(again.table)


def test_advice_is_by_great_circle_or_by_country() -> None:
    made = fleet(COUNTRIES, markets=MARKETS, states={"de-1": "drain"})
    place = {"de": (50.1, 8.7), "sg": (1.35, 103.8), "ae": (25.2, 55.3)}
    regions = {f"r-{c}": Region(f"r-{c}", c, c, "x", *place.get(c, (None, None))) for c in COUNTRIES.values()}
    made = dataclasses.replace(made, regions=regions)
    assert nearest_by_map(made, Place("x", "fr", 48.86, 2.35)) == ("ae-1", "5249 km away by great circle")
    assert nearest_by_map(made, Place("x", "kr")) == ("kr-1", "it stands in that country")
    assert nearest_by_map(made, Place("x", "fr")) is None
