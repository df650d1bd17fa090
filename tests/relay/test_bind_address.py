"""A relay behind 1:1 NAT: everything bears its public address, and only sockets are bound to the machine's own."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.clients.udp import RelayPool
from commcli.relay.config import ConfigError, RelayConfig, load, standalone
from commcli.relay.log import Log
from commcli.relay.process.daemon import Relay
from commcli.relay.process.front import _policy
from commcli.relay.turn import stun
from commcli.relay.turn.stun import IPV4, Addr
from tests.hostile.wire import SocketClient
from tests.relay.serving import ADDRESS, ADDRESS6, free_port, plain_relay
from tests.relay.test_workers import data_of, echo, running, talks
from tests.relay.turn_world import REALM

__all__ = ["echo"]  # a fixture of theirs

PUBLIC, PUBLIC6 = "192.0.2.7", "2001:db8::7"


def words(*allowed: str, **changes: Any) -> RelayConfig:
    said: dict[str, Any] = {
        "listen": f"{ADDRESS}:3478", "external": [PUBLIC], "relay_ports": "22200-22240",
        "users": ["user:pass"], "realm": "lab", "allow_peers": list(allowed),
    }  # fmt: skip
    return standalone(**{**said, **changes})


# --- what is said ------------------------------------------------------------------------------------------


def test_an_external_address_takes_the_place_of_the_one_that_is_bound() -> None:
    config = words()
    assert (config.address, config.bind_address, config.bind_address6) == (PUBLIC, ADDRESS, None)
    assert config.bound == {PUBLIC: ADDRESS} and config.bind_to(PUBLIC) == ADDRESS
    assert config.addresses == (PUBLIC,) and config.own_addresses == (PUBLIC, ADDRESS)


def test_each_family_has_its_own() -> None:
    both = [f"{ADDRESS}:3478", f"[{ADDRESS6}]:3478"]
    config = words(listen=both, external=[f"[{PUBLIC6}]", PUBLIC])
    assert config.bound == {PUBLIC: ADDRESS, PUBLIC6: ADDRESS6}
    one = words(listen=both, external=[PUBLIC6])
    assert one.addresses == (ADDRESS, PUBLIC6) and one.bound == {PUBLIC6: ADDRESS6}
    assert one.bind_to(ADDRESS) == ADDRESS
    six = words(listen=f"[{ADDRESS6}]:3478", external=[PUBLIC6])
    assert six.addresses == (PUBLIC6,) and six.bound == {PUBLIC6: ADDRESS6}


def test_who_says_the_same_address_twice_has_no_nat() -> None:
    config = words(external=[ADDRESS])
    assert config.bound == {} and config.own_addresses == (ADDRESS,)


@pytest.mark.parametrize(
    ("external", "reason"),
    [
        ([PUBLIC6], "external 2001:db8::7: no listen address of its family is left for it"),
        ([PUBLIC, "192.0.2.8"], "external 192.0.2.8: no listen address of its family is left for it"),
        (["relay.test"], "'relay.test' does not appear to be an IPv4 or IPv6 address"),
        (["0.0.0.0"], "0.0.0.0 is not the address of one machine"),
    ],
)
def test_a_wrong_external_address_is_told(external: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^{reason}$"):
        words(external=external)


def written(folder: Path, **changes: Any) -> Path:
    low, high = free_port(), free_port()
    said = {
        "schema": 1, "node": "sg-1", "base": str(folder), "address": PUBLIC, "bind_address": ADDRESS,
        "realm": "lab", "turn_port": free_port(), "relay_ports": [22200, 22240],
        "overlay_port": low, "stamp_port": high, **changes,
    }  # fmt: skip
    for name in ("etc", "run", "state"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "etc/turn.secret").write_text("a-secret-that-is-long\n")
    (folder / "etc/relay.json").write_text(json.dumps(said))
    return folder / "etc/relay.json"


def test_relay_json_says_both(tmp_path: Path) -> None:
    config = load(written(tmp_path, address6=PUBLIC6, bind_address6=ADDRESS6))
    assert config.bound == {PUBLIC: ADDRESS, PUBLIC6: ADDRESS6}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bind_address": ADDRESS6}, "bind_address ::1 is not of the family of 192.0.2.7"),
        ({"bind_address6": ADDRESS6}, "bind_address6 ::1 without address6"),
        ({"address6": PUBLIC6, "bind_address6": ADDRESS}, "bind_address6 127.0.0.1 is not of the family of 2001"),
        ({"bind_address": "0.0.0.0"}, "0.0.0.0 is not the address of one machine"),
    ],
)  # fmt: skip
def test_a_wrong_bind_address_is_told(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(written(tmp_path, **changes))


# --- what is bound -----------------------------------------------------------------------------------------


def test_the_pool_names_the_public_address_and_binds_the_private_one() -> None:
    pool = RelayPool(
        [PUBLIC], (22300, 22301), lambda _: 0, lambda *_: None, lambda *_: None, bound={PUBLIC: ADDRESS}
    )
    relays = pool.open(IPV4, "pair")
    assert relays == [(PUBLIC, 22300), (PUBLIC, 22301)]
    assert [pool.sockets[relay].getsockname() for relay in relays] == [(ADDRESS, 22300), (ADDRESS, 22301)]
    pool.close(relays[0])
    assert pool.take(relays[0])
    for relay in relays:
        pool.close(relay)


def test_every_socket_of_a_fleets_relay_is_bound_to_the_private_address(tmp_path: Path) -> None:
    relay = Relay(load(written(tmp_path)), "test", Log(out=io.StringIO()))
    try:
        assert relay.fleet is not None
        socks = [relay.fleet.overlay_socket, *relay.fleet.measuring.socks]
        assert [sock.getsockname()[0] for sock in socks if sock is not None] == [ADDRESS] * 3
    finally:
        relay.close()


# --- who may be a peer -------------------------------------------------------------------------------------


def test_the_private_address_is_our_own_and_no_peer() -> None:
    policy = _policy(words(), None, ())
    assert policy.permits(PUBLIC) and policy.permits(PUBLIC, 22200)
    assert not policy.permits(PUBLIC, 22199)
    assert not policy.permits(ADDRESS) and not policy.permits(ADDRESS, 22200)


def test_the_private_address_is_our_own_also_where_it_is_a_public_one() -> None:
    config = words(listen="51.15.0.1:3478")
    assert not _policy(config, None, ()).permits("51.15.0.1", 5000)
    assert _policy(config._replace(bind_address=None), None, ()).permits("51.15.0.1", 5000)


def test_our_services_stay_shut_on_it_whatever_is_allowed() -> None:
    policy = _policy(words("51.15.0.0/16", listen="51.15.0.1:3478"), None, ())
    assert policy.permits("51.15.0.1", 5000)
    assert not policy.permits("51.15.0.1", 3478) and not policy.permits(PUBLIC, 3478)


# --- packets -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["udp", "tcp"])
def two(request: pytest.FixtureRequest) -> Iterator[tuple[SocketClient, SocketClient]]:
    with plain_relay("--external", PUBLIC, user="alice:wonder", realm=REALM) as served:
        made = [SocketClient((ADDRESS, served.port), request.param, "alice", "wonder") for _ in range(2)]
        yield made[0], made[1]
        for client in made:
            client.wire.close()


def test_two_clients_of_one_relay_talk_by_its_public_address(two: tuple[SocketClient, SocketClient]) -> None:
    one, other = two
    here, there = one.allocate().relayed, other.allocate().relayed
    assert here[0] == there[0] == PUBLIC
    assert one.permit(ADDRESS).code == 403
    they_talk(one, here, other, there)


def they_talk(one: SocketClient, here: Addr, other: SocketClient, there: Addr) -> None:
    assert [one.permit(there[0]).code, other.permit(here[0]).code] == [None, None]
    one.send(b"over", there)
    assert data_of(other.hears()) == (here, b"over")
    other.send(b"and back", here)
    assert data_of(one.hears()) == (there, b"and back")


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_clients_of_different_processes_talk_by_it_too(tmp_path: Path, six: bool) -> None:
    external = ("--external", PUBLIC, *(("--external", PUBLIC6) if six else ()))
    with running(tmp_path, *external, six=six) as relay:
        wishes = [(stun.REQUESTED_ADDRESS_FAMILY, bytes([stun.IPV6, 0, 0, 0]))] if six else []
        (one, here), (other, there) = relay.one_on_each("udp", *wishes).values()
        assert here[0] == there[0] == (PUBLIC6 if six else PUBLIC)
        they_talk(one, here, other, there)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", [PUBLIC, ADDRESS], ids=["public", "private"])
def test_a_service_of_this_machine_answers_by_the_name_that_it_was_called(
    echo: Addr, workers: str, name: str
) -> None:
    """It is a peer only because it is allowed by hand; from it packets come from the private address either way."""
    options = ("--external", PUBLIC, "--allow-peer", f"{name}/32", "--workers", workers)
    with plain_relay(*options, user="alice:wonder", realm=REALM) as served:
        client = SocketClient((ADDRESS, served.port), "udp", "alice", "wonder")
        assert client.allocate().relayed[0] == PUBLIC
        assert talks(client, (name, echo[1]), b"by its name!")
        client.wire.close()


def test_a_stranger_among_the_relay_ports_is_no_peer(tmp_path: Path) -> None:
    with running(tmp_path, "--external", PUBLIC) as relay:
        client = relay.client()
        port = client.allocate().relayed[1] ^ 1  # nobody's
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((ADDRESS, port))
            assert client.permit(PUBLIC).code is None
            client.send(b"to whom?", (PUBLIC, port))
            assert client.refresh(600).code is None  # it has been dealt with
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(100)
