"""The lab's wide-area network as values: measured delays between cities, synthetic loss and jitter, faults
files.

Delay is real: `rtt.csv` holds rounded public city-to-city round-trip times and names their source. No
public matrix holds packet loss, so **loss and jitter here are synthetic**: a fixed function of the RTT, the
same on every run.

Pure: text and values in, values out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

Pair = frozenset[str]


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions between two nodes. `loss` 0..1 a packet and direction; `burst` = mean lost packets in
    a row.
    """

    rtt_ms: float
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: float = 1.0
    rate_kbit: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


MEMORY_MS = 200.0


@dataclass(frozen=True, slots=True)
class LastMile:
    """What every client of an edge has between itself and the edge, each way alike. All of it is synthetic.

    `delay_ms` is one way; `rate_kbit` counts IP and UDP headers; what would wait longer than `queue_ms` is dropped.
    A run of losses is over after a silence of MEMORY_MS, so that a request that is sent again is not lost by the same.
    """

    rate_kbit: float | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: float = 1.0
    queue_ms: float = 500.0

    def entry(self) -> dict[str, float | None]:
        """As faults.json has it."""
        return {**asdict(self), "memory_ms": MEMORY_MS}


def last_mile_of(entry: Mapping[str, float | None]) -> LastMile:
    """A faults.json entry back as a LastMile."""
    return LastMile(
        rate_kbit=entry.get("rate_kbit"),
        delay_ms=entry.get("delay_ms") or 0.0,
        jitter_ms=entry.get("jitter_ms") or 0.0,
        loss=entry.get("loss") or 0.0,
        burst=entry.get("burst") or 1.0,
        queue_ms=entry.get("queue_ms") or 0.0,
    )


#: Synthetic: the direct Dubai-Seoul path is made bad on purpose, so that a call over it suffers (2 % in
#: bursts of 3).
BAD_PAIRS: Mapping[Pair, tuple[float, float, float]] = {frozenset({"ae-1", "kr-1"}): (0.02, 3.0, 8.0)}

#: Synthetic: (RTT from, loss). Long paths cross more networks and lose more.
LOSS_BY_RTT = ((300.0, 0.004), (220.0, 0.002), (150.0, 0.001))


def parse(text: str) -> dict[Pair, float]:
    """`rtt.csv` -> RTT in ms by unordered pair of cities. Lines that start with '#' are comments."""
    rows = list(csv.reader(line for line in text.splitlines() if line and not line.startswith("#")))
    header = rows[0][1:]
    table: dict[Pair, float] = {}
    for city, *values in rows[1:]:
        for other, value in zip(header, values, strict=True):
            if other != city:
                table[frozenset({city, other})] = float(value)
    return table


def link(a: str, b: str, rtt_ms: float) -> Link:
    """The lab's link between nodes `a` and `b`: the measured RTT with synthetic loss and jitter."""
    if bad := BAD_PAIRS.get(frozenset({a, b})):
        loss, burst, jitter_ms = bad
        return Link(rtt_ms, jitter_ms, loss, burst)
    loss = next((loss for start, loss in LOSS_BY_RTT if rtt_ms >= start), 0.0)
    return Link(rtt_ms, jitter_ms=round(0.2 + rtt_ms / 200, 1), loss=loss)


def links(cities: Mapping[str, str], table: Mapping[Pair, float]) -> dict[Pair, Link]:
    """Every pair of nodes -> its link. `cities` maps node id to city; KeyError names a city without
    figures.
    """
    found: dict[Pair, Link] = {}
    nodes = sorted(cities)
    for position, a in enumerate(nodes):
        for b in nodes[position + 1 :]:
            pair = frozenset({cities[a], cities[b]})
            if pair not in table:
                raise KeyError(f"no RTT between {cities[a]} and {cities[b]}")
            found[frozenset({a, b})] = link(a, b, table[pair])
    return found


def faults(node: str, addresses: Mapping[str, str], wan: Mapping[Pair, Link]) -> dict[str, object]:
    """The body of `node`'s etc/faults.json: what its egress does to datagrams, by destination address.

    Each end delays what it sends by half the RTT, so that both directions together cost the whole.
    """
    entries = {}
    for peer, address in sorted(addresses.items()):
        if peer != node and (known := wan.get(frozenset({node, peer}))):
            entries[address] = entry(known)
    return {"links": entries}


def entry(link: Link) -> dict[str, float | None]:
    """One direction of `link`, as a faults.json entry."""
    return {
        "delay_ms": link.rtt_ms / 2, "jitter_ms": link.jitter_ms, "loss": link.loss,
        "burst": link.burst, "rate_kbit": link.rate_kbit,
    }  # fmt: skip


def degraded(
    link: Link,
    *,
    rtt_ms: float | None = None,
    loss: float | None = None,
    jitter_ms: float | None = None,
    burst: float | None = None,
    rate_kbit: float | None = None,
) -> Link:
    """`link` with the given figures replaced; None keeps what is."""
    wanted = {"rtt_ms": rtt_ms, "loss": loss, "jitter_ms": jitter_ms, "burst": burst, "rate_kbit": rate_kbit}
    given: dict[str, float] = {name: value for name, value in wanted.items() if value is not None}
    return replace(link, **given)


def link_of(entry: Mapping[str, float | None]) -> Link:
    """A faults.json entry back as a Link (the reverse of `entry`)."""
    return Link(
        rtt_ms=2 * (entry.get("delay_ms") or 0.0),
        jitter_ms=entry.get("jitter_ms") or 0.0,
        loss=entry.get("loss") or 0.0,
        burst=entry.get("burst") or 1.0,
        rate_kbit=entry.get("rate_kbit"),
    )


def one_relay(a: str, b: str, nodes: Iterable[str], wan: Mapping[Pair, Link]) -> list[tuple[float, str]]:
    """RTT in ms of every path a-relay-b that is known, best first: what a planner may find here."""
    found = []
    for relay in nodes:
        first, second = wan.get(frozenset({a, relay})), wan.get(frozenset({relay, b}))
        if relay not in (a, b) and first and second:
            found.append((first.rtt_ms + second.rtt_ms, relay))
    return sorted(found)
