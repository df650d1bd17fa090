"""`lab status`: which hosts answer, what runs on each, and which links are not as they were set up."""

from __future__ import annotations

from typing import Any

from commcli.lab import control, faults, processes, wan
from commcli.lab.folder import LabFolder, Record


def status(folder: LabFolder, record: Record) -> dict[str, Any]:
    """{"hosts": pid | None, "nodes": [{"node", "city", "address", "ssh", "relay", "processes"}], "degraded": [...],
    "last_miles": [...]}
    """
    answer = control.running(folder)
    found = processes.find(folder.path)
    nodes = []
    for place in record.places:
        own = [process for process in found if process.node == place.node]
        nodes.append({
            "node": place.node, "city": place.city, "address": place.address,
            "ssh": bool(answer and answer["nodes"].get(place.node)),
            "relay": any("relay.pyz" in process.command for process in own),
            "processes": len(own),
        })  # fmt: skip
    return {
        "hosts": answer["pid"] if answer else None,
        "nodes": nodes,
        "degraded": _degraded(folder, record),
        "last_miles": [
            {"node": node, **mile.entry()} for node, mile in faults.last_miles(folder, record).items()
        ],
    }


def links(folder: LabFolder, record: Record) -> list[dict[str, Any]]:
    """Every link in force, for those who compare measurements with what was set."""
    now = faults.current(folder, record)
    return [_row(pair, link) for pair, link in sorted(now.items(), key=lambda item: sorted(item[0]))]


def _degraded(folder: LabFolder, record: Record) -> list[dict[str, Any]]:
    original, now = faults.figures(record), faults.current(folder, record)
    return [_row(pair, now[pair]) for pair in now if now[pair] != original[pair]]


def _row(pair: wan.Pair, link: wan.Link) -> dict[str, Any]:
    return {"pair": sorted(pair), **link.as_dict()}
