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
from commcli.remote.outcome import Failed
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


# --- what a node tells ----------------------------------------------------------------------------------------------

ASKED = {"node": "a-1", "transport": "tls", "address": ADDRESS, "port": 5349, "server_name": NAME}
ROW: dict[str, Any] = {
    **ASKED, "connect_ms": 1.0, "tls_ms": 2, "challenge_ms": 3.0, "allocate_ms": 4.0, "total_ms": 10.0,
    "state": "allocated", "error": None, "code": None, "alternate": None, "resent": 0, "mapped": "192.0.2.1:5",
    "relayed": "[2001:db8::1]:5", "given_back": True, "certificate": None,
    "tls": {"version": "TLSv1.3", "cipher": "x", "verify_code": 0, "verify_text": ""},
}  # fmt: skip


def listened(*messages: object) -> tuple[list[Any], str | None]:
    """(the rows that were taken of two doors, the trouble)."""
    rows: list[Any] = []
    listening = edge._Listening([ASKED, {**ASKED, "transport": "udp", "server_name": None}], rows.append)
    assert [listening.take(message) for message in messages] == [False] * (len(messages) - 1) + [True]
    return rows, listening.trouble


UDP = {**ROW, "transport": "udp", "tls": None, "server_name": None, "tls_ms": None, "connect_ms": None}
END = {"lag_ms": [0.5, 0]}


def test_honest_rows_are_taken_as_they_are() -> None:
    udp = {**UDP, "port": 5349}
    assert listened({"door": ROW}, {"door": udp}, END) == ([ROW, udp], None)


TIMES: list[object] = [-1, float("nan"), float("inf"), 1e300, "1", True, []]
TLS: list[object] = [5, {}, {**ROW["tls"], "verify_code": "0"}, {**ROW["tls"], "more": 1}]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"node": node} for node in ("zz", 5, None, ["a-1"])),
        *({"address": "192.0.2.9"}, {"transport": "udp"}, {"transport": {}}),
        *({"state": state} for state in ("x", "good", None, ["allocated"])),
        *({"total_ms": value} for value in TIMES),
        *({"resent": value} for value in (-1, 1.5, None)),
        *({"code": value} for value in (1000, -1, "486", 4.5)),
        *({"error": value} for value in (5, b"x", "x" * 3000)),
        *({"given_back": "yes"}, {"mapped": 5}, {"certificate": 5}, {"certificate": "x" * 200_000}),
        *({"tls": value} for value in TLS),
    ],
)
def test_a_row_that_can_not_be_is_the_nodes_trouble_and_the_others_stay(wrong: dict[str, Any]) -> None:
    rows, trouble = listened({"door": {**ROW, **wrong}}, {"door": UDP}, END)
    assert [row["transport"] for row in rows] == ["udp"]
    assert trouble is not None and "\n" not in trouble and len(trouble) < 300
    doc = edge._document(fleets.fleet(), [], [], 0.0, None, fleets.node("b-1"), edge.Limits(), [], trouble)
    assert (doc["verdict"], doc["valid"], doc["invalid_reason"]) == ("invalid", False, trouble)


@pytest.mark.parametrize("message", [None, 5, "x", [], {}, {"door": None}, {"door": 5}, {"door": []}])
def test_messages_that_are_none(message: object) -> None:
    rows, trouble = listened(message, {"door": ROW}, {"door": UDP}, END)
    assert (len(rows), trouble) == (2, "its word on a door is of another shape")


def test_each_door_once_and_none_left_out() -> None:
    again = {**ROW, "state": "silent"}
    rows, trouble = listened({"door": ROW}, {"door": again}, END)
    assert rows == [ROW]
    assert trouble == f"it told of a door that was not asked, or twice of one: a-1 {ADDRESS} tls"
    assert listened({"door": ROW}, END)[1] == "it told nothing of 1 doors"


@pytest.mark.parametrize("lag", [None, 5, [None], ["1"], [-1], [float("nan")]])
def test_a_lag_that_can_not_be(lag: object) -> None:
    assert listened({"door": ROW}, {"door": UDP}, {"lag_ms": lag}) == (
        [ROW, {**UDP, "port": 5349}],
        "its lag is of another shape",
    )


async def test_an_empty_ca_is_refused_on_the_node_and_nobody_is_believed(world: World) -> None:
    class Heard(list[Any]):
        send = list.append

        def keep_secret(self, words: list[str]) -> None: ...

    for nothing in ("", " \n", "hello", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "é"):
        with pytest.raises(ValueError, match=r"^the CA that was sent along is no certificate \(PEM\)$"):
            doors.Trust(nothing)
        heard = Heard()
        doors.run({"password": "p", "ca_pem": nothing}, heard)
        assert heard == [{"refused": doors.NO_CA}]
        with pytest.raises(Failed, match=r"no certificate \(PEM\)$"):
            listened(heard[0])


async def test_a_bundle_may_name_its_cas_as_they_are_written(world: World, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes("# Főtanúsítvány\n".encode() + world.authority.path.read_bytes())
    node = world.node(ports=Ports(turn=world.relay.port, tls=world.relay.tls_port))
    doc = await edge.look(world.fleet(node, ca=path), [node])
    assert [row["verdict"] for row in doc["doors"]] == ["good"] * 3
