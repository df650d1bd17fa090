"""Draws the documents of `commcli fleet`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commcli.report.terminal import grid, styled

Document = Mapping[str, Any]


def _draw_list(doc: Document) -> RenderableType:
    table = grid()
    for column in ("node", "region", "city", "country", "address", "state", "provider", "markets", "tags"):
        table.add_column(column, no_wrap=column in ("node", "region", "address", "state"))
    for node in doc["nodes"]:
        state = "" if node["state"] == "active" else "yellow"
        cells = (
            *(node["id"], node["region"], node["city"], node["country"], node["address"]),
            Text(node["state"], style=state),
            *(node["provider"], " ".join(node["markets"]), " ".join(node["tags"])),
        )
        # Text and not str: a name in brackets is a name, and no markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell or "-") for cell in cells))
    shown, whole = len(doc["nodes"]), doc["nodes_in_fleet"]
    some = f"{shown} of {whole} nodes" if shown != whole else f"{whole} nodes"
    return Group(table, Text(f"{doc['fleet']}: {some}", style="dim"))


def _draw_show(doc: Document) -> RenderableType:
    node = doc["node"]
    ssh, ports, capacity, prefixes = node["ssh"], node["ports"], node["capacity"], node["prefixes"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    jump = f" by way of {ssh['proxy_jump']}" if ssh["proxy_jump"] else ""
    rows = {
        "node": f"{node['id']} ({node['state']})",
        "stands in": f"{node['city']}, {node['country']}, {node['continent']} (region {node['region']})",
        "address": " and ".join(filter(None, (node["address"], node["address6"]))),
        "bound to": " and ".join(filter(None, (node["bind_address"], node["bind_address6"]))) or "the same",
        "ports": f"turn {ports['turn']}, overlay {ports['overlay']}, stamp {ports['stamp']}, "
        f"metrics {ports['metrics']}, relayed {ports['relay_low']}-{ports['relay_high']}, "
        + (f"tls {ports['tls']}" if ports["tls"] else "no tls"),
        "domain": node["domain"] or "-",
        "ssh": f"{ssh['user']}@{ssh['host']}:{ssh['port']}{jump}",
        "folder": node["base"],
        "probe python": node["probe_python"] or "-",
        "provider": node["provider"] or "-",
        "capacity": f"{_known(capacity['sessions'])} sessions, {_known(capacity['mbps'])} Mbit/s",
        "limits": _limits(node),
        "prefixes": f"nearest edge of {prefixes['nearest']}, a further one of {prefixes['further']}",
        "markets": " ".join(node["markets"]) or "- (transit only)",
        "tags": " ".join(node["tags"]) or "-",
        "variables": ", ".join(f"{key}={value}" for key, value in node["variables"].items()) or "-",
    }
    for label, text in rows.items():
        table.add_row(label, Text(str(text)))
    zones = [Text(f"zone {zone['id']}: {_rule(zone)}\n  {zone['reason']}") for zone in node["zones"]]
    return Group(table, *zones)


def _limits(node: Document) -> str:
    """Those that are set, with their units."""
    limits = node["limits"]
    words = (
        ("user_quota", "{} allocations a user"),
        ("total_quota", "{} allocations in all"),
        ("session_kbit_s", "{} kbit/s a session and direction"),
        ("node_mbit_s", "{} Mbit/s in all"),
    )
    said = [text.format(limits[key]) for key, text in words if limits[key] is not None]
    if node["workers"] is not None:
        said.append("a process a core" if node["workers"] == 0 else f"{node['workers']} processes")
    return ", ".join(said) or "-"


def _known(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _rule(zone: Document) -> str:
    one, other = (" ".join(side) for side in zone["between"])
    forbid = f"; never {' '.join(zone['forbid'])}" if zone["forbid"] else ""
    allow = f"; only {' '.join(zone['allow'])}" if zone["allow"] is not None else ""
    return f"between {one} and {other}{forbid}{allow}"


def _draw_check(doc: Document) -> RenderableType:
    counts = ", ".join(
        f"{count} {noun}" for noun, count in doc["counts"].items() if count or noun != "prefixes"
    )
    head = Text.assemble(styled("ok"), f"  {doc['fleet']}: {counts}")
    warnings = [Text.assemble(styled("warn"), f"  {warning}") for warning in doc["warnings"]]
    return Group(head, *warnings)


def _draw_trust(doc: Document) -> RenderableType:
    table = grid()
    for column in ("host", "state", "key", "fingerprint", "nodes"):
        table.add_column(column, no_wrap=column in ("host", "state", "fingerprint"))
    for host in doc["hosts"]:
        state = Text(host["state"], style="" if host["state"] in _TRUSTED else "bold red")
        keys = host["trusted"] or host["shows"] or [{"type": "-", "fingerprint": "-"}]
        for number, key in enumerate(keys):
            first = number == 0
            table.add_row(
                Text(host["host"] if first else ""),
                state if first else Text(),
                Text(key["type"]),
                Text(key["fingerprint"]),
                Text(_some(host["nodes"]) if first else ""),
            )
    reasons = [
        f"{host['host']}: {host['state']}: {host['reason']}" for host in doc["hosts"] if host["reason"]
    ]
    return Group(table, *(Text(reason) for reason in reasons))


_TRUSTED = ("known", "trusted", "replaced")


def _some(names: Sequence[str], most: int = 4) -> str:
    return " ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _draw_import(doc: Document) -> RenderableType:
    left = f", {len(doc['left_out'])} left out" if doc["left_out"] else ""
    head = Text.assemble(
        styled("warn" if left else "ok"), f"  {len(doc['nodes'])} nodes in {doc['to']}{left}"
    )
    return Group(head, *(Text(line) for line in doc["told"]))


DRAW: dict[str, Callable[[Document], RenderableType]] = {
    "list": _draw_list,
    "show": _draw_show,
    "check": _draw_check,
    "trust": _draw_trust,
    "import": _draw_import,
}
