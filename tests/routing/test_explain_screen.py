"""`route explain` is one screen, however large the fleet and however narrow the terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from commcli.report.route import DRAW
from commcli.routing import answer, policy
from commcli.routing.decision import decide_on
from commcli.routing.estimate import from_rounds
from commcli.routing.explain import explain
from tests.routing.fleets import fleet, zone
from tests.routing.worlds import NOW

COUNTRIES = ("ae", "kr", "sg", "hk", "de", "us", "cn", "in")


@pytest.mark.parametrize(("columns", "most"), [(120, 24), (80, 40)])
def test_it_fits(columns: int, most: int) -> None:
    nodes = {f"{COUNTRIES[n % 8]}-{n // 8 + 1}": COUNTRIES[n % 8] for n in range(48)}
    zones = [zone(f"zone-{country}", "ae", "*", forbid=[country]) for country in ("cn", "in", "us")]
    zones += [zone(f"free-{n}", "ae", "kr", forbid=["ru"]) for n in range(5)]
    rules = policy.of(fleet(nodes, zones=zones, states={"hk-1": "drain", "sg-2": "no-transit"}))
    rng = np.random.default_rng(4)
    known = (rng.uniform(100, 300, (48, 48)) * rng.uniform(1, 1.2, (9, 48, 48))).astype(np.float32)
    estimate = from_rounds(rules.ids, known)
    first = decide_on("big", rules, estimate, in_force=None, serial=1, now_unix=NOW)
    made = decide_on("big", rules, estimate, in_force=first.table, serial=2, now_unix=NOW)
    doc = answer.explain(explain(made, "ae-1", "kr-1"), {"source": "ae", "target": None}, made)
    screen = io.StringIO()
    Console(file=screen, width=columns, markup=False, highlight=False).print(DRAW["explain"](doc))
    lines = screen.getvalue().splitlines()
    assert len(lines) <= most, screen.getvalue()
    assert max(map(len, lines)) <= columns
    told = " ".join(screen.getvalue().split())
    for word in (
        "primary",
        "backup",
        "last resort",
        "removed: zone zone-",
        "is in state",
        "would win",
        "zone-cn",
    ):
        assert word in told, told
