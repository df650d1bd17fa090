"""The probe call through a canary that carries none."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.cli.route.watching import MARK, called, pair_of
from commcli.errors import BadInput, LockHeld
from commcli.fleet import Fleet
from commcli.fleet.probing import ProbePair, Probes
from commcli.remote.ssh import Pool
from commcli.routing.change import Change
from commcli.routing.watch import Seen
from commcli.store.sqlite import Store
from tests.routing.worlds import small_fleet

PAIR = ProbePair("ae", "kr", 300)


def fleet(*pairs: ProbePair, without: str = "") -> Fleet:
    bare = small_fleet()
    nodes = {
        name: replace(node, probe_python=None if name == without else "/usr/bin/python3")
        for name, node in bare.nodes.items()
    }
    return replace(bare, nodes=nodes, probing=Probes(pairs))


def test_a_pair_with_the_canary_as_an_edge() -> None:
    known = fleet(ProbePair("de", "sg", 300), PAIR, ProbePair("kr", "sg", 300))
    assert pair_of(known, known.nodes["kr-1"]) == PAIR
    assert pair_of(known, known.nodes["hk-1"]) is None
    bare = fleet(PAIR, without="ae-1")
    assert pair_of(bare, bare.nodes["kr-1"]) is None, "no call can be made at its other end"
    assert pair_of(replace(known, probing=BadInput("probes.yaml:1: ...")), known.nodes["kr-1"]) is None


def document(verdict: str, **changes: Any) -> dict[str, Any]:
    return {
        "unix": time.time() - 60,
        "from": {"node": "ae-1", "market": "ae"},
        "to": {"node": "kr-1", "market": "kr"},
        "profile": "sd",
        "transport": "udp",
        "direct": False,
        "plain": False,
        "via": None,
        "valid": True,
        "connected": True,
        "verdict": verdict,
        "reasons": ["MOS 1.2"],
        **changes,
    }


async def through(tmp_path: Path, told: Mapping[str, Any] | LockHeld, *earlier: tuple[str, str]) -> Seen:
    """What a call that ends so says, after these earlier ones (verdict, part of which run)."""

    async def make_call(*_: object) -> Mapping[str, Any]:
        if isinstance(told, LockHeld):
            raise told
        return told

    with Store(tmp_path / "db") as store:
        for verdict, run in earlier:
            store.record_call(document(verdict), run=run)
        pool = cast(Pool, None)
        return await called(Change("route apply", fleet(PAIR), store, pool, side=_NOBODY), PAIR, make_call)


_NOBODY = cast(Any, object())
BAD = "probe call ae to kr is bad: MOS 1.2"


@pytest.mark.parametrize(
    ("verdict", "earlier", "words", "is_bad"),
    [
        ("good", [], "it carries no calls; probe call ae to kr: good", False),
        ("invalid", [], "it carries no calls; probe call ae to kr: invalid", False),
        ("bad", [], BAD, True),
        ("bad", [("bad", "run"), ("good", "run")], BAD, True),
        ("bad", [("good", "run"), ("bad", "run")], BAD + "; but so was the one before", False),
        ("bad", [("good", "run"), ("bad", MARK)], BAD, True),
    ],
)
async def test_what_a_call_says(
    tmp_path: Path, verdict: str, earlier: list[tuple[str, str]], words: str, is_bad: bool
) -> None:
    assert await through(tmp_path, document(verdict), *earlier) == Seen(words, is_bad)


async def test_a_call_that_can_not_be_made_says_nothing(tmp_path: Path) -> None:
    seen = await through(tmp_path, LockHeld("ae-1 is in 4 calls"))
    assert (seen.is_bad, "could not be made: ae-1 is in 4 calls" in seen.words) == (False, True)
