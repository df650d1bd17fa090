"""aioice's own TURN tests, from its source distribution, and pion's TURN client, its own example program.

Both sleep through most of their seconds, so all of them run at once.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Pair
from tests.clients.programs import BUILT, Batch, batch, need_built, selected
from tests.relay.serving import ADDRESS, Served

# The tests belong to one release: that which is installed.
SOURCES = BUILT / f"aioice-{importlib.metadata.version('aioice')}"
AIOICE = {
    "aioice udp": ["TurnTest.test_udp_transport"],
    "aioice tcp": ["TurnTest.test_tcp_transport"],
    "aioice tls": ["TurnTest.test_tls_transport"],
    "aioice ends": [
        "TurnTest.test_udp_transport_refresh_failure",
        "TurnTest.test_udp_transport_cancelled",
        "TurnTest.test_udp_transport_close_at_shutdown",
        "TurnTest.test_udp_transport_related_address",
    ],
    "aioice client": ["TurnClientTcpProtocolTest", "TurnClientUdpProtocolTest"],
}
PION = {name: BUILT / name.replace(" ", "-") for name in ("pion udp", "pion tcp")}


def aioice(name: str, pair: Pair) -> list[str]:
    """One part of aioice's tests, in a process that has our relay for their server."""
    files = ["--certificate", str(pair.certificate), "--key", str(pair.key)]
    return [sys.executable, "-m", "tests.clients.aioice_suite", str(SOURCES), *files, *AIOICE[name]]


def pion(program: Path, relay: Served) -> list[str]:
    """A client that pings itself through its allocation, once a second."""
    return [
        *(str(program), "-host", ADDRESS, "-port", str(relay.port)),
        *("-user", "user=pass", "-realm", "lab", "-ping"),
    ]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, relay: Served, pair: Pair) -> Iterator[Batch]:
    commands = {
        name: pion(PION[name], relay) if name in PION else aioice(name, pair)
        for name in selected(request, "name")
        if PION.get(name, SOURCES).exists()
    }
    with batch(commands, at_once=max(1, len(commands))) as running:
        yield running


@pytest.mark.parametrize("name", AIOICE)
def test_aioices_own_tests(name: str, runs: Batch) -> None:
    need_built(SOURCES, "aioice's source distribution")
    done = runs.result(name)
    assert done.code == 0, done.output[-6000:]
    assert "\nOK" in done.output and "Ran 0 tests" not in done.output, done.output[-2000:]


@pytest.mark.parametrize("name", PION)
def test_pion_pings_through_its_allocation(name: str, runs: Batch) -> None:
    need_built(PION[name], "pion's TURN client")
    done = runs.result(name)
    assert done.code == 0, done.output
    assert f"relayed-address={ADDRESS}:" in done.output
    # Ten go from a socket of its own to the relayed address, are echoed by the client, and come back by the relay.
    assert done.output.count("bytes from from") == 10, done.output
