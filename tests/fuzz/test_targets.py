"""Hypothesis at every parser that a socket can reach, and what the coverage-guided runs have found so far."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.turn import stun
from tests.fuzz import inputs
from tests.fuzz.targets import SEEDS, TARGETS
from tests.relay.tables_on_disk import shard

ATTRIBUTES = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=8)
MESSAGES = st.builds(
    stun.build,
    st.integers(0, 0xFFF),
    st.integers(0, 3),
    st.binary(min_size=12, max_size=12),
    ATTRIBUTES,
    key=st.none() | st.binary(min_size=1, max_size=32),
    sha256=st.booleans(),
    fingerprint=st.booleans(),
)
CHANNEL_DATA = st.builds(
    lambda number, payload: (
        number.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload + bytes(-len(payload) & 3)
    ),
    st.integers(0x4000, 0x4FFF),
    st.binary(max_size=100),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def test_every_target_has_a_seed() -> None:
    assert SEEDS.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_finds_nothing(name: str) -> None:
    for data in [*SEEDS[name], *inputs.load(name)]:
        TARGETS[name](data)


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in inputs.FOLDER.iterdir()) < 100_000
    assert {path.stem for path in inputs.FOLDER.iterdir()} <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_any_bytes(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(st.binary(max_size=600)))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
def test_good_bytes_gone_bad(name: str, data: st.DataObject) -> None:
    """What once was good, damaged, cut and put together again."""
    pool = [*SEEDS[name], *inputs.load(name)[:50]]
    mixed = b"".join(data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3)))
    damaged = bytearray(mixed)
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(mixed) - 1), st.integers(0, 255)), max_size=6)
    ):
        damaged[position] = value
    TARGETS[name](bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


@given(MESSAGES)
def test_stun_messages(data: bytes) -> None:
    TARGETS["stun"](data)


@given(st.integers(0, 255), st.lists(MESSAGES | CHANNEL_DATA | st.binary(max_size=30), max_size=8))
def test_streams_of_messages(first: int, frames: list[bytes]) -> None:
    TARGETS["frames"](bytes([first]) + b"".join(frames))


@given(JSON)
def test_control_requests_of_any_shape(document: object) -> None:
    TARGETS["control"](json.dumps(document).encode() + b"\n")
    TARGETS["control"](json.dumps({"cmd": "drain", "sessions": document, "stop": document}).encode() + b"\n")
    TARGETS["control"](json.dumps({"cmd": "mesh", "since": document}).encode() + b"\n")


@given(st.sampled_from(sorted(shard(1))), JSON)
def test_shards_with_anything_anywhere(key: str, value: object) -> None:
    TARGETS["shard"](json.dumps({**shard(1), key: value}).encode())
    TARGETS["shard"](json.dumps({**shard(1), "nodes": {"ae-1": {key: value}}}).encode())
    TARGETS["shard"](json.dumps({**shard(1), "prefixes": {"203.0.113.0/24": value}}).encode())
    TARGETS["shard"](json.dumps(shard(1, carries=["kr-1 ae-1", value])).encode())


@given(st.sampled_from(["routes", "blocked", "carries", "nodes", "zones", "prefixes"]), JSON)
def test_numbered_shards_with_anything_anywhere(key: str, value: object) -> None:
    own, shared = (json.loads(part) for part in SEEDS["shard"][1].split(b"\0")[1:])
    (own if key in own else shared)[key] = value
    TARGETS["shard"](b"\0".join((b"", json.dumps(own).encode(), json.dumps(shared).encode())))
