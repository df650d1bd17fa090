"""pion's TURN client (its own example program) against the relay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.programs import BUILT, Batch, batch, need_built, selected
from tests.relay.serving import ADDRESS, Served

TRANSPORTS = ("udp", "tcp")


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, relay: Served) -> Iterator[Batch]:
    """It pings for 10 s, so both at once."""
    wanted = selected(request, "transport")
    programs = {name: need_built(BUILT / f"pion-{name}", "pion's TURN client") for name in wanted}
    ask = ["-host", ADDRESS, "-port", str(relay.port), "-user", "user=pass", "-realm", "lab", "-ping"]
    with batch({name: [str(path), *ask] for name, path in programs.items()}) as running:
        yield running


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_pion_pings_through_its_allocation(runs: Batch, transport: str) -> None:
    done = runs.result(transport)
    assert done.code == 0, done.output
    assert f"relayed-address={ADDRESS}:" in done.output
    # Ten go from a socket of its own to the relayed address, are echoed by the client, and come back by the relay.
    assert done.output.count("bytes from from") == 10, done.output
