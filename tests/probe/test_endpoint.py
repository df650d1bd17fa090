"""What an endpoint does on its node: ways to the edge, starved hosts, slots, and ends. Real processes on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.errors import LockHeld
from commcli.fleet.model import Fleet, Ports
from commcli.probe import call as calls
from commcli.probe.ask import Ask
from commcli.probe.call import call
from commcli.probe.ending import Ended
from commcli.probe.endpoint import MOST_LIMIT_S, MOST_SECONDS, Argument, Controller, Endpoint
from commcli.probe.slots import slot
from commcli.probe.turn import Turn, allocate_bare
from tests.probe.certificates import Authority
from tests.probe.local import LocalPool
from tests.probe.test_call import SECRET, two_nodes
from tests.relay.serving import ADDRESS, Served, free_port, plain_relay

DOMAIN = "edge.example.net"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "turn.secret"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture(scope="module")
def relay(authority: Authority, secret: Path) -> Iterator[Served]:
    """TURN over UDP, TCP, and TLS with a certificate for a domain."""
    options = ("--allow-peer", "127.0.0.0/8", "--secret-file", str(secret))
    with plain_relay(*options, pair=authority.issue([DOMAIN]).files) as served:
        yield served


@pytest.fixture
async def pool() -> AsyncIterator[LocalPool]:
    local = LocalPool()
    yield local
    await local.end()


def fleet_of(relay: Served, secret: Path, folder: Path, ca: Path | None = None) -> Fleet:
    plain = two_nodes(relay.port, secret)
    nodes = {
        name: replace(
            node, ports=Ports(turn=relay.port, tls=relay.tls_port), domain=DOMAIN, base=str(folder / name)
        )
        for name, node in plain.nodes.items()
    }
    return replace(plain, nodes=nodes, tls_ca=ca)


@pytest.mark.parametrize(("transport", "profile"), [("tcp", "audio"), ("tls", "weak")])
async def test_a_call_over_a_stream(
    transport: str,
    profile: str,
    relay: Served,
    secret: Path,
    authority: Authority,
    pool: LocalPool,
    tmp_path: Path,
) -> None:
    fleet = fleet_of(relay, secret, tmp_path, authority.path)
    doc = await call(
        fleet, pool.as_pool(), Ask("aa-1", "bb-1", seconds=1.5, profile=profile, transport=transport)
    )
    assert doc["problems"] == []
    for direction in doc["directions"].values():
        assert direction["audio"]["packets"] > 10
        assert direction["mos"] is not None
        if profile == "weak":
            assert direction["video"]["frames"] > 5
            assert direction["video"]["stamps_unreadable"] == 0
            assert direction["video"]["decoder_ms"]["samples"] > 5
    if profile == "weak":
        assert direction["mos"]["codec"].startswith("Opus 16 kbit/s")
        assert all(host["sent"]["wire_kbps"] < 100 for host in doc["hosts"].values())


async def test_a_certificate_that_is_not_believed_is_one_line(
    relay: Served, secret: Path, pool: LocalPool, tmp_path: Path
) -> None:
    fleet = fleet_of(relay, secret, tmp_path, Authority(tmp_path / "other").path)
    doc = await call(fleet, pool.as_pool(), Ask("aa-1", "bb-1", seconds=1, transport="tls"))
    assert not doc["connected"] and doc["verdict"] == "bad"
    port = relay.tls_port
    reason = f"-1: TURN over TLS at {ADDRESS}:{port}: its certificate is not believed for {DOMAIN}: "
    assert any(reason in problem for problem in doc["problems"])


def turn(relay: Served, **changes: Any) -> Turn:
    port = relay.tls_port if changes.get("transport") == "tls" else relay.port
    assert port is not None
    return replace(Turn(ADDRESS, port, "user", "pass", "tcp"), **changes)


async def test_each_way_to_an_edge_and_each_refusal(
    relay: Served, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    named = {"transport": "tls", "server_name": DOMAIN}
    good = [
        turn(relay, transport="udp"),
        turn(relay),
        turn(relay, **named, ca_pem=authority.pem),
        turn(relay, **named),  # by the CAs of the machine
    ]
    for each in good:
        await allocate_bare(each)
    bad = {
        "over TCP at .*: connection refused$": turn(relay, port=free_port()),
        "over TLS at .*: connection refused$": turn(relay, port=free_port(), **named),
        "over TCP at .* refused the allocation: 401": turn(relay, password="guessed"),
        "not believed for 127.0.0.1: .*mismatch": turn(relay, transport="tls", ca_pem=authority.pem),
        "over TLS at .*: connection reset by peer": turn(relay, **named, port=relay.port),
        "is no certificate": turn(relay, **named, ca_pem="-----BEGIN nothing"),
    }
    for reason, each in bad.items():
        with pytest.raises(Ended, match=reason) as caught:
            await allocate_bare(each)
        assert "\n" not in str(caught.value) and ".c:" not in str(caught.value)


def innermost(pid: int) -> int:
    """The program itself, below the shells that started it."""
    while below := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(below[0])
    return pid


async def test_a_starved_host_is_invalid_and_not_a_bad_network(
    relay: Served, secret: Path, pool: LocalPool, tmp_path: Path
) -> None:
    """One end stands still for half a second, as on a host whose CPU somebody else has."""
    loop = asyncio.get_running_loop()

    def hear(side: str, event: Mapping[str, Any]) -> None:
        if (side, event["event"]) == ("to", "connected"):
            python = innermost(pool.connections["bb-1"].started[0].process.pid)
            # Only what comes while it measures counts, which begins after it has said so.
            loop.call_later(0.5, os.kill, python, signal.SIGSTOP)
            loop.call_later(1.0, os.kill, python, signal.SIGCONT)

    ask = Ask("aa-1", "bb-1", seconds=2, profile="weak")
    doc = await call(fleet_of(relay, secret, tmp_path), pool.as_pool(), ask, on_event=hear)
    assert doc["connected"] and doc["valid"] is False and doc["verdict"] == "invalid"
    assert "bb-1 (" in doc["invalid_reason"] and "stood still for" in doc["invalid_reason"]


async def test_a_busy_node_takes_no_call_and_says_nothing_of_the_network(
    relay: Served, secret: Path, pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MOST_CALLS_A_NODE", 1)
    for node in ("aa-1", "bb-1"):
        (tmp_path / node / "run").mkdir(parents=True)
    with (
        slot(str(tmp_path / "bb-1/run"), 1),
        pytest.raises(LockHeld, match="node bb-1: this node is busy with a probe call already"),
    ):
        await call(fleet_of(relay, secret, tmp_path), pool.as_pool(), Ask("aa-1", "bb-1", seconds=1))


ARGUMENT = {
    "role": "offer",
    "turn": {"host": ADDRESS, "port": 3478, "username": "u", "password": "p"},
    "peers": [ADDRESS],
    "profile": "sd",
    "seconds": 8.0,
    "connect_timeout_s": 20.0,
    "limit_s": 98,
}


def test_what_is_left_out_of_the_argument_is_as_it_always_was() -> None:
    argument = Argument.parse(ARGUMENT)
    assert (argument.turn.transport, argument.turn.server_name, argument.turn.ca_pem) == ("udp", None, None)
    assert argument.slots is None
    assert "'p'" not in repr(argument)


def test_a_call_is_bounded_whatever_is_asked_for() -> None:
    argument = Argument.parse({**ARGUMENT, "seconds": 1e9, "limit_s": 10**9})
    assert (argument.seconds, argument.limit_s) == (MOST_SECONDS, MOST_LIMIT_S)


@pytest.mark.parametrize(
    "change",
    [
        {"role": "both"},
        {"profile": "8k"},
        {"turn": {**ARGUMENT["turn"], "transport": "pigeon"}},  # type: ignore[dict-item]
        {"slots": {"folder": "/x"}},
        {"seconds": None},
    ],
)
def test_nonsense_is_refused(change: Mapping[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        Argument.parse({**ARGUMENT, **change})


class _Bomber:
    """A controller that passes on whatever the other end says."""

    def __init__(self, sdp: object) -> None:
        self._sdp = sdp

    def tell(self, event: str, **fields: object) -> None: ...

    async def wait_for(self, wanted: str, timeout_s: float) -> dict[str, Any]:
        return {"do": wanted, "sdp": self._sdp}


@pytest.mark.parametrize("sdp", ["m=audio 9 UDP/TLS/RTP/SAVPF 96\r\n" * 4000, "m=audio 9\r\n" * 4, None])
async def test_a_description_that_would_keep_us_busy_is_refused_unread(sdp: object) -> None:
    endpoint = Endpoint(Argument.parse(ARGUMENT), cast(Controller, _Bomber(sdp)))
    with pytest.raises(Ended, match=r"^the other end's description "):
        await endpoint._learn("offer")
