"""What the hub and the other workers tell each other, with both ends in this process."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.relay.clients.udp import Addr
from commcli.relay.config import RelayConfig
from commcli.relay.loop import Loop
from commcli.relay.process import sisters
from commcli.relay.process.register import Register
from commcli.relay.process.sisters import (
    CONFIG,
    FIGURES,
    HELLO,
    MAX_MESSAGE,
    PACKETS,
    STALE_S,
    TABLE,
    Hub,
    Link,
    Packets,
)
from commcli.relay.turn.road import LONGEST_ID, OVERLAY, Road
from tests.relay.test_metrics import figures

SRC, DST = ("192.0.2.1", 50000), ("198.51.100.2", 50001)
DST_2 = (DST[0], 50003)
SIX = ("2001:db8::1", 50000), ("2001:db8::2", 50001)
PORTS = (50_000, 50_015)


class Pair:
    """A hub with one worker."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.register = Register((DST[0],), PORTS, 2)
        self.loop, self.drops = Loop(lambda _now: None), Counter[str]()
        self.carried: list[Packets] = []
        self.hub = Hub({1: ours}, self.register, self.loop, self.drops, self.carried.append)
        self.worker = Link(theirs, Counter())

    def turn(self) -> None:
        """Let the hub hear what waits."""
        self.loop._epoll.poll(1)
        for callback in list(self.loop._callbacks.values()):
            callback(0)

    def close(self) -> None:
        self.hub.close()
        self.worker.sock.close()
        self.loop.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.mark.parametrize("ends", [(SRC, DST), SIX], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("size", [0, 1, 1200, 65_000])
def test_packets_go_both_ways(pair: Pair, ends: tuple[Addr, Addr], size: int) -> None:
    pair.worker.gather(*ends, [bytes(size)])
    pair.worker.flush()
    pair.turn()
    assert pair.carried == [Packets(*ends, [bytes(size)])]


@pytest.mark.parametrize("ends", [(SRC, DST), SIX], ids=["IPv4", "IPv6"])
def test_packets_keep_their_road_apart_from_others(pair: Pair, ends: tuple[Addr, Addr]) -> None:
    roads = [OVERLAY, Road(plain=True), Road(via="sg-1"), Road(via="n" * LONGEST_ID, plain=True)]
    for road in (*roads, *roads):
        pair.worker.gather(*ends, [repr(road).encode()], road)
    pair.worker.flush()
    pair.turn()
    assert pair.carried == [Packets(*ends, [repr(road).encode()] * 2, road) for road in roads]


def test_packets_of_one_turn_share_a_message_and_keep_their_order(pair: Pair) -> None:
    pair.register.enter(DST, 1, "alice")
    pair.register.enter(DST_2, 1, "alice")
    pair.hub.deliver(SRC, DST, [b"1", b""])
    pair.hub.deliver(SRC, DST_2, [b"other"])
    pair.hub.deliver(SRC, DST, [b"three"])
    assert pair.worker.receive() == [], "until the turn ends"
    pair.hub.flush()
    ((kind, data),) = pair.worker.receive()
    assert kind == PACKETS
    assert list(pair.worker.packets(data)) == [
        Packets(SRC, DST, [b"1", b"", b"three"]),
        Packets(SRC, DST_2, [b"other"]),
    ]
    pair.hub.flush()
    assert pair.worker.receive() == []


@pytest.mark.parametrize("size", [0, 1, 1200, 30_000, 65_535])
def test_what_does_not_fit_one_message_goes_in_several(pair: Pair, size: int) -> None:
    sent = [bytes([number % 256]) * size for number in range(3 * MAX_MESSAGE // (size + 2) + 2)]
    pair.worker.gather(*SIX, sent[:2])
    pair.worker.gather(*SIX, sent[2:])
    pair.worker.flush()
    pair.turn()
    assert len(pair.carried) > 2
    assert [payload for packets in pair.carried for payload in packets.payloads] == sent
    assert not pair.worker._drops


def test_a_packet_finds_the_worker_of_its_port(pair: Pair) -> None:
    assert not pair.hub.deliver(SRC, DST, [b"nobody has it"])
    pair.register.enter(DST, 1, "alice")
    assert pair.hub.deliver(SRC, DST, [b"media"])
    pair.hub.flush()
    ((kind, data),) = pair.worker.receive()
    assert kind == PACKETS
    assert list(pair.worker.packets(data)) == [Packets(SRC, DST, [b"media"])]
    pair.register.enter(DST, 0, "alice")
    assert not pair.hub.deliver(SRC, DST, [b"it is the hub's own"])


def test_a_full_pair_drops_and_counts_and_does_not_wait(pair: Pair) -> None:
    pair.register.enter(DST, 1, "alice")
    sent = 0
    while not pair.drops["sister_full"]:
        pair.hub.deliver(SRC, DST, [bytes(1200)])
        pair.hub.flush()
        sent += 1
    assert sent > 100, "a burst fits"
    received = 0
    while messages := pair.worker.receive():
        received += len(messages)
    assert received == sent - 1


def test_who_greets_is_told_everything(pair: Pair) -> None:
    pair.worker.send(HELLO)
    pair.hub.tell(CONFIG, b"[1]")
    big = b"x" * 20_000_000
    pair.hub.tell(TABLE, big)
    assert pair.worker.receive() == [(CONFIG, b"[1]"), (TABLE, big)]
    pair.hub.tell(TABLE, big)
    assert pair.worker.receive() == [], "nothing new"
    pair.turn()
    assert pair.worker.receive() == [(CONFIG, b"[1]"), (TABLE, big)]


def test_what_could_not_be_told_is_told_later_and_only_the_newest(pair: Pair) -> None:
    pair.register.enter(DST, 1, "alice")
    while not pair.drops["sister_full"]:
        pair.hub.deliver(SRC, DST, [bytes(1200)])
        pair.hub.flush()
    pair.hub.tell(CONFIG, b"[1]")
    pair.hub.tell(CONFIG, b"[2]")
    while messages := pair.worker.receive():
        assert {kind for kind, _ in messages} == {PACKETS}
    pair.hub.tick()
    pair.hub.tick()
    assert pair.worker.receive() == [(CONFIG, b"[2]")]


def test_a_node_is_the_sum_of_its_workers(pair: Pair) -> None:
    pair.register.live[0], pair.register.live[1] = 3, 4
    pair.worker.send(FIGURES, sisters.document(figures()))
    pair.turn()
    both = pair.hub.figures(figures(), pair.loop.now)
    assert (both["workers"], both["allocations"]) == (2, 7)
    assert both["turn"]["auth_ok"] == 2 * figures()["turn"]["auth_ok"]


def test_a_silent_worker_is_no_worker_but_what_it_did_stays_done(pair: Pair) -> None:
    pair.worker.send(FIGURES, sisters.document(figures()))
    pair.turn()
    late = pair.hub.figures(figures(), pair.loop.now + STALE_S)
    assert late["workers"] == 1
    assert late["streams"]["open"] == figures()["streams"]["open"]
    assert late["streams"]["accepted"] == 2 * figures()["streams"]["accepted"]
    assert late["drops"] == {reason: 2 * count for reason, count in figures()["drops"].items()}


def test_a_worker_that_died_twice_is_still_counted(pair: Pair) -> None:
    for _ in range(3):
        pair.worker.send(HELLO)
        pair.worker.send(FIGURES, sisters.document(figures()))
        pair.turn()
    sums = pair.hub.figures(figures(), pair.loop.now)
    made, ended = figures()["turn"]["allocations_made"], figures()["turn"]["allocations_ended"]
    assert sums["turn"]["allocations_made"] == 4 * made
    # Two live, and two of which every allocation is over.
    assert sums["turn"]["allocations_ended"] == 2 * ended + 2 * made
    assert sums["process"]["rss_bytes"] == 2 * figures()["process"]["rss_bytes"]
    assert sums["workers"] == 2


def test_a_configuration_arrives_as_it_was() -> None:
    config = RelayConfig(
        "sg-1", "192.0.2.1", 3478, PORTS, "lab", allow_peers=("10.0.0.0/8",), users=(("u", "p"), ("v", "q")),
        secrets=("s",), revoked=frozenset({"x", "y"}), user_quota=3, node_mbit_s=10, drain_sessions=2,
    )  # fmt: skip
    before = config._replace(
        allow_peers=(), users=(), secrets=("old",), revoked=frozenset(), user_quota=None, node_mbit_s=None
    )
    for drain in (False, True):
        assert sisters.unpacked_config(sisters.packed_config(config, drain), before) == (config, drain)
    json.loads(sisters.packed_config(config, True))


def test_what_needs_a_restart_is_not_sent() -> None:
    config = RelayConfig("sg-1", "192.0.2.1", 3478, PORTS, "lab", tls_key=Path("/nowhere"))
    there = config._replace(turn_port=1, tls_key=None)
    assert sisters.unpacked_config(sisters.packed_config(config, False), there)[0] == there._replace(
        drain_sessions=0
    )
