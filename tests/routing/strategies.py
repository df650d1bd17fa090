"""Random worlds: fleets, zones, node states and matrices for property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from commcli.fleet import Zone
from commcli.fleet.model import NodeState
from commcli.routing import policy as policies
from commcli.routing.cost import Prices, edge_costs
from commcli.routing.estimate import Matrix, from_matrices
from commcli.routing.policy import Policy
from tests.routing.fleets import fleet

COUNTRIES = ("ae", "br", "cn", "de", "sg")
STATES: tuple[NodeState, ...] = ("active", "active", "active", "drain", "no-transit")
HOP_MS = 2.0


@st.composite
def zones(draw: st.DrawFn) -> list[Zone]:
    """Up to three zones, some for every market, some with an allow list."""
    side = st.frozensets(st.sampled_from((*COUNTRIES, "*")), min_size=1, max_size=2)
    some = st.frozensets(st.sampled_from(COUNTRIES), max_size=2)
    listed = st.one_of(st.none(), st.frozensets(st.sampled_from(COUNTRIES), min_size=2))
    rules = draw(st.lists(st.tuples(side, side, some, listed), max_size=3))
    return [
        Zone(id=f"z{n}", between=(one, other), forbid=forbid, allow=allow)
        for n, (one, other, forbid, allow) in enumerate(rules)
    ]


@st.composite
def policy(draw: st.DrawFn, *, most_nodes: int = 6) -> Policy:
    """A fleet's policy; a node may stand in an unknown country, drain, or be away."""
    size = draw(st.integers(2, most_nodes))
    countries = {f"n{k}": draw(st.sampled_from((*COUNTRIES, ""))) for k in range(size)}
    states = {node: draw(st.sampled_from(STATES)) for node in countries}
    served = {c: [n for n in countries if draw(st.booleans())] for c in COUNTRIES}
    away = draw(st.sets(st.sampled_from(sorted(countries)), max_size=1))
    return policies.of(
        fleet(countries, zones=draw(zones()), states=states, markets=served), away if size > 3 else ()
    )


def costs(size: int, *, holes: float = 0.15) -> st.SearchStrategy[Matrix]:
    """(N, N) edge costs of 1..400 ms, some of them unmeasured (infinite)."""

    def build(seed: int) -> Matrix:
        random = np.random.default_rng(seed)
        rtt = random.integers(1, 400, (size, size)).astype(np.float64)
        rtt[random.random((size, size)) < holes] = np.nan
        names = [f"n{k}" for k in range(size)]
        return edge_costs(from_matrices(names, rtt), Prices(hop_ms=HOP_MS)).total

    return st.integers(0, 2**32 - 1).map(build)


@st.composite
def worlds(draw: st.DrawFn, *, most_nodes: int = 6) -> tuple[Policy, Matrix]:
    """A policy and edge costs over its nodes."""
    rules = draw(policy(most_nodes=most_nodes))
    return rules, draw(costs(len(rules.ids)))
