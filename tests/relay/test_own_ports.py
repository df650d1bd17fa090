"""Another program's socket among our own relay ports is no peer: only live allocations are."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest

from commcli.relay import config
from commcli.relay.clients.udp import open_udp
from commcli.relay.log import Log
from commcli.relay.process.daemon import Relay
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.road import OVERLAY
from commcli.relay.turn.stun import IPV4
from tests.relay.serving import ADDRESS, free_port

PORTS = (22100, 22140)


def relay(*allowed: str) -> Relay:
    words = config.standalone(
        listen=f"{ADDRESS}:{free_port()}",
        relay_ports=f"{PORTS[0]}-{PORTS[1]}",
        users=["user:pass"],
        secrets=[],
        realm="lab",
        allow_peers=list(allowed),
    )
    return Relay(words, "test", Log(out=io.StringIO()))


@pytest.fixture(params=[(), ("127.0.0.0/8",)], ids=["by default", "opened by hand"])
def made(request: pytest.FixtureRequest) -> Iterator[Relay]:
    started = relay(*request.param)
    yield started
    started.close()


def test_it_is_reached_only_where_the_operator_opened_it(made: Relay) -> None:
    stranger = open_udp(ADDRESS, PORTS[1])
    relays = made.edge.pool.open(IPV4)
    allocation = Allocation((ADDRESS, 1), relays, "user", "user", OVERLAY, 0.0, b"")
    allocation.expires = time.monotonic() + 600
    made.edge._to_peers({(allocation, (ADDRESS, PORTS[1])): [b"hello"]}, time.monotonic())
    try:
        reached = stranger.recv(100) == b"hello"
    except BlockingIOError:
        reached = False
    finally:
        stranger.close()
    assert reached == bool(made.config.allow_peers)
    assert made.drops["no_allocation"] == (0 if reached else 1)
