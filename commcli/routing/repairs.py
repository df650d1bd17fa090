"""What the overlay was seen to repair, from the documents of probe calls. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from commcli.routing.estimate import Repair

# Protection follows the loss that it meets; what it did longer ago says little of today's.
MAX_AGE_S = 86_400.0


def of_calls(documents: Iterable[Mapping[str, Any]], *, now_unix: float) -> Iterator[Repair]:
    """(from, to, lost, repaired) of every overlay segment that a call of the last day was counted on, over all traffic
    of the segment meanwhile. Calls that nobody counted, or of another shape, give nothing.
    """
    for document in documents:
        if now_unix - document.get("unix", 0.0) > MAX_AGE_S:
            continue
        rows: dict[tuple[str, str], Mapping[str, Any] | None] = {}
        for direction in (document.get("directions") or {}).values():
            for path in (direction or {}).get("paths") or ():
                rows |= {(hop["from"], hop["to"]): hop.get("segment") for hop in path["hops"]}
        for (source, target), segment in rows.items():
            if segment and segment.get("lost") and segment.get("repaired") is not None:
                yield source, target, segment["lost"], segment["repaired"]
