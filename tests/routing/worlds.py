"""A small world for tests: six cities whose direct path ae-1 > kr-1 is bad, and the decision on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commcli.fleet import Fleet, Zone
from commcli.routing.decision import Decision, decide
from commcli.routing.table import Table
from tests.routing.fleets import fleet

NOW = 1_800_000_000
# Of so many packets none lost is none lost: the bound adds nothing, and costs are what one sees.
MANY = 50_000_000

COUNTRIES = {"ae-1": "ae", "de-1": "de", "hk-1": "hk", "kr-1": "kr", "sg-1": "sg"}
RTT_MS = {
    ("ae-1", "kr-1"): 396.0,
    ("ae-1", "sg-1"): 83.0,
    ("kr-1", "sg-1"): 120.0,
    ("ae-1", "hk-1"): 116.0,
    ("hk-1", "kr-1"): 116.0,
    ("hk-1", "sg-1"): 35.0,
    ("ae-1", "de-1"): 134.0,
    ("de-1", "kr-1"): 279.0,
    ("de-1", "sg-1"): 165.0,
    ("de-1", "hk-1"): 201.0,
}


def window(
    node: str,
    peer: str,
    rtt_ms: float | None,
    *,
    start: int = NOW - 20,
    loss: float = 0.0,
    jitter_ms: float | None = 0.0,
    sent: int = 50,
    seconds: int = 10,
) -> dict[str, Any]:
    """One closed mesh window as the store gives it."""
    rtt = None if rtt_ms is None else dict.fromkeys(("min", "p50", "p95", "p99"), rtt_ms)
    return {
        "node": node,
        "peer": peer,
        "start": start,
        "seconds": seconds,
        "sent": sent,
        "received": round(sent * (1 - loss)),
        "rtt_ms": rtt,
        "loss": loss,
        "loss_fwd": loss,
        "loss_back": loss,
        "jitter_fwd_ms": jitter_ms,
        "jitter_back_ms": jitter_ms,
    }


def windows(rtt_ms: Mapping[tuple[str, str], float] = RTT_MS) -> list[dict[str, Any]]:
    """A window for each direction of every pair."""
    return [window(*ends, rtt, sent=MANY) for (a, b), rtt in rtt_ms.items() for ends in ((a, b), (b, a))]


def small_fleet(zones: Sequence[Zone] = (), **options: Any) -> Fleet:
    return fleet(COUNTRIES, zones=zones, **options)


def decision(
    zones: Sequence[Zone] = (),
    *,
    rtt_ms: Mapping[tuple[str, str], float] = RTT_MS,
    in_force: Table | None = None,
    serial: int = 1,
    away: Sequence[str] = (),
    **options: Any,
) -> Decision:
    """The decision on the small fleet."""
    return decide(
        small_fleet(zones, **options),
        windows(rtt_ms),
        in_force=in_force,
        serial=serial,
        now_unix=NOW,
        away=away,
    )
