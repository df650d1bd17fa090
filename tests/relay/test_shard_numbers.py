"""Tables of schema 2: what all shards share apart, and nodes as numbers. What they have in common with schema 1 is in
test_shard.py.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from commcli.relay.table.shard import SHARED, Route, Shard, ShardRefused, load, load_shared
from tests.relay.test_shard import NOON, good_manifest, good_shard, read, word

Document = dict[str, Any]
IDS = ["ae-1", "hk-1", "kr-1", "sg-1", "us-1"]
AE, HK, KR, SG, US = range(5)


def good() -> tuple[Document, Document]:
    """(shared part, shard): the table of test_shard.py."""
    old = good_shard()
    shared = {"schema": 2, **{key: old[key] for key in ("nodes", "zones", "prefixes")}}
    shard = {
        "schema": 2, "serial": 7, "node": "ae-1", "blocked": [US],
        "routes": {
            "primary": [[AE, SG, KR], [AE, SG]], "backup": [[AE, HK, KR]], "last_resort": [[AE, KR]],
        },
        "carries": [[HK, AE], [KR, SG, AE], [SG, AE, HK, US]],
    }  # fmt: skip
    return shared, shard


def put(shared: Document, shard: Document, digests: Document | None = None, /, **changes: Any) -> Shard:
    bodies = {"ae-1": json.dumps(shard).encode(), SHARED: json.dumps(shared).encode()}
    front = {**good_manifest(), "schema": 2}
    front["shards"] = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()} | (
        digests or {}
    )
    arguments = {"node": "ae-1", "unix": NOON, "highest_serial": 7, "shared": bodies[SHARED], **changes}
    return load(json.dumps(front).encode(), bodies["ae-1"], **arguments)


def test_numbers_say_what_names_said() -> None:
    shard, old = put(*good()), read(good_shard())
    assert (shard.routes, shard.blocked, shard.carries) == (old.routes, old.blocked, old.carries)
    assert (shard.nodes, shard.zones, shard.serial, shard.expires_unix) == (
        old.nodes,
        old.zones,
        old.serial,
        old.expires_unix,
    )
    assert shard.routes["sg-1"] == Route(("ae-1", "sg-1"), None, None)


def test_the_shared_part_can_be_parsed_once_for_all() -> None:
    shared, shard = good()
    parsed = load_shared(json.dumps(shared).encode())
    assert parsed.ids == tuple(IDS)
    assert put(shared, shard, shared=parsed).routes == put(shared, shard).routes
    other = load_shared(json.dumps({**shared, "zones": []}).encode())
    assert word(lambda: put(shared, shard, shared=other)) == "hash"


LONG = [AE, SG, HK, US, KR]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("routes.primary", [[AE, SG, KR], [AE, SG], [AE, HK, KR]], "shape"),  # two to one egress
        ("routes.primary", [[AE, SG]], "shape"),  # a backup of nothing
        ("routes.primary", [[AE, SG, KR], [AE, SG], []], "shape"),
        ("routes.primary", {}, "shape"),
        ("routes.primary", "-", "shape"),
        ("routes.primary", [AE, SG, KR], "shape"),
        ("routes.primary", [["ae-1", "sg-1", "kr-1"]], "shape"),
        ("routes.primary", [[AE, True, KR]], "shape"),
        ("routes.primary", [[AE, 3.0, KR]], "shape"),
        ("routes.primary", [[AE, None, KR]], "shape"),
        ("routes.primary", [[AE, [SG], KR]], "shape"),
        ("routes.spare", [], "shape"),
        ("routes", [], "shape"),
        ("routes", "-", "shape"),
        ("routes.primary", [[AE, 5, KR]], "path"),
        ("routes.primary", [[AE, -1, KR]], "path"),
        ("routes.primary", [LONG], "path"),
        ("routes.primary", [[AE], [AE, SG, KR], [AE, SG]], "path"),
        ("routes.backup", [LONG], "path"),
        ("routes.last_resort", [[AE, HK, HK, KR]], "path"),
        ("routes.primary", [[SG, KR], [AE, SG]], "path"),
        ("routes.backup", [[AE, US, KR]], "zone"),
        ("blocked", [True], "shape"),
        ("blocked", [[US]], "shape"),
        ("blocked", ["us-1"], "shape"),
        ("blocked", [9], "path"),
        ("blocked", "-", "shape"),
        ("carries", "-", "shape"),
        ("carries", ["hk-1 ae-1"], "shape"),
        ("carries", [[HK, AE], [HK, AE]], "shape"),
        ("carries", [[HK, 1.0]], "shape"),
        ("carries", [[]], "path"),
        ("carries", [[AE, HK]], "path"),  # our own row
        ("carries", [[KR, HK]], "path"),  # without us
        ("carries", [[HK, AE, 99]], "path"),
        ("carries", [[HK, SG, HK, AE]], "path"),
        ("carries", [[KR, US, AE]], "zone"),
        ("nodes", {}, "shape"),
        ("expires", "2026-01-02T00:00:00Z", "shape"),
        ("schema", 1, "shape"),
        ("serial", 8, "serial"),
        ("node", "kr-1", "node"),
    ],
)
def test_a_shard_wrong_in_one_place(path: str, value: object, reason: str) -> None:
    shared, shard = good()
    assert word(lambda: put(shared, _changed(shard, path, value))) == reason


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("nodes.ae-1", "-", "path"),  # all numbers stand for others then
        ("nodes.sg-1.overlay_port", 0, "shape"),
        ("zones", {}, "shape"),
        ("zones.1.id", "no-us", "shape"),
        ("prefixes", {"192.0.2.1/24": ["hk-1"]}, "shape"),
        ("probe_kbit_s", True, "shape"),
        ("serial", 7, "shape"),
        ("schema", 1, "shape"),
        ("schema", 2.0, "shape"),
    ],
)
def test_a_shared_part_wrong_in_one_place(path: str, value: object, reason: str) -> None:
    shared, shard = good()
    assert word(lambda: put(_changed(shared, path, value), shard)) == reason


def test_what_the_manifest_does_not_name_is_not_read() -> None:
    shared, shard = good()
    assert word(lambda: put(shared, shard, {SHARED: "0" * 64})) == "hash"
    assert word(lambda: put(shared, shard, {"ae-1": "0" * 64})) == "hash"
    assert word(lambda: put(shared, shard, shared=b"")) == "hash"
    assert word(lambda: put(shared, shard, node=SHARED)) == "node"
    with pytest.raises(ShardRefused, match="shape"):
        load_shared(b"[]")


def _changed(document: Document, path: str, value: object) -> Document:
    changed = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: Any = changed
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    if value == "-":
        del place[last]
    else:
        place[last] = value
    return changed
