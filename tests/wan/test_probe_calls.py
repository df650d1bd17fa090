"""Probe calls as operators make them, over a WAN: what they tell is what the link did, and a starved end says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.remote import sshd
from tests.wan.accuracy import DESK, LINKS, NODES, ONE, OTHER, PORTS, Site
from tests.wan.operator import Operator
from tests.wan.relays import Relays, both_ways
from tests.wan.wan import Wan, wan_or_skip

DELAY_MS, LOSS = 40.0, 0.03
WAITS_S = 60.0


@dataclass(frozen=True)
class Place:
    """Everything that runs here."""

    wan: Wan
    operator: Operator
    site: Site


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if reason := sshd.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("wan")
    with ExitStack() as stack:
        wan = stack.enter_context(wan_or_skip(NODES, LINKS, ports=PORTS))
        relays = stack.enter_context(Relays(wan, folder, [ONE, OTHER]))
        operator = stack.enter_context(Operator(relays, DESK, folder))
        relays.publish(both_ways((ONE, OTHER)))
        yield Place(wan, operator, Site(wan, operator))


def test_what_was_set_and_what_the_link_did_is_what_a_call_tells(place: Place) -> None:
    place.site.set(DELAY_MS, LOSS)
    document = place.site.call("--seconds", "4")
    assert document["connected"], document["problems"]
    cell = place.site.judged(document, DELAY_MS, LOSS)
    for name, loss in cell.losses.items():
        # A packet at either end of the window may count here and not there.
        assert abs(loss.lost - loss.true_lost) <= 2, (name, loss)
        assert abs(loss.expected - loss.true_packets) <= 4, (name, loss)
        video = document["directions"][name]["video"]
        # No packet is quicker than its link; how much slower is this machine's affair, and the bench's.
        assert video["one_way_ms"]["min"] >= DELAY_MS
        assert video["frame_delay_ms"]["min"] >= DELAY_MS
    assert document["rtt_ms"]["min"] >= 2 * DELAY_MS
    assert not any(place.wan.figures().overflow.values()), "the WAN itself lost packets"


def test_a_starved_end_makes_the_call_invalid_and_not_bad(place: Place) -> None:
    place.site.set(DELAY_MS, 0)
    process = place.site.start("--seconds", "3", "--json")
    with place.operator.starved(OTHER):
        out, err = process.communicate(timeout=WAITS_S)
    assert process.returncode == 4, err
    document = json.loads(out)
    assert (document["verdict"], document["valid"]) == ("invalid", False)
    assert f"{OTHER} (" in document["invalid_reason"]
