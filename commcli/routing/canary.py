"""Do a canary's calls stay good under the new table? Facts of before and after in, a reason or none out. Pure.

While the others still follow the former table they carry no path that is new, so the canary stays on one that both
tables have; a way of which nothing is left can not be judged before the waves. What is judged is what happens to calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# A flow without a packet for so long carries no call.
QUIET_S = 5.0
# Calls end by themselves; that more than half of several do within seconds, they do not.
FEW_CALLS, SHARE_ENDED = 4, 0.5
# A share of fewer datagrams says nothing. 5 % after repair is where a call is bad by the limits of probes.
FEW_DATAGRAMS, LOSS_WORSE = 200, 0.05
# Packets that a table lets go nowhere: the others are a network's, an attacker's, or what a zone is for.
ASTRAY = ("no_table", "no_route", "not_in_table", "endpoint")
ASTRAY_A_SECOND = 10.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a relay says of itself. `flows` are those with a packet in the last seconds; `expected` and `unrepaired`
    datagrams of all segments that end there, and `astray` packets by reason, are counted since its start.
    `ways` are {other edge: (path in use, its state)}.
    """

    uptime_s: float
    serial: int | None
    refused: str | None
    allocations: int
    flows: int
    expected: int
    unrepaired: int
    astray: Mapping[str, int]
    ways: Mapping[str, tuple[tuple[str, ...], str]]

    @property
    def carries_calls(self) -> bool:
        return self.allocations > 0 or self.flows > 0


def facts_of(status: Mapping[str, Any]) -> Facts:
    """Out of a relay's answer to `status`."""
    overlay = status.get("overlay") or {}
    arrived = [row["in"] for row in overlay.get("segments", {}).values() if row["in"]]
    lost = sum(row["lost"] - row["repaired"] for row in arrived)
    live = [row for row in overlay.get("flows", ()) if status["unix"] - row["last_unix"] <= QUIET_S]
    drops = overlay.get("drops", {})
    return Facts(
        uptime_s=status["uptime_s"],
        serial=status["table"]["serial"],
        refused=status["table"]["refused"],
        allocations=status["allocations"],
        flows=len(live),
        expected=sum(row["expected"] for row in arrived),
        unrepaired=lost,
        astray={reason: drops[reason] for reason in ASTRAY if reason in drops},
        ways={node: (tuple(way["path"]), way["state"]) for node, way in overlay.get("paths", {}).items()},
    )


def verdict(before: Facts, after: Facts, serial: int) -> str | None:
    """Why the table `serial` is not to go on, judged by its canary; None: its calls stay good."""
    if after.uptime_s < before.uptime_s:
        return "its relay started anew under the new table"
    if after.serial != serial:
        return f"its relay has table {after.serial} now: {after.refused or 'somebody else published'}"
    reasons = (_ended(before, after), _loss(before, after), _astray(before, after), _bad_way(before, after))
    return "; ".join(reason for reason in reasons if reason) or None


def _ended(before: Facts, after: Facts) -> str | None:
    ended = before.allocations - after.allocations
    if before.allocations < FEW_CALLS or ended <= SHARE_ENDED * before.allocations:
        return None
    return f"{ended} of {before.allocations} allocations ended"


def _loss(before: Facts, after: Facts) -> str | None:
    """After repair, of all that came: against its mean since the relay's start, for lack of another measure."""
    came, lost = after.expected - before.expected, after.unrepaired - before.unrepaired
    if came < FEW_DATAGRAMS:
        return None
    usual = before.unrepaired / before.expected if before.expected else 0.0
    now = max(0, lost) / came
    return None if now <= usual + LOSS_WORSE else f"loses {now:.1%} of what comes, {usual:.1%} before"


def _astray(before: Facts, after: Facts) -> str | None:
    seconds = after.uptime_s - before.uptime_s
    for reason, count in after.astray.items():
        usual = before.astray.get(reason, 0) / before.uptime_s if before.uptime_s else 0.0
        new = count - before.astray.get(reason, 0)
        # A deadline may leave less than a second to watch, and that is no time to take a rate from.
        if new > (ASTRAY_A_SECOND + 2 * usual) * max(seconds, 1.0):
            return f"{new} packets dropped in {seconds:.0f} s: {reason}"
    return None


def _bad_way(before: Facts, after: Facts) -> str | None:
    """A way that was good and has moved: onto one that its relay itself calls bad."""
    moved = [
        f"{' > '.join(path)} is bad"
        for node, (path, state) in sorted(after.ways.items())
        if state == "bad" and node in before.ways
        if before.ways[node][0] != path and before.ways[node][1] == "up"
    ]
    return ", ".join(moved) or None
