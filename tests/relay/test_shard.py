"""Every word of refusal, from a good table changed in one place."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.overlay.wire import node_number
from commcli.relay.table.shard import Route, Shard, ShardRefused, load

Document = dict[str, Any]
CREATED, EXPIRES = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
JAN_1 = 1767225600.0
NOON = JAN_1 + 12 * 3600


def _node(country: str | None, *markets: str) -> Document:
    address = f"192.0.2.{len(country or '') + sum(map(ord, ''.join(markets))) % 200}"
    return {
        "address": address, "overlay_port": 3479, "relay_ports": [40000, 42000], "country": country,
        "markets": list(markets),
    }  # fmt: skip


def good_shard() -> Document:
    return {
        "schema": 1, "serial": 7, "node": "ae-1", "created": CREATED, "expires": EXPIRES,
        "nodes": {
            "ae-1": _node("ae", "ae"), "kr-1": _node("kr", "kr"), "sg-1": _node("sg", "sg", "cn"),
            "hk-1": {
                **_node("hk", "cn"), "address6": "2001:db8::1", "turn_port": 3478, "tls_port": 443,
                "domain": "hk-1.relay.example",
            },
            "us-1": _node("us", "us"),
        },
        "zones": [
            {"id": "no-us", "between": [["ae"], ["kr"]], "forbid": ["us"], "allow": None},
            {"id": "asia", "between": [["ae"], ["sg"]], "forbid": [], "allow": ["ae", "sg", "hk"]},
        ],
        "routes": {
            "kr-1": {
                "primary": ["ae-1", "sg-1", "kr-1"], "backup": ["ae-1", "hk-1", "kr-1"],
                "last_resort": ["ae-1", "kr-1"],
            },
            "sg-1": {"primary": ["ae-1", "sg-1"], "backup": None, "last_resort": None},
        },
        "blocked": ["us-1"],
        "prefixes": {"203.0.113.0/24": ["hk-1", "sg-1"], "2001:db8::/32": ["hk-1"]},
        "carries": ["hk-1 ae-1", "kr-1 sg-1 ae-1", "sg-1 ae-1 hk-1 us-1"],
    }  # fmt: skip


def good_manifest() -> Document:
    return {
        "schema": 1, "fleet": "test", "serial": 7, "created": CREATED, "expires": EXPIRES,
        "inputs": {"measurements": "0" * 64, "policy": "0" * 64}, "shards": {},
    }  # fmt: skip


def read(shard: Document | bytes, manifest: Document | None = None, **changes: Any) -> Shard:
    body = shard if isinstance(shard, bytes) else json.dumps(shard).encode()
    front = copy.deepcopy(manifest) if manifest is not None else good_manifest()
    if isinstance(front.get("shards"), dict):
        front["shards"].setdefault("ae-1", hashlib.sha256(body).hexdigest())
    arguments = {"node": "ae-1", "unix": NOON, "highest_serial": 7, **changes}
    return load(json.dumps(front).encode(), body, **arguments)


def word(call: Callable[[], Shard]) -> str:
    with pytest.raises(ShardRefused) as caught:
        call()
    assert str(caught.value).startswith(caught.value.reason + ": ")
    assert caught.value.detail
    return caught.value.reason


def test_a_good_shard_becomes_values() -> None:
    shard = read(good_shard())
    assert (shard.serial, shard.node, shard.expires, shard.expires_unix) == (
        7,
        "ae-1",
        EXPIRES,
        JAN_1 + 86400,
    )
    assert shard.routes["kr-1"] == Route(("ae-1", "sg-1", "kr-1"), ("ae-1", "hk-1", "kr-1"), ("ae-1", "kr-1"))
    assert shard.routes["sg-1"].paths() == [("primary", ("ae-1", "sg-1"))]
    assert shard.nodes["sg-1"].markets == {"sg", "cn"}
    assert shard.nodes["sg-1"].relay_ports == (40000, 42000)
    assert shard.zones[0].allow is None
    assert shard.zones[1].allow == frozenset({"ae", "sg", "hk"})
    assert shard.blocked == {"us-1"}
    hk = shard.nodes["hk-1"]
    assert (hk.address6, hk.turn_port, hk.tls_port, hk.domain) == (
        "2001:db8::1",
        3478,
        443,
        "hk-1.relay.example",
    )
    assert shard.prefixes.look_up("203.0.113.7") == ("hk-1", "sg-1")
    assert shard.carries == frozenset(
        [("hk-1", "ae-1"), ("kr-1", "sg-1", "ae-1"), ("sg-1", "ae-1", "hk-1", "us-1")]
    )


def test_a_table_from_before_front_doors_and_prefixes_loads() -> None:
    old = good_shard()
    del old["prefixes"]
    old["nodes"]["hk-1"] = _node("hk", "cn")
    shard = read(old)
    assert (shard.nodes["hk-1"].turn_port, len(shard.prefixes)) == (None, 0)


def test_what_probes_may_use_is_nothing_and_every_relay_unless_it_is_said() -> None:
    shard = read(good_shard())
    assert shard.probe_kbit_s == 0
    assert all(node.transit for node in shard.nodes.values())
    assert read(_with("probe_kbit_s", 4000)).probe_kbit_s == 4000
    assert not read(_with("nodes.sg-1.transit", False)).nodes["sg-1"].transit


def test_a_table_that_does_not_say_what_is_carried_is_told_from_one_that_carries_nothing() -> None:
    assert read(_with("carries", "-")).carries is None
    assert read(_with("carries", [])).carries == frozenset()


def _with(path: str, value: object) -> Document:
    """A good shard with one place changed; a '-' deletes it."""
    shard = good_shard()
    *parents, last = path.split(".")
    place: Any = shard
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    if value == "-":
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return shard


LONG = ["ae-1", "sg-1", "hk-1", "us-1", "kr-1"]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("node", "kr-1", "node"),
        ("nodes.ae-1", "-", "node"),
        ("serial", 8, "serial"),
        ("expires", "2026-01-01T11:00:00Z", "expired"),
        ("routes.kr-1.primary", LONG, "path"),
        ("routes.kr-1.backup", LONG, "path"),
        ("routes.kr-1.last_resort", LONG, "path"),
        ("routes.kr-1.backup", ["ae-1", "hk-1", "hk-1", "kr-1"], "path"),
        ("routes.kr-1.backup", ["ae-1", "ae-1", "kr-1"], "path"),
        ("routes.kr-1.primary", ["sg-1", "kr-1"], "path"),
        ("routes.kr-1.primary", ["ae-1", "sg-1"], "path"),
        ("routes.kr-1.primary", ["kr-1"], "path"),
        ("routes.kr-1.primary", [], "path"),
        ("routes.kr-1.primary", ["ae-1", "xx-1", "kr-1"], "path"),
        ("routes.xx-1", {"primary": ["ae-1", "xx-1"]}, "path"),
        ("routes.ae-1", {"primary": ["ae-1"]}, "path"),
        ("routes.kr-1.primary", ["ae-1", "us-1", "kr-1"], "zone"),
        ("routes.kr-1.backup", ["ae-1", "us-1", "kr-1"], "zone"),
        ("routes.kr-1.last_resort", ["ae-1", "us-1", "kr-1"], "zone"),
        ("routes.sg-1.primary", ["ae-1", "kr-1", "sg-1"], "zone"),
        ("nodes.hk-1.country", None, "zone"),
        ("schema", 2, "shape"),
        ("schema", True, "shape"),
        ("schema", "-", "shape"),
        ("serial", "7", "shape"),
        ("serial", True, "shape"),
        ("serial", 1 << 32, "shape"),
        ("created", "yesterday", "shape"),
        ("expires", "2026-01-02T00:00:00", "shape"),
        ("expires", "2026-01-02T00:00:00+01:00Z", "shape"),
        ("expires", 5, "shape"),
        ("surprise", 1, "shape"),
        ("nodes", [], "shape"),
        ("nodes.sg-1", 3, "shape"),
        ("nodes.\ud800", {}, "shape"),  # JSON can name what no encoding can
        ("nodes.Sg 1\x1b[2J", {}, "shape"),
        ("nodes.sg-1.address", "relay.example", "shape"),
        ("nodes.sg-1.overlay_port", 0, "shape"),
        ("nodes.sg-1.overlay_port", 65536, "shape"),
        ("nodes.sg-1.overlay_port", False, "shape"),
        ("nodes.sg-1.relay_ports", [42000, 40000], "shape"),
        ("nodes.sg-1.relay_ports", [40000], "shape"),
        ("nodes.sg-1.country", 1, "shape"),
        ("nodes.sg-1.country", "", "shape"),
        ("nodes.sg-1.markets", "sg", "shape"),
        ("nodes.sg-1.markets", [1], "shape"),
        ("nodes.sg-1.colour", "red", "shape"),
        ("zones", {}, "shape"),
        ("zones.0.require", ["ae"], "shape"),
        ("zones.0.between", [["ae"]], "shape"),
        ("zones.0.between", [["ae"], []], "shape"),
        ("zones.0.between", "ae", "shape"),
        ("zones.0.forbid", "-", "shape"),
        ("zones.0.forbid", "us", "shape"),
        ("zones.0.allow", "us", "shape"),
        ("zones.1.id", "no-us", "shape"),
        ("routes", "-", "shape"),
        ("routes.kr-1.primary", None, "shape"),
        ("routes.kr-1.primary", "-", "shape"),
        ("routes.kr-1.primary", "ae-1", "shape"),
        ("routes.kr-1.primary", ["ae-1", 5], "shape"),
        ("routes.kr-1.spare", None, "shape"),
        ("blocked", None, "shape"),
        ("blocked", [None], "shape"),
        ("nodes.sg-1.turn_port", 0, "shape"),
        ("nodes.sg-1.turn_port", None, "shape"),
        ("nodes.sg-1.tls_port", 443, "shape"),  # without a turn_port it takes nobody
        ("nodes.sg-1.domain", "sg-1.relay.example", "shape"),
        ("nodes.hk-1.tls_port", 3478, "shape"),  # its turn_port
        ("nodes.hk-1.tls_port", "443", "shape"),
        ("nodes.hk-1.domain", "", "shape"),
        ("nodes.hk-1.domain", "hk-1 relay", "shape"),
        ("nodes.hk-1.domain", "x" * 64 + ".example", "shape"),
        ("nodes.hk-1.domain", ".".join(["x" * 60] * 5), "shape"),
        ("nodes.hk-1.address6", "192.0.2.9", "shape"),
        ("nodes.hk-1.address6", None, "shape"),
        ("nodes.hk-1.address", "2001:db8::1", "shape"),  # two of one family
        ("prefixes", None, "shape"),
        ("prefixes", [], "shape"),
        ("prefixes", {"192.0.2.1/24": ["hk-1"]}, "shape"),
        ("prefixes", {"192.0.2.0/24": "hk-1"}, "shape"),
        ("prefixes", {"192.0.2.0/24": []}, "shape"),
        ("prefixes", {"192.0.2.0/24": [["hk-1"]]}, "shape"),
        ("prefixes", {"192.0.2.0/24": ["hk-1", "hk-1"]}, "shape"),
        ("prefixes", {"192.0.2.0/24": ["xx-1"]}, "shape"),
        ("prefixes", {"\ud800\x1b[2J": ["hk-1"]}, "shape"),
        *(("probe_kbit_s", value, "shape") for value in (None, -1, 4e3, "4000", True, 1_000_001)),
        ("nodes.sg-1.transit", None, "shape"),
        ("nodes.sg-1.transit", 0, "shape"),
        ("carries", None, "shape"),
        ("carries", {}, "shape"),
        ("carries", "hk-1 ae-1", "shape"),
        ("carries", [["hk-1", "ae-1"]], "shape"),
        ("carries", ["hk-1 ae-1", "hk-1 ae-1"], "shape"),
        ("carries", [""], "path"),
        ("carries", ["hk-1"], "path"),
        ("carries", ["hk-1  ae-1"], "path"),
        ("carries", ["hk-1 ae-1 "], "path"),
        ("carries", ["ae-1 hk-1"], "path"),  # our own row
        ("carries", ["kr-1 hk-1"], "path"),  # without us
        ("carries", ["xx-1 ae-1"], "path"),
        ("carries", ["kr-1 \x1b[2J ae-1"], "path"),
        ("carries", ["hk-1 sg-1 hk-1 ae-1"], "path"),
        ("carries", ["hk-1 ae-1 sg-1 us-1 kr-1"], "path"),
        ("carries", ["kr-1 us-1 ae-1"], "zone"),
        ("carries", ["sg-1 ae-1 kr-1", "sg-1 kr-1 ae-1"], "zone"),
    ],
)
def test_a_shard_wrong_in_one_place(path: str, value: object, reason: str) -> None:
    assert word(lambda: read(_with(path, value))) == reason


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("serial", 6, "serial"),
        ("serial", 8, "serial"),  # the shard says 7
        ("serial", 0, "shape"),
        ("expires", "2026-01-01T12:00:00Z", "expired"),
        ("expires", "soon", "shape"),
        ("created", None, "shape"),
        ("shards", {"ae-1": "0" * 64}, "hash"),
        ("shards", {"ae-1": None}, "hash"),
        ("shards", [], "shape"),
        ("schema", 0, "shape"),
        ("also", 0, "shape"),
    ],
)
def test_a_manifest_wrong_in_one_place(key: str, value: object, reason: str) -> None:
    assert word(lambda: read(good_shard(), {**good_manifest(), key: value})) == reason


def test_what_a_refusal_quotes_can_be_printed() -> None:
    for name in ("\ud800", "\x1b[2J", "\n", "x" * 10_000):
        with pytest.raises(ShardRefused) as caught:
            read(_with("routes.kr-1.primary", ["ae-1", name, "kr-1"]))
        assert caught.value.detail.isprintable()
        assert len(str(caught.value)) < 500


def test_another_nodes_table_is_refused() -> None:
    assert word(lambda: read(good_shard(), node="kr-1")) == "node"


def test_serials_only_grow_and_a_restart_reads_the_same_one() -> None:
    assert word(lambda: read(good_shard(), highest_serial=8)) == "serial"
    assert read(good_shard(), highest_serial=0).serial == read(good_shard(), highest_serial=7).serial == 7


def test_it_expires_to_the_second() -> None:
    assert read(good_shard(), unix=JAN_1 + 86399.9).serial == 7
    assert word(lambda: read(good_shard(), unix=JAN_1 + 86400)) == "expired"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"7", b'{"schema": 1, "schema": 1}', b'{"schema": NaN}',
        b"[" * 100_000, b'{"schema":' * 5000, b"1" * 5000,
    ],
)  # fmt: skip
def test_not_even_json(body: bytes) -> None:
    assert word(lambda: read(body)) == "shape"


@given(st.integers(0, 10_000))
def test_a_truncated_shard_never_loads(cut: int) -> None:
    whole = json.dumps(good_shard()).encode()
    half = whole[: cut % len(whole)]
    assert word(lambda: read(half)) == "shape"  # also where somebody signed the half
    front = good_manifest()
    front["shards"]["ae-1"] = hashlib.sha256(whole).hexdigest()
    assert word(lambda: read(half, front)) == "hash"


def test_too_long_to_parse() -> None:
    assert word(lambda: read(b" " * (16 << 20) + b"{}")) == "shape"


def test_two_nodes_with_one_number() -> None:
    twins: dict[int, str] = {}
    for place in range(400_000):
        name = f"n{place}"
        other = twins.setdefault(node_number(name), name)
        if other != name:
            break
    else:
        pytest.fail("no two of them share a number: look further")
    shard = good_shard()
    shard["nodes"][name] = shard["nodes"][other] = _node("us")
    assert word(lambda: read(shard)) == "shape"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(place for key, child in inner for place in _places(child, (*at, key)))]


@given(st.data(), JSON)
def test_whatever_stands_anywhere_only_a_refusal_comes_of_it(data: st.DataObject, anything: Any) -> None:
    shard = good_shard()
    *parents, last = data.draw(st.sampled_from(_places(shard)[1:]))
    place: Any = shard
    for key in parents:
        place = place[key]
    if isinstance(place, dict) and isinstance(anything, str) and data.draw(st.booleans()):
        place[anything] = place.pop(last)  # another key
    else:
        place[last] = anything
    try:
        loaded = read(shard)
    except ShardRefused as refused:
        assert refused.reason in ("expired", "node", "shape", "path", "serial", "zone")
    else:
        for egress, route in loaded.routes.items():
            for _, path in route.paths():
                assert (path[0], path[-1]) == ("ae-1", egress)
                assert len(set(path)) == len(path) <= 4
