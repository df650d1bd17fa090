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
        entries = _body(folder, node)["links"]
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


def last_miles(folder: LabFolder, record: Record) -> dict[str, wan.LastMile]:
    """The last miles in force, by node."""
    found = {node: _body(folder, node).get("clients") for node in sorted(record.addresses)}
    return {node: wan.last_mile_of(rule) for node, rule in found.items() if rule is not None}


def set_last_mile(folder: LabFolder, record: Record, node: str, mile: wan.LastMile | None) -> bool:
    """Give the clients of this edge a last mile, or take it from them; whether that changed anything."""
    _known(record, node)
    body = _body(folder, node)
    before = body.pop("clients", None)
    after = None if mile is None else mile.entry()
    if after is not None:
        body["clients"] = after
    _write(folder, node, body)
    return bool(before != after)


def restore_last_miles(folder: LabFolder, record: Record, node: str | None) -> list[str]:
    """Take the last mile from one edge's clients, or (None) from all; the edges that had one."""
    if node is not None:
        return [node] if set_last_mile(folder, record, node, None) else []
    try:
        changed = list(last_miles(folder, record))
    except BadInput:
        return []  # a file that can not be read is written anew by `restore`
    for edge in changed:
        set_last_mile(folder, record, edge, None)
    return changed


def change(folder: LabFolder, record: Record, a: str, b: str, link: wan.Link) -> None:
    """Put `link` in force between `a` and `b`, in both directions."""
    for node, peer in ((a, b), (b, a)):
        body = _body(folder, node)
        body["links"][record.addresses[peer]] = wan.entry(link)
        _write(folder, node, body)


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
        _known(record, node)
    if a == b:
        raise Usage(f"{a} and {b} are the same node: a link has two ends")
    return frozenset({a, b})


def _known(record: Record, node: str) -> None:
    if node not in record.addresses:
        raise Usage(f'unknown node "{node}"; the lab has {", ".join(record.addresses)}')


def _body(folder: LabFolder, node: str) -> dict[str, Any]:
    path = folder.faults(node)
    try:
        body = json.loads(path.read_text())
        return {**body, "links": dict(body["links"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}:1: {error}", hint="commcli lab restore writes it anew") from None


def _write(folder: LabFolder, node: str, body: Mapping[str, object]) -> None:
    write_atomic(folder.faults(node), json.dumps(body, indent=1) + "\n")
