"""The memory that the processes of one relay share, and the dictionaries and servers on top of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from commcli.relay.clients.udp import RelayPool
from commcli.relay.process.register import Census, LiveRelays, Register
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.auth import Client
from commcli.relay.turn.road import OVERLAY
from commcli.relay.turn.stun import IPV4, Addr

FOUR, SIX = "127.0.0.1", "::1"
PORTS = (23_500, 23_531)


@pytest.fixture
def register() -> Register:
    return Register((FOUR, SIX), PORTS, 2)


class Side:
    """One worker's tables, without its sockets."""

    def __init__(self, register: Register, worker: int) -> None:
        self.allocations: dict[Client, Allocation] = {}
        self.by_relay = LiveRelays(register, worker, self.allocations)

    def allocate(self, client: Client, user: str, *relays: Addr) -> Allocation:
        allocation = Allocation(client, relays, user, user, OVERLAY, 0.0, b"")
        self.allocations[client] = allocation
        for relay in relays:
            self.by_relay[relay] = allocation
        return allocation

    def free(self, allocation: Allocation) -> None:
        del self.allocations[allocation.client]
        for relay in allocation.relays:
            del self.by_relay[relay]


def test_what_one_worker_has_the_other_sees(register: Register) -> None:
    one, other = Side(register, 0), Side(register, 1)
    here, there = (FOUR, PORTS[0]), (SIX, PORTS[1])
    first = one.allocate(("192.0.2.1", 1), "alice", here)
    other.allocate(("192.0.2.2", 2), "alice", there)
    assert [register.owner(relay) for relay in (here, there, (SIX, PORTS[0]))] == [0, 1, None]
    assert register.is_live(here)
    assert (register.sessions(), register.sessions_of("alice"), register.sessions_of("bob")) == (2, 2, 0)
    one.free(first)
    assert not register.is_live(here)
    assert (register.sessions(), register.sessions_of("alice")) == (1, 1)


def test_an_allocation_of_two_families_counts_once_also_when_one_is_left(register: Register) -> None:
    side = Side(register, 1)
    four, six = (FOUR, PORTS[0] + 2), (SIX, PORTS[0] + 3)
    allocation = side.allocate(("192.0.2.1", 1), "alice", four, six)
    assert (register.sessions(), register.sessions_of("alice")) == (1, 1)
    del side.by_relay[four]
    allocation.keep(six)
    assert (register.sessions(), register.sessions_of("alice")) == (1, 1)
    assert not register.is_live(four)
    side.free(allocation)
    assert (register.sessions(), register.sessions_of("alice")) == (0, 0)
    assert not any(register.users) and not any(register.owners)


@pytest.mark.parametrize(
    "elsewhere",
    [("192.0.2.9", PORTS[0]), (FOUR, PORTS[0] - 1), (FOUR, PORTS[1] + 1), (FOUR, 0), ("", PORTS[0])],
)
def test_what_is_not_ours_is_nobodys(register: Register, elsewhere: Addr) -> None:
    assert register.owner(elsewhere) is None
    assert not register.is_live(elsewhere)
    assert not register.is_reserved(elsewhere)


def test_a_dead_workers_entries_go_and_no_others(register: Register) -> None:
    dead, alive = Side(register, 0), Side(register, 1)
    dead.allocate(("192.0.2.1", 1), "alice", (FOUR, PORTS[0]))
    alive.allocate(("192.0.2.2", 1), "alice", (FOUR, PORTS[0] + 2))
    register.reserve((FOUR, PORTS[0] + 1), b"dead", "alice")
    register.reserve((FOUR, PORTS[0] + 3), b"alive", "alice")
    register.beats[0] = 9
    register.clear(0, lambda port: (port >> 1) % 2 == (PORTS[0] >> 1) % 2)
    assert not register.is_live((FOUR, PORTS[0]))
    assert not register.is_reserved((FOUR, PORTS[0] + 1))
    assert register.is_live((FOUR, PORTS[0] + 2))
    assert register.reserved(b"alive", "alice") == (FOUR, PORTS[0] + 3)
    assert (register.sessions(), register.sessions_of("alice"), register.beats[0]) == (1, 1, 0)


def test_a_child_writes_what_its_parent_reads(register: Register) -> None:
    relay = (FOUR, PORTS[0])
    pid = os.fork()
    if not pid:
        register.enter(relay, 1, "alice")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert register.owner(relay) == 1
    assert register.sessions_of("alice") == 1


@pytest.fixture
def pools(register: Register) -> Iterator[list[RelayPool]]:
    made = []
    for worker in (0, 1):
        nothing = lambda _relay, _sock: None  # noqa: E731
        pool = RelayPool((FOUR,), PORTS, secrets.randbelow, nothing, nothing, (worker, 2))
        pool.is_held = register.is_reserved
        made.append(pool)
    yield made
    for pool in made:
        for relay in list(pool.sockets):
            pool.close(relay)


def test_a_reserved_port_waits_for_its_token_at_any_worker(
    register: Register, pools: list[RelayPool]
) -> None:
    one, other = (Census(register, pool) for pool in pools)
    _, second = pools[0].open(IPV4, "pair")
    one.offer(b"token", "alice", second)
    taken = {relay for _ in range(PORTS[1] - PORTS[0]) for relay in pools[0].open(IPV4)}
    assert second not in taken, "held, although nobody has bound it"
    assert not register.is_live(second), "nothing but an allocation is a peer"
    assert other.redeem(b"token", "mallory") is None
    assert other.redeem(b"other", "alice") is None
    assert other.redeem(b"token", "alice") == second
    assert second in pools[1].sockets
    assert one.redeem(b"token", "alice") is None, "the socket is bound, so it is another's"


def test_what_is_withdrawn_is_free_again(register: Register, pools: list[RelayPool]) -> None:
    census = Census(register, pools[0])
    _, second = pools[0].open(IPV4, "pair")
    census.offer(b"token", "alice", second)
    census.withdraw(b"token", "alice")
    assert census.redeem(b"token", "alice") is None
    assert second in {relay for _ in range(PORTS[1] - PORTS[0]) for relay in pools[0].open(IPV4)}


def test_a_withdrawal_leaves_alone_what_was_redeemed(register: Register, pools: list[RelayPool]) -> None:
    one, other = (Census(register, pool) for pool in pools)
    _, second = pools[0].open(IPV4, "pair")
    one.offer(b"token", "alice", second)
    assert other.redeem(b"token", "alice") == second
    register.enter(second, 1, "alice")
    one.withdraw(b"token", "alice")
    assert register.owner(second) == 1
