"""Why a candidate is not the path, and what would have to change: true by the planner's own word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations

import numpy as np
import pytest

from commcli.fleet import Zone
from commcli.routing import policy
from commcli.routing.decision import Decision, decide_on
from commcli.routing.estimate import Rounds, from_rounds
from commcli.routing.explain import Explanation, explain
from commcli.routing.planner import SHARED_MS
from commcli.routing.table import Path, Table
from tests.routing.fleets import fleet, zone
from tests.routing.worlds import NOW

IDS = ("a", "b", "c", "d")
DIRECT, BY_C, BY_D = ("a", "b"), ("a", "c", "b"), ("a", "d", "b")
STEADY = [100.0] * 9
# Edges that become cheaper by more than this become other edges: steadier or wilder than they were.
FAR_MS = 80


def rounds(direct: Sequence[float], by_c: float = 80.0, by_d: float = 90.0) -> Rounds:
    """a -> b directly, and over c or d, whose legs are steady and alike; all else is far."""
    found = np.full((len(direct), 4, 4), 900.0, dtype=np.float32)
    found[:, 0, 1] = direct
    for relay, total in ((2, by_c), (3, by_d)):
        found[:, 0, relay] = found[:, relay, 1] = total / 2
    return found


def decided(known: Rounds, in_force: Table | None = None, zones: Sequence[Zone] = ()) -> Decision:
    rules = policy.of(fleet(dict(zip(IDS, ("ae", "kr", "sg", "hk"), strict=True)), zones=zones))
    return decide_on("test", rules, from_rounds(IDS, known), in_force=in_force, serial=2, now_unix=NOW)


def verdicts(found: Explanation) -> Mapping[Path, str]:
    return {each.path: each.verdict for each in found.candidates}


def explained(known: Rounds, in_force: Table | None = None) -> Explanation:
    return explain(decided(known, in_force), "a", "b")


def test_the_primary_needs_no_word_and_the_others_are_dearer() -> None:
    found = explained(rounds(STEADY))
    assert found.candidates[0].path == BY_C
    said = verdicts(found)
    assert (said[BY_C], said[BY_D], said[DIRECT]) == ("", "10 ms dearer", "18 ms dearer")


def test_what_is_too_near_to_direct_has_to_win_by_more() -> None:
    found = explained(rounds(STEADY, by_c=95.0, by_d=300.0))
    assert found.candidates[0].path == DIRECT
    assert verdicts(found)[BY_C] == "must win by 5.0 ms over direct, wins by 3.0 ms"
    assert (found.runner_up, found.next_ms, found.next_doubt) == (BY_C, 2.0, "")


def test_what_was_once_the_worse_one_is_not_believed() -> None:
    found = explained(rounds([100.0] * 4 + [60.0] + [100.0] * 4))
    assert found.candidates[0].path == DIRECT
    said = verdicts(found)
    assert said[BY_C] == "not believed: worse than direct in 1 of 9 rounds"
    assert said[BY_D] == "only the cheapest is tried: a > c > b"
    assert found.runner_up == BY_C
    # It costs 82, and direct was 60 once.
    assert found.next_ms == pytest.approx(22.0, abs=0.02)
    assert found.next_doubt == "worse than direct in 1 of 9 rounds"
    row = next(each for each in found.candidates if each.path == BY_C)
    assert (row.rounds, row.worse) == (9, 1)


def test_what_would_not_have_won_a_round_ago_has_to_wait() -> None:
    found = explained(rounds([91.0] * 4 + [96.0] * 5, by_c=88.0, by_d=300.0))
    assert found.candidates[0].path == DIRECT
    assert verdicts(found)[BY_C] == "not believed: would not have won a round or two ago"


def test_a_path_in_force_that_became_bad_is_left() -> None:
    held = decided(rounds(STEADY)).table
    found = explained(rounds([60.0] * 3 + [100.0] * 6), held)
    assert (found.held, found.candidates[0].path) == (BY_C, DIRECT)
    assert verdicts(found)[BY_C] == "left: worse than direct in 3 of 9 rounds"
    sudden = explained(rounds([100.0] * 8 + [60.0]), held)
    assert verdicts(sudden)[BY_C] == "left: far behind direct in the last round"


def test_a_path_in_force_is_not_left_for_one_that_is_a_little_better() -> None:
    held = decided(rounds(STEADY)).table
    found = explained(rounds(STEADY, by_c=80.0, by_d=78.0), held)
    assert found.candidates[0].path == BY_C
    assert verdicts(found)[BY_D] == "must win by 4.1 ms over the path in force, wins by 2.0 ms"
    assert (found.runner_up, found.next_ms) == (BY_D, 2.1)


def test_where_a_zone_forbids_all_nothing_is_judged() -> None:
    found = explain(decided(rounds(STEADY), zones=[zone("wall", "ae", "kr", forbid=["kr"])]), "a", "b")
    assert set(verdicts(found).values()) == {""}
    assert (found.runner_up, found.next_ms, found.next_doubt) == (None, None, "")


@pytest.mark.parametrize("wild", [1.0, 1.3], ids=["steady", "noisy"])
@pytest.mark.parametrize("settled", [False, True], ids=["nothing in force", "in force"])
def test_the_next_one_wins_when_it_is_cheaper_by_what_is_said_and_not_before(
    settled: bool, wild: float
) -> None:
    looked_at = {2: 0, 3: 0}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        known = (rng.uniform(150, 500, (4, 4)) * rng.uniform(1, wild, (5, 4, 4))).astype(np.float32)
        held = decided(known).table if settled else None
        now = decided(known, held)
        for source, target in permutations(IDS, 2):
            found = explain(now, source, target)
            if found.runner_up is None or found.next_ms is None or len(found.runner_up) > 3:
                continue
            if 0 < found.next_ms < FAR_MS:
                looked_at[len(found.runner_up)] += 1
                _check(known, held, found, found.next_ms, settled)
    assert min(looked_at.values()) > 0, looked_at


def _check(known: Rounds, held: Table | None, found: Explanation, next_ms: float, settled: bool) -> None:
    assert found.runner_up is not None
    # Among paths as good as each other the pair's number decides: a band of SHARED_MS to both sides.
    early = next_ms - 0.05 - (0 if settled else 2 * SHARED_MS)
    for less_ms, wins in ((next_ms + 0.05, True), (early, False)):
        then = decided(_cheaper(known, found.runner_up, less_ms), held)
        route = then.table.routes[found.source, found.target].primary
        # A cheaper edge may make a third path cheaper still, which then is the one that wins.
        if route in (found.runner_up, found.candidates[0].path):
            assert (route == found.runner_up) is wins, (found.runner_up, next_ms, found.next_doubt)


def _cheaper(known: Rounds, path: Path, less_ms: float) -> Rounds:
    """The rounds with this much taken from the path's edges, evenly."""
    found = known.copy()
    edges = [(IDS.index(a), IDS.index(b)) for a, b in pairwise(path)]
    for edge in edges:
        found[(slice(None), *edge)] -= less_ms / len(edges)
    return found


def test_nothing_is_believed_of_a_mesh_that_holds_for_no_two_rounds() -> None:
    there = rounds([300.0] * 2, by_c=40.0, by_d=50.0)
    there[1] *= 1.5
    found = explained(np.minimum(there, there.transpose(0, 2, 1)))
    assert found.candidates[0].path == DIRECT
    assert verdicts(found)[BY_C] == "not believed: the mesh is noise as a whole"
    assert (found.next_ms, found.next_doubt) == (0.0, "the mesh is noise as a whole")
