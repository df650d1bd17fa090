from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from commcli.relay.config import standalone
from commcli.relay.log import Log
from commcli.relay.process.daemon import Relay
from tests.relay.serving import ADDRESS, free_port


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def relay(out: io.StringIO) -> Iterator[Relay]:
    config = standalone(
        listen=f"{ADDRESS}:{free_port()}", relay_ports="23700-23800", users=["u:p"], secrets=[], realm="lab",
        allow_peers=[],
    )  # fmt: skip
    made = Relay(config, "test", Log(as_json=True, out=out))
    yield made
    made.close()


def _fail(message: str) -> None:
    raise ValueError(message)


def test_a_bug_of_ours_is_counted_and_told_with_its_place(relay: Relay, out: io.StringIO) -> None:
    for message in ("nobody thought of this", "x" * 10_000):
        try:
            _fail(message)
        except ValueError as error:
            relay._survived(error)
    relay._survived(ValueError("never raised"))
    assert relay.status()["drops"] == {"bug": 3}
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[0]["error"] == "ValueError: nobody thought of this"
    assert lines[0]["where"] == f"test_daemon.py:{_fail.__code__.co_firstlineno + 1}"
    assert len(lines[1]["error"]) == 200
    assert lines[2]["where"] == "?"


def test_the_metrics_page_needs_no_more_than_the_figures(relay: Relay) -> None:
    from commcli.relay.process import metrics

    assert 'commcli_relay_allocations{transport="udp"} 0' in metrics.render(relay.figures())
    assert relay.status().keys() - relay.figures().keys() == {"overlay", "upgrade"}
