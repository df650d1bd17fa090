"""The overlay's keys are changed while two clients talk over four real relays: not one packet is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from commcli.relay.mesh import neighbours
from tests.relay.test_fleet_of_relays import IDS, _client, _Fleet, _Inbox, _talk, fleet

assert fleet  # a fixture: four relays with a table
PAIR_S = 0.01  # between two packets of each client

OLD, BOTH, TURNED, NEW = ("first",), ("first", "second"), ("second", "first"), ("second",)


class _Call:
    """Two clients that speak all the time; what each said, and what the other one heard."""

    def __init__(self, one: Any, other: Any, inboxes: Sequence[_Inbox]) -> None:
        self.ends = (one, other)
        self.addresses = [end.get_extra_info("sockname") for end in self.ends]
        self.inboxes = inboxes
        self.said = 0
        self._over = False

    async def go_on(self) -> None:
        while not self._over:
            for end, to in zip(self.ends, reversed(self.addresses), strict=True):
                end.sendto(b"%d" % self.said, to)
            self.said += 1
            await asyncio.sleep(PAIR_S)

    def stop(self) -> None:
        self._over = True

    def heard(self) -> list[set[bytes]]:
        found = []
        for inbox in self.inboxes:
            words = [inbox.received.get_nowait() for _ in range(inbox.received.qsize())]
            found.append({word for word in words if word.isdigit()})
        return found


async def _all_hold(fleet: _Fleet, node: str) -> None:
    """Until the running relay says that it uses the keys in its file."""
    content = json.loads((fleet.base(node) / "etc/peers.json").read_text())
    wanted = neighbours.digest(neighbours.key_ids(neighbours.parse(content["peers"])))
    for _ in range(400):
        if (await asyncio.to_thread(fleet.ask, node, "keys"))["digest"] == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{node} does not take its keys up")


async def test_a_call_notices_nothing(fleet: _Fleet) -> None:
    fleet.publish(1)
    await asyncio.to_thread(fleet.wait_for_the_overlay)
    one, one_inbox = await _client("ae-1")
    other, other_inbox = await _client("kr-1")
    call = _Call(one, other, (one_inbox, other_inbox))
    here, there = call.addresses
    await _talk(one, there, other_inbox, (other, here), b"hello")
    await _talk(other, here, one_inbox, (one, there), b"hello")
    call.heard()

    speaking = asyncio.create_task(call.go_on())
    for keys in (BOTH, TURNED, NEW):
        for node in IDS:  # one after the other: in between some have taken the step and some have not
            before = call.said
            fleet.share_keys(node, *keys)
            await _all_hold(fleet, node)
            await asyncio.sleep(10 * PAIR_S)
            assert call.said > before
    call.stop()
    await speaking
    await asyncio.sleep(0.5)  # for the last ones to arrive

    missing = [len({b"%d" % n for n in range(call.said)} - words) for words in call.heard()]
    assert missing == [0, 0]
    for node in IDS:
        status = fleet.ask(node, "status")
        assert status["overlay"]["drops"].get("forged", 0) == 0
        assert all(not path["switches"] for path in status["overlay"]["paths"].values())
    assert {row["role"] for row in fleet.ask("sg-1", "flows")["flows"]} == {"transit"}
    one.close()
    other.close()
