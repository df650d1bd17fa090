"""aioice's own TURN tests, from its source distribution, against our relay."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Pair
from tests.clients.programs import BUILT, Batch, batch, need_built, selected

# Each transport's takes 14 s, of which it sleeps 13.
SUITES = {
    "udp": ["TurnTest.test_udp_transport"],
    "tcp": ["TurnTest.test_tcp_transport"],
    "tls": ["TurnTest.test_tls_transport"],
    "ends of an allocation": [
        "TurnTest.test_udp_transport_refresh_failure",
        "TurnTest.test_udp_transport_cancelled",
        "TurnTest.test_udp_transport_close_at_shutdown",
        "TurnTest.test_udp_transport_related_address",
    ],
    "the client alone": ["TurnClientTcpProtocolTest", "TurnClientUdpProtocolTest"],
}


@pytest.fixture(scope="module")
def sources() -> Path:
    """The tests belong to one release: that which is installed."""
    return need_built(
        BUILT / f"aioice-{importlib.metadata.version('aioice')}", "aioice's source distribution"
    )


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, sources: Path, pair: Pair) -> Iterator[Batch]:
    start = [sys.executable, "-m", "tests.clients.aioice_suite", str(sources)]
    start += ["--certificate", str(pair.certificate), "--key", str(pair.key)]
    wanted = selected(request, "name")
    with batch({name: [*start, *SUITES[name]] for name in wanted}, at_once=len(wanted)) as running:
        yield running


@pytest.mark.parametrize("name", SUITES)
def test_aioice(runs: Batch, name: str) -> None:
    done = runs.result(name)
    assert done.code == 0, done.output[-6000:]
    assert "\nOK" in done.output and "Ran 0 tests" not in done.output, done.output[-2000:]
