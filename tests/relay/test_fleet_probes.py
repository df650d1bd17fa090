"""Roads of probes through running relays, of one process and of several: pinned, plain, and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.relay.test_fleet_of_relays import ADDRESSES, IDS, _client, _Fleet, _roles, _talk
from tests.relay.test_fleet_of_workers import _client_of, _FleetOfWorkers

EDGES = ("ae-1", "kr-1")


@pytest.fixture(params=[False, True], ids=["one process", "two processes"])
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[_Fleet]:
    running = (_FleetOfWorkers if request.param else _Fleet)(tmp_path)
    try:
        running.start_all()
        yield running
    finally:
        running.stop()


async def _edge_client(fleet: _Fleet, node: str, user: str) -> Any:
    """Of an edge with two processes, one that is not at the hub."""
    return await (_client_of(node, 1, user) if isinstance(fleet, _FleetOfWorkers) else _client(node, user))


async def _roads(fleet: _Fleet, user: str) -> dict[str, str]:
    """Which relays a word of such a user's passed, both ways, in which part."""
    one, one_inbox = await _edge_client(fleet, "ae-1", user)
    other, other_inbox = await _edge_client(fleet, "kr-1", user)
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"there")
    await _talk(other, here, one_inbox, (one, there), b"back")
    roles = {node: role for node, (role, _) in _roles(fleet, here, there).items()}
    back = {node: role for node, (role, _) in _roles(fleet, there, here).items()}
    assert roles.keys() == back.keys()
    one.close()
    other.close()
    return roles


def _plain_datagrams(fleet: _Fleet, node: str, to: str) -> int:
    rows = fleet.ask(node, "status")["overlay"]["segments"]
    return int(rows[to]["out"]["classes"]["plain"]["datagrams"])


async def test_a_probe_takes_the_road_that_its_user_id_names(fleet: _Fleet) -> None:
    fleet.publish(1, probe_kbit_s=1000)
    fleet.wait_for_the_overlay()
    assert await _roads(fleet, "probe+via=hk-1") == {"ae-1": "ingress", "hk-1": "transit", "kr-1": "egress"}
    assert _plain_datagrams(fleet, "ae-1", "hk-1") == 0
    assert (await _roads(fleet, "probe+via=hk-1+plain"))["hk-1"] == "transit"
    assert _plain_datagrams(fleet, "ae-1", "hk-1") > 0 and _plain_datagrams(fleet, "hk-1", "kr-1") > 0

    # No row at all, and still over one relay, as long as the table says how much of that may be.
    fleet.publish(2, routed=False, probe_kbit_s=1000)
    for node in IDS:
        fleet.wait(node, lambda status: status["table"]["serial"] == 2)
    assert await _roads(fleet, "probe+via=sg-1+plain") == {
        "ae-1": "ingress", "sg-1": "transit", "kr-1": "egress",
    }  # fmt: skip
    rows = {(row["from"], row["to"]): row for row in fleet.ask("kr-1", "flows")["segments"]}
    assert rows["sg-1", "kr-1"]["expected"] > 0 and rows["sg-1", "kr-1"]["lost"] == 0
    assert rows["sg-1", "kr-1"]["delay_ms"]["p50"] < 1000
    sends = fleet.ask("sg-1", "flows")["sends"]
    assert {row["to"]: row["sent_again"] for row in sends}["kr-1"] == 0


async def test_a_pin_that_can_not_be_is_refused_or_dropped_by_name(fleet: _Fleet) -> None:
    fleet.publish(1, routed=False)
    for node in IDS:
        fleet.wait(node, lambda status: status["table"]["serial"] == 1)
    for user in ("probe+via=xx-1", "probe+via=ae-1", "probe+direct+via=sg-1"):
        with pytest.raises(Exception, match="403"):
            await _edge_client(fleet, "ae-1", user)
    one, _ = await _edge_client(fleet, "ae-1", "probe+via=sg-1")
    other, inbox = await _edge_client(fleet, "kr-1", "probe+via=sg-1")
    there = other.get_extra_info("sockname")
    # Without an allowance the pinned path does not exist, and neither does any other for this client.
    await _until_dropped(fleet, one, there, "via_not_in_table")
    await _until_dropped(fleet, one, (ADDRESSES["ae-1"], 40098), "via_no_egress")
    assert inbox.received.empty()
    one.close()
    other.close()


async def _until_dropped(fleet: _Fleet, sender: Any, to: Any, reason: str) -> None:
    for _ in range(200):
        sender.sendto(b"nowhere", to)
        await asyncio.sleep(0.05)
        status = fleet.ask("ae-1", "status")
        if {**status["drops"], **status["overlay"]["drops"]}.get(reason, 0) >= 3:
            return
    raise AssertionError(f"nothing is dropped as {reason}")
