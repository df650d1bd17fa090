"""Back-tests of the rules: on the real Internet where the data is at hand, and on small worlds made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commcli.cli import run
from commcli.errors import BadInput
from commcli.routing.recorded import of_hours
from commcli.routing.replay import Score, mean, mean_rtt, replay
from tests.routing.test_public_matrices import FOLDER

SLICES = FOLDER / "planetlab-490" / "slices_00-08.npz"


def world(slices: int, *, relayed: float = 60.0) -> np.ndarray:
    """Three nodes; a > c takes 100 ms, and by b so much."""
    rtt = np.full((slices, 3, 3), relayed / 2, dtype=np.float32)
    rtt[:, 0, 2] = rtt[:, 2, 0] = 100.0
    return rtt


def test_a_gain_that_lasts_is_taken_and_kept() -> None:
    scores = replay(world(5))
    assert [score.pairs_ge10 for score in scores] == [2 / 6] * 4
    assert [score.churn for score in scores] == [None, 0.0, 0.0, 0.0]
    assert mean(scores, "pairs_worse5") == 0 and mean(scores, "cover") == 1 and mean(scores, "lost") == 0
    assert mean_rtt(scores, "direct") == pytest.approx((4 * 30 + 2 * 100) / 6)
    assert mean_rtt(scores, "chosen") == mean_rtt(scores, "oracle") == pytest.approx((4 * 30 + 2 * 62) / 6)


def test_a_slice_is_decided_on_the_ones_before_it_only() -> None:
    rtt = world(4)
    rtt[2:, 0, 1] = rtt[2:, 1, 0] = 500.0
    before, bad, after = replay(rtt)
    assert (before.pairs_worse5, bad.pairs_worse5) == (0, 2 / 6)
    assert after.pairs_worse5 == 0, "and the slice that was bad is known to the next one"


def test_a_path_that_was_ever_the_worse_one_is_not_entered() -> None:
    rtt = world(5, relayed=110.0)
    rtt[2, 0, 1] = rtt[2, 1, 0] = 5.0  # by chance once: a mean would believe it
    assert all(score.relayed == 0 for score in replay(rtt))


def test_a_clean_detour_beats_a_lossy_direct_path_though_it_takes_longer() -> None:
    rtt, loss = world(5, relayed=110.0), np.zeros((5, 3, 3), dtype=np.float32)
    loss[:, 0, 2] = 0.05
    assert [score.relayed for score in replay(rtt, loss)] == [1 / 6] * 4


def test_what_was_not_measured_is_not_scored() -> None:
    rtt = world(4)
    rtt[:, 1] = rtt[:, :, 1] = np.nan
    assert [score.pairs for score in replay(rtt)] == [2, 2, 2]


@pytest.mark.parametrize(
    ("rtt", "why"),
    [
        (np.zeros((3, 3)), "shape"),
        (np.zeros((1, 3, 3)), "two of each"),
        (np.full((2, 2, 2), -1.0), "below 0"),
    ],
)
def test_what_can_not_be_replayed(rtt: np.ndarray, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        replay(rtt)


def test_hours_of_the_store_are_slices() -> None:
    row = {"src": "a", "dst": "b", "loss": 0.5, "loss_fwd": None, "rtt_p50_ms": 7.0}
    rtt, loss = of_hours(["a", "b"], [{**row, "hour": 3600}, {**row, "hour": 0, "rtt_p50_ms": None}])
    assert rtt.shape == (2, 2, 2) and rtt[1, 0, 1] == 7 and np.isnan(rtt[0, 0, 1]) and loss[0, 0, 1] == 0.5
    with pytest.raises(BadInput, match="takes two"):
        of_hours(["a", "b"], [{**row, "hour": 0}])


def test_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", rtt=world(4), names=np.array(["a", "b", "c"]))
    assert run(["route", "replay", str(tmp_path / "data.npz"), "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["kind"], doc["nodes"], doc["slices_scored"]) == ("route.replay", 3, 3)
    assert doc["pairs_ge10"] == pytest.approx(1 / 3) and (doc["pairs_worse5"], doc["churn"]) == (0, 0)
    assert set(doc["mean_rtt_ms"]) == {"direct", "chosen", "oracle"}
    assert run(["route", "replay", str(tmp_path / "data.npz")]) == 0
    assert "3 slices of 3 nodes" in capsys.readouterr().out
    (tmp_path / "bad.npz").write_text("no")
    assert run(["route", "replay", str(tmp_path / "bad.npz")]) == 3
    assert run(["route", "replay", str(tmp_path / "none.npz")]) == 3
    assert run(["route", "replay"]) == 2


@pytest.mark.skipif(
    not SLICES.exists(), reason="no public latency data: set COMMCLI_LATENCY_DATA to its folder"
)
def test_on_a_part_of_the_real_internet_more_is_won_than_lost() -> None:
    scores: list[Score] = replay(np.load(SLICES)["rtt"][:, :120, :120])
    ge10, worse5, churn = (mean(scores, name) for name in ("pairs_ge10", "pairs_worse5", "churn"))
    assert ge10 is not None and worse5 is not None and churn is not None
    assert ge10 > 10 * worse5 and churn < 0.05
    assert mean_rtt(scores, "oracle") < mean_rtt(scores, "chosen") < mean_rtt(scores, "direct")
