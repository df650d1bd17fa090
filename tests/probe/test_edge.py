"""Doors of real relays: what is behind them, and everything that can be wrong with one."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput, Usage
from commcli.fleet.model import Fleet, Node, Ports
from commcli.probe import edge
from commcli.probe.onnode import doors
from commcli.report.probe import DRAW
from commcli.report.terminal import stdout
from tests.probe import fleets
from tests.probe.certificates import Authority, Pair
from tests.probe.local import LocalPool
from tests.relay.serving import ADDRESS, ADDRESS6, Served, free_port, plain_relay

SECRET = "a secret of the tests' own"
NAME = "edge.test"


@dataclass(frozen=True)
class World:
    """A relay with all transports, and the CA that vouches for it."""

    relay: Served
    authority: Authority
    secret: Path

    def node(self, name: str = "a-1", **changes: Any) -> Node:
        ports = Ports(turn=self.relay.port, tls=self.relay.tls_port)
        return dataclasses.replace(
            fleets.node(name, address=ADDRESS), **{"ports": ports, "domain": NAME, **changes}
        )

    def fleet(self, *nodes: Node, ca: Path | None = None) -> Fleet:
        made = fleets.fleet(*nodes, markets={"aa": tuple(node.id for node in nodes)}, secret=self.secret)
        return dataclasses.replace(made, tls_ca=ca or self.authority.path)


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue([NAME])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def world(authority: Authority, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    secret = tmp_path_factory.mktemp("secret") / "turn"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    with plain_relay("--secret-file", str(secret), six=True, pair=pair.files) as relay:
        yield World(relay, authority, secret)


async def looked(world: World, node: Node, **more: Any) -> dict[str, Any]:
    return await edge.look(world.fleet(node), [node], **more)


def drawn(doc: dict[str, Any]) -> str:
    console = stdout()
    with console.capture() as capture:
        console.print(DRAW["edge"](doc))
    return capture.get()


async def test_every_transport_allocates_and_gives_back(world: World) -> None:
    heard: list[str] = []
    node = world.node(address6=ADDRESS6)
    doc = await looked(world, node, on_row=lambda row: heard.append(row["transport"]))
    assert (doc["verdict"], doc["counts"]["good"], doc["valid"]) == ("good", 6, True), doc
    assert sorted(heard) == ["tcp", "tcp", "tls", "tls", "udp", "udp"]
    for row in doc["doors"]:
        assert (row["state"], row["given_back"], row["reached"], row["reasons"]) == (
            "allocated",
            True,
            True,
            [],
        )
        assert row["challenge_ms"] > 0 and row["allocate_ms"] > 0
        parts = [row[key] or 0.0 for key in ("connect_ms", "tls_ms", "challenge_ms", "allocate_ms")]
        assert row["total_ms"] == pytest.approx(sum(parts), abs=50.0)
        assert (row["connect_ms"] is None) == (row["transport"] == "udp")
    tls = [row for row in doc["doors"] if row["transport"] == "tls"]
    assert all(
        row["tls"]["version"] == "TLSv1.3" and 59 < row["certificate"]["days_left"] < 60 for row in tls
    )
    assert SECRET not in str(doc) and "60 " in drawn(doc)


async def test_seen_from_a_node_it_is_the_same(world: World) -> None:
    pool = LocalPool()
    doc = await looked(world, world.node(), origin=fleets.node("b-1"), pool=pool.as_pool())
    await pool.end()
    assert doc["from"] == "b-1" and [row["verdict"] for row in doc["doors"]] == ["good"] * 3
    assert doc["doors"][2]["certificate"]["names"] == [NAME]
    assert "seen from b-1" in drawn(doc)


async def test_a_certificate_for_another_name_is_bad_and_the_edge_is_reached(world: World) -> None:
    doc = await looked(world, world.node(domain="other.test"))
    row = doc["doors"][2]
    assert (doc["verdict"], row["state"], row["certificate_problems"]) == ("bad", "allocated", ["name"])
    assert row["reasons"] == [f"the certificate is for {NAME}, not for other.test"]
    assert 59 < row["certificate"]["days_left"] < 60
    assert [row["verdict"] for row in doc["doors"][:2]] == ["good", "good"]


async def test_a_ca_that_the_fleet_does_not_believe_is_bad(world: World, tmp_path: Path) -> None:
    node = world.node()
    doc = await edge.look(world.fleet(node, ca=Authority(tmp_path).path), [node])
    row = doc["doors"][2]
    assert (row["verdict"], row["certificate_problems"], row["given_back"]) == ("bad", ["untrusted"], True)
    assert row["reasons"][0].startswith("not trusted: its CA is not among those believed")


async def test_days_left_are_judged_by_the_limits(world: World) -> None:
    warned = await looked(world, world.node(), limits=edge.Limits(warn_days=90))
    assert (warned["verdict"], warned["doors"][2]["verdict"]) == ("warn", "warn")
    bad = await looked(world, world.node(), limits=edge.Limits(bad_days=90))
    assert bad["verdict"] == "bad" and "the certificate ends in 60" in bad["doors"][2]["reasons"][0]


async def test_an_expired_certificate_says_so_with_the_days(world: World) -> None:
    later = world.node()
    doc = await edge.look(world.fleet(later), [later], clock=iter_clock(world))
    assert doc["doors"][2]["certificate_problems"] == ["expired"]


def iter_clock(world: World) -> Any:
    """Now for the credentials, and 100 days later for the certificate."""
    import time

    times = iter([time.time(), *([time.time() + 100 * 86400.0] * 9)])
    return lambda: next(times)


async def test_closed_doors_and_wrong_ones(world: World) -> None:
    closed, tcp = free_port(), world.relay.port
    doc = await looked(world, world.node(ports=Ports(turn=closed, tls=tcp)))
    udp, stream, tls = doc["doors"]
    assert (udp["state"], udp["error"]) == ("unreachable", "Connection refused")
    assert (stream["state"], stream["error"]) == ("unreachable", "Connection refused")
    assert tls["state"] == "no tls" and "TLS" in tls["error"]
    assert doc["verdict"] == "bad" and not any(row["reached"] for row in doc["doors"])


async def test_wrong_credentials_are_refused_by_name(world: World, tmp_path: Path) -> None:
    other = tmp_path / "turn"
    other.write_text("another secret than the relay's\n")
    node = world.node(ports=Ports(turn=world.relay.port))
    doc = await edge.look(dataclasses.replace(world, secret=other).fleet(node), [node])
    assert [(row["state"], row["code"], row["reached"]) for row in doc["doors"]] == [
        ("refused", 401, True)
    ] * 2


async def test_silence_is_asked_again_and_then_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((ADDRESS, 0))
        door = {
            "node": "x",
            "transport": "udp",
            "address": ADDRESS,
            "port": mute.getsockname()[1],
            "server_name": None,
        }
        argument = {"username": "u", "password": "p", "timeout_s": 0.8}
        row = await doors.knock(door, argument, doors.Trust(None))
    assert (row["state"], row["resent"], row["error"]) == ("silent", 1, "no answer within 0.8 s")


async def test_a_family_that_we_do_not_have_says_nothing_of_the_edge(world: World) -> None:
    row = {
        "node": "a-1", "transport": "udp", "address": "2001:db8::1", "port": 1, "server_name": None, "tls": None,
        "certificate": None, "challenge_ms": None, "state": "no route", "error": "Network is unreachable", "code": None,
    }  # fmt: skip
    assert edge.judged(row, world.node(), edge.Limits(), 0.0)["verdict"] == "unmeasured"


@pytest.mark.parametrize(
    ("said", "state", "verdict"),
    [
        ({"state": "redirected", "code": 300, "alternate": "1.2.3.4:5"}, "active", "good"),
        ({"state": "refused", "code": 486, "error": "486 Quota"}, "drain", "good"),
        ({"state": "refused", "code": 486, "error": "486 Quota"}, "active", "bad"),
        ({"state": "allocated", "given_back": False}, "active", "warn"),
    ],
)
def test_what_an_edge_may_say(said: dict[str, Any], state: Any, verdict: str) -> None:
    row = {
        "error": None, "code": None, "alternate": None, "tls": None, "certificate": None, "challenge_ms": 1.0,
        "address": ADDRESS, "given_back": None, **said,
    }  # fmt: skip
    assert edge.judged(row, fleets.node("a-1", state=state), edge.Limits(), 0.0)["verdict"] == verdict


def test_which_edges_are_meant(world: World) -> None:
    fleet = fleets.fleet(
        fleets.node("a-1"), fleets.node("b-1"), fleets.node("t-1"), markets={"aa": ("b-1", "a-1"), "zz": ()}
    )
    assert [node.id for node in edge.edges_of(fleet, None)] == ["a-1", "b-1"]
    assert [node.id for node in edge.edges_of(fleet, "aa")] == ["b-1", "a-1"]
    assert [node.id for node in edge.edges_of(fleet, "t-1")] == ["t-1"]
    with pytest.raises(Usage, match="no market and no node is called 'qq'"):
        edge.edges_of(fleet, "qq")
    with pytest.raises(BadInput, match="market zz: it has no edge"):
        edge.edges_of(fleet, "zz")


async def test_a_ca_file_without_a_ca_is_one_line(world: World, tmp_path: Path) -> None:
    node = world.node()
    for text in (None, "", "hello", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"):
        path = tmp_path / "ca.pem"
        if text is not None:
            path.write_text(text)
        with pytest.raises(
            BadInput, match=r"ca\.pem: (No such file or directory|no CA certificate \(PEM\) in it)$"
        ):
            await edge.look(world.fleet(node, ca=path), [node])
