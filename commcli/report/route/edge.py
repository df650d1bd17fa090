"""Draws what `commcli route edge` answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from commcli.report.terminal import STYLES, ms, percent

Document = Mapping[str, Any]

_NO_ROW = {
    "former": "a row of that table: the inventory of today says otherwise",
    "unknown": "and why is not known today",
    "not-yet": "that of today is newer",
    "no-database": "no GeoIP database is named",
    "no-country": "GeoIP names no country for {network}",
    "no-market": "GeoIP puts {network} into {country}, which is no market",
    "family": "GeoIP puts {network} into {country}, whose edges have no address of that family",
    "left-out": "GeoIP puts {network} into {country}; it had no room in the map (geoip: networks in fleet.yaml)",
}


def edge(doc: Document) -> RenderableType:
    return Group(_head(doc), *_body(doc))


def _head(doc: Document) -> Text:
    ip = doc["ip"]
    if doc["fleet_node"]:
        return Text(f"{ip} is {doc['fleet_node']} itself: relays never send a node elsewhere", STYLES["warn"])
    if doc["edge"] is None:
        return Text(f"{ip} stays at the edge that it comes to", STYLES["warn"])
    text = Text(f"{ip} gets {doc['edge']}", STYLES["ok"])
    return text if doc["in_force"] else text.append(", once a table is published", STYLES["warn"])


def _body(doc: Document) -> Iterator[Text]:
    now, after = doc["in_force"], doc["next"]
    if now is not None:
        expired = ", expired" if now["expired"] else ""
        yield from _table(doc, now, f"table {now['serial']} of {now['created']}{expired}")
        if doc["differs"]:
            yield Text(f"the next table: {after['edge'] or 'no edge'}", STYLES["warn"])
            yield from _table(doc, after, "next table")
    elif after is not None:
        yield from _table(doc, after, "next table, none is in force")
    for line in doc["trouble"]:
        yield Text(f"the next table is not known: {line}", STYLES["warn"])
    if doc["hint"] and not doc["fleet_node"]:
        yield Text(doc["hint"], "dim")
    if doc["advice"]:
        yield Text(f"nearest by the map, as advice: {doc['advice']['edge']}, {doc['advice']['why']}", "dim")
    if doc["map"]:
        yield Text(_counts(doc["map"]), "dim")


def _table(doc: Document, verdict: Document, name: str) -> Iterator[Text]:
    """Why one table sends the client there, and who is next in the row."""
    prefix = verdict["prefix"]
    if prefix is None:
        yield Text(f"  {name}: no row holds it; {_why(doc, verdict)}")
        return
    yield Text(f"  {name}: {prefix}, {_why(doc, verdict)}")
    names = [
        each["node"] for each in verdict["edges"] if not each["barrier"] and each["node"] != verdict["edge"]
    ]
    yield Text(f"  then {', '.join(names)}" if names else "  no other edge of its row takes it")
    for each in verdict["edges"]:
        if each["barrier"]:
            yield Text(f"  passed over: {each['node']} {each['barrier']}", STYLES["warn"])


def _why(doc: Document, verdict: Document) -> str:
    words = _NO_ROW.get(verdict["why"])
    if words is not None:
        place = doc["geoip"] or {"network": doc["ip"], "country": None}
        return words.format(**place)
    if verdict["why"] == "explicit":
        return "written in prefixes.yaml"
    figures = ", ".join(
        f"{each['edge']} {ms(each['rtt_ms'], 1)} ms ({each['samples']} samples, {each['day']})"
        for each in verdict["measured"]
    )
    if verdict["why"] == "measured":
        return f"market {verdict['market']} by measured last mile: {figures}"
    order = f"by measured last mile: {figures}" if figures else "in the inventory's order"
    network = doc["geoip"]["network"] if doc["geoip"] else "it"
    return f"GeoIP puts {network} into {verdict['market']}: the edges of that market {order}"


def _counts(counts: Document) -> str:
    parts = [f"{counts[layer]} {layer}" for layer in ("explicit", "measured", "geoip")]
    text = f"client networks of today: {', '.join(parts)}"
    if counts["left_out"]:
        kept = ", ".join(
            f"{percent(share)} of {family.replace('ip', 'IP')}"
            for family, share in counts["kept_share"].items()
        )
        text += f"; {counts['left_out']} small ones left out ({kept} of the markets' addresses kept)"
    return text
