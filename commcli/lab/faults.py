"""What the lab does to its network: each node's etc/faults.json, written whole and swapped in by one rename."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from commcli.errors import BadInput, Usage
from commcli.lab import wan
from commcli.lab.folder import LabFolder, Record, write_atomic


def figures(record: Record) -> dict[wan.Pair, wan.Link]:
    """The links as the lab sets them up: measured delay, synthetic loss and jitter."""
    text = resources.files("commcli.lab").joinpath("rtt.csv").read_text()
    try:
        return wan.links(record.cities, wan.parse(text))
    except KeyError as error:
        raise BadInput(
            f"the lab's WAN: {error.args[0]}; it knows the cities of the example inventory"
        ) from None


def current(folder: LabFolder, record: Record) -> dict[wan.Pair, wan.Link]:
    """The links as they are in force now, degraded ones included (each pair as its first node's egress has it)."""
    found: dict[wan.Pair, wan.Link] = {}
    addresses = record.addresses
    for node in sorted(addresses):
        entries = _read(folder, node)
        for peer in sorted(addresses):
            if peer > node and addresses[peer] in entries:
                found[frozenset({node, peer})] = wan.link_of(entries[addresses[peer]])
    return found


def write_all(folder: LabFolder, record: Record) -> None:
    """Set the whole network to its figures."""
    links = figures(record)
    for node in record.addresses:
        folder.faults(node).parent.mkdir(parents=True, exist_ok=True)
        _write(folder, node, wan.faults(node, record.addresses, links))


def change(folder: LabFolder, record: Record, a: str, b: str, link: wan.Link) -> None:
    """Put `link` in force between `a` and `b`, in both directions."""
    for node, peer in ((a, b), (b, a)):
        entries = _read(folder, node)
        entries[record.addresses[peer]] = wan.entry(link)
        _write(folder, node, {"links": entries})


def degrade(
    folder: LabFolder, record: Record, a: str, b: str, **figures: float | None
) -> tuple[wan.Link, wan.Link]:
    """Worsen one pair by the figures given (see wan.degraded); the link before and after."""
    pair = _pair(record, a, b)
    before = current(folder, record)[pair]
    after = wan.degraded(before, **figures)
    change(folder, record, a, b, after)
    return before, after


def restore(folder: LabFolder, record: Record, a: str | None, b: str | None) -> list[wan.Pair]:
    """Set one pair, or all, back to the lab's figures; the pairs that were different."""
    original = figures(record)
    if a is None or b is None:
        changed = _different(folder, record, original)
        write_all(folder, record)
        return changed
    pair = _pair(record, a, b)
    if current(folder, record).get(pair) == original[pair]:
        return []
    change(folder, record, a, b, original[pair])
    return [pair]


def _different(folder: LabFolder, record: Record, original: Mapping[wan.Pair, wan.Link]) -> list[wan.Pair]:
    """Pairs whose link is not the original one; all of them when a faults file can not be read."""
    try:
        now = current(folder, record)
    except BadInput:
        return list(original)
    return [pair for pair, link in original.items() if now.get(pair) != link]


def _pair(record: Record, a: str, b: str) -> wan.Pair:
    for node in (a, b):
        if node not in record.addresses:
            raise Usage(f'unknown node "{node}"; the lab has {", ".join(record.addresses)}')
    if a == b:
        raise Usage(f"{a} and {b} are the same node: a link has two ends")
    return frozenset({a, b})


def _read(folder: LabFolder, node: str) -> dict[str, Any]:
    path = folder.faults(node)
    try:
        links = json.loads(path.read_text())["links"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}:1: {error}", hint="commcli lab restore writes it anew") from None
    return dict(links)


def _write(folder: LabFolder, node: str, body: Mapping[str, object]) -> None:
    write_atomic(folder.faults(node), json.dumps(body, indent=1) + "\n")
