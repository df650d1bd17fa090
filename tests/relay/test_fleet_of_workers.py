"""A fleet whose edges are two processes each: what only the hub has, clients of the other worker have too."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.relay.test_fleet_of_relays import IDS, _client, _Fleet, _Inbox, _roles, _talk
from tests.relay.test_workers import WORKERS, children, until, worker_of

EDGES = ("ae-1", "kr-1")


class _FleetOfWorkers(_Fleet):
    def _write(self, node: str) -> None:
        super()._write(node)
        path = self.base(node) / "etc/relay.json"
        workers = WORKERS if node in EDGES else 1
        path.write_text(json.dumps({**json.loads(path.read_text()), "workers": workers}))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[_FleetOfWorkers]:
    running = _FleetOfWorkers(tmp_path)
    try:
        for node in IDS:
            running.start(node)
        for node in IDS:
            running.wait(node, lambda status: status["workers"] == (WORKERS if node in EDGES else 1))  # noqa: B023
        yield running
    finally:
        running.stop()


async def _client_of(node: str, worker: int, user: str = "probe") -> tuple[Any, _Inbox]:
    """A client at this worker: the kernel picks by the client's port, so try some."""
    for _ in range(40):
        made, inbox = await _client(node, user)
        if worker_of(made.get_extra_info("sockname")) == worker:
            return made, inbox
        made.close()
    raise AssertionError(f"no client came to worker {worker} of {node}")


@pytest.mark.parametrize(("near", "far"), [(1, 1), (0, 1), (1, 0)])
async def test_media_rides_the_table_whichever_worker_has_the_clients(
    fleet: _FleetOfWorkers, near: int, far: int
) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    one, one_inbox = await _client_of("ae-1", near)
    other, other_inbox = await _client_of("kr-1", far)
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    # What is sent before the workers know that the paths have answered goes straight.
    roles: dict[str, str] = {}
    for number in range(50):
        await _talk(one, there, other_inbox, (other, here), b"by the primary %d" % number)
        await _talk(other, here, one_inbox, (one, there), b"and back %d" % number)
        roles = {node: role for node, (role, _) in _roles(fleet, here, there).items()}
        if roles:
            break
    assert roles == {"ae-1": "ingress", "sg-1": "transit", "kr-1": "egress"}
    assert fleet.ask("ae-1", "status")["allocations"] == 1
    one.close()
    other.close()


async def test_a_direct_user_goes_straight_and_is_under_the_zones(fleet: _FleetOfWorkers) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    one, _ = await _client_of("ae-1", 1, "probe+direct")
    other, other_inbox = await _client_of("kr-1", 1, "probe+direct")
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"straight")
    assert _roles(fleet, here, there) == {}

    fleet.publish(
        2, [{"id": "z", "between": [["ae"], ["kr"]], "forbid": ["kr"], "allow": None}], routed=False
    )
    for node in EDGES:
        fleet.wait(node, lambda status: status["table"]["serial"] == 2)

    await _until_refused(fleet, one, there)
    one.close()
    other.close()


async def _until_refused(fleet: _FleetOfWorkers, sender: Any, to: Any) -> None:
    for _ in range(200):
        sender.sendto(b"unlawful", to)
        await asyncio.sleep(0.05)
        if fleet.ask("ae-1", "status")["drops"].get("direct_forbidden", 0) >= 3:
            return
    raise AssertionError("it is not refused")


async def test_a_worker_that_comes_back_knows_the_table(fleet: _FleetOfWorkers) -> None:
    fleet.publish(1)
    fleet.wait_for_the_overlay()
    pid = fleet.processes["ae-1"].pid
    (victim,) = set(children(pid)) - {fleet.ask("ae-1", "status")["pid"]}
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(pid) and len(children(pid)) == WORKERS)
    one, _ = await _client_of("ae-1", 1)
    other, other_inbox = await _client_of("kr-1", 1)
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    await _talk(one, there, other_inbox, (other, here), b"as before")
    assert {node: role for node, (role, _) in _roles(fleet, here, there).items()}["sg-1"] == "transit"
    one.close()
    other.close()


async def test_a_fleets_drain_outlives_its_hub(fleet: _FleetOfWorkers) -> None:
    pid, before = fleet.processes["ae-1"].pid, fleet.ask("ae-1", "status")["pid"]
    assert fleet.ask("ae-1", "drain")["drain"] is True
    os.kill(before, signal.SIGKILL)
    until(lambda: before not in children(pid) and fleet.ask("ae-1", "status")["workers"] == WORKERS)
    for _ in range(8):
        with pytest.raises(Exception, match=r"486|300"):
            await _client("ae-1")
