"""regions.yaml and markets.yaml: where nodes stand, and where users are."""

from __future__ import annotations

from collections.abc import Collection

from commcli.fleet.countries import COUNTRIES
from commcli.fleet.model import Market, Region
from commcli.fleet.record import Record

CONTINENTS = ("africa", "antarctica", "asia", "europe", "north-america", "oceania", "south-america")


def read_regions(table: Record) -> dict[str, Region]:
    """The regions by id."""
    return {key: _region(key, record) for key, record in table.entries("region")}


def _region(key: str, record: Record) -> Region:
    region = Region(
        id=key,
        city=record.text("city"),
        country=record.word("country", COUNTRIES, "country"),
        continent=record.word("continent", CONTINENTS, "continent"),
        lat=record.number_or("lat", None, -90, 90),
        lon=record.number_or("lon", None, -180, 180),
    )
    if record.has("lat") != record.has("lon"):
        record.problem("lat and lon come together or not at all")
    record.finish()
    return region


def read_markets(table: Record, node_ids: Collection[str] | None) -> dict[str, Market]:
    """The markets by id, which is their country's code."""
    return {key: _market(key, record, node_ids) for key, record in table.entries("market")}


def _market(key: str, record: Record, node_ids: Collection[str] | None) -> Market:
    record.check(key, COUNTRIES, "country")
    market = Market(id=key, name=record.text("name"), edges=record.words("edges", node_ids, "node"))
    if record.is_empty("edges"):
        record.problem("edges must name at least one node, here or abroad", key="edges")
    record.finish()
    return market
