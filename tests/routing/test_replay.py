"""Back-tests of the rules: on the real Internet where the data is at hand, and on small worlds made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commcli.cli import execute
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


@pytest.mark.parametrize("share", [-0.01, 1.01, 50.0, np.inf])
def test_loss_is_a_share_and_no_percentage(share: float) -> None:
    with pytest.raises(BadInput, match="from 0 to 1"):
        replay(world(3), np.full((3, 3, 3), share))


def test_hours_of_the_store_are_slices() -> None:
    row = {"src": "a", "dst": "b", "loss": 0.5, "loss_fwd": None, "rtt_p50_ms": 7.0}
    rtt, loss = of_hours(["a", "b"], [{**row, "hour": 3600}, {**row, "hour": 0, "rtt_p50_ms": None}])
    assert rtt.shape == (2, 2, 2) and rtt[1, 0, 1] == 7 and np.isnan(rtt[0, 0, 1]) and loss[0, 0, 1] == 0.5
    with pytest.raises(BadInput, match="takes two"):
        of_hours(["a", "b"], [{**row, "hour": 0}])


def test_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "data.npz", rtt=world(4), names=np.array(["a", "b", "c"]))
    assert execute(["route", "replay", str(tmp_path / "data.npz"), "--json"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["kind"], doc["nodes"], doc["slices_scored"]) == ("route.replay", 3, 3)
    assert doc["pairs_ge10"] == pytest.approx(1 / 3) and (doc["pairs_worse5"], doc["churn"]) == (0, 0)
    assert set(doc["mean_rtt_ms"]) == {"direct", "chosen", "oracle"}
    assert execute(["route", "replay", str(tmp_path / "data.npz")]) == 0
    assert "3 slices of 3 nodes" in capsys.readouterr().out
    (tmp_path / "bad.npz").write_text("no")
    assert execute(["route", "replay", str(tmp_path / "bad.npz")]) == 3
    assert execute(["route", "replay", str(tmp_path / "none.npz")]) == 3
    assert execute(["route", "replay"]) == 2


@pytest.mark.skipif(
    not SLICES.exists(), reason="no public latency data: set COMMCLI_LATENCY_DATA to its folder"
)
def test_on_a_part_of_the_real_internet_more_is_won_than_lost() -> None:
    scores: list[Score] = replay(np.load(SLICES)["rtt"][:, :120, :120])
    ge10, worse5, churn = (mean(scores, name) for name in ("pairs_ge10", "pairs_worse5", "churn"))
    assert ge10 is not None and worse5 is not None and churn is not None
    assert ge10 > 10 * worse5 and churn < 0.05
    assert mean_rtt(scores, "oracle") < mean_rtt(scores, "chosen") < mean_rtt(scores, "direct")


def devices(seed: int, noise: float, spikes: float) -> np.ndarray:
    """Synthetic: forty personal devices whose round trips are mostly noise, so that by chance some sums look short."""
    random = np.random.default_rng(seed)
    size, slices = 40, 12
    place, mile = random.uniform(0, 1, (size, 2)), random.gamma(1, 60, size)
    far = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    rtt = (20 + 300 * far + mile[:, None] + mile) * random.lognormal(0, noise, (slices, size, size))
    at = random.random(rtt.shape) < spikes
    rtt[at] *= random.uniform(2, 10, int(at.sum()))
    rtt[random.random(rtt.shape) < 0.1] = np.nan
    found: np.ndarray = rtt.astype(np.float32)
    return found


@pytest.mark.parametrize(("noise", "spikes"), [(0.3, 0.1), (0.45, 0.0), (0.9, 0.0), (0.4, 0.2)])
def test_noise_is_never_made_worse_on_average(noise: float, spikes: float) -> None:
    scores = replay(devices(7, noise, spikes))
    assert mean_rtt(scores, "oracle") < 0.75 * mean_rtt(scores, "direct")
    assert mean_rtt(scores, "chosen") <= mean_rtt(scores, "direct")
    # Of one round of this nothing is believed; only what did not answer directly goes over relays.
    assert scores[0].pairs_worse5 == 0


@pytest.mark.skipif(not SLICES.is_file(), reason="no public latency data")
def test_the_rules_reach_on_planetlab_what_they_are_for() -> None:
    with np.load(SLICES) as file:
        scores = replay(file["rtt"])
    shares = [mean(scores, name) for name in ("pairs_ge10", "churn", "pairs_worse5")]
    cut = 1 - mean_rtt(scores, "chosen") / mean_rtt(scores, "direct")
    assert shares[0] is not None and shares[1] is not None and shares[2] is not None
    assert shares[0] >= 0.325 and shares[1] <= 0.018 and shares[2] <= 0.012 and cut >= 0.092


def zoned(folder: Path, *, zones: str = "", countries: list[str] | None = None) -> tuple[list[str], Path]:
    """A file of three nodes, a > c much shorter by b, and what to type."""
    data, rules = folder / "data.npz", folder / "zones.yaml"
    if countries is None:
        np.savez(data, rtt=world(4))
    else:
        np.savez(data, rtt=world(4), countries=np.array(countries))
    rules.write_text("zones:\n" + zones)
    return ["route", "replay", str(data), "--zones", str(rules), "--json"], data


NOT_BY_US = "  not-by-us: {between: [[br], [cn]], forbid: [us], reason: x}\n"
WALL = "  wall: {between: [[br], [cn]], forbid: [cn], reason: x}\n"


@pytest.mark.parametrize(
    ("zones", "countries", "gaining", "blocked"),
    [
        ("  other: {between: [[de], [cn]], forbid: [us], reason: x}\n", ["br", "US", "cn"], 2 / 6, 0),
        (NOT_BY_US, ["br", "US", "cn"], 0.0, 0),
        (NOT_BY_US, ["br", "", "cn"], 0.0, 0),  # unknown is forbidden
        (WALL, ["br", "us", "cn"], 0.0, 2),
    ],
)
def test_zones_are_obeyed_in_a_replay_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    zones: str,
    countries: list[str],
    gaining: float,
    blocked: int,
) -> None:
    typed, _ = zoned(tmp_path, zones=zones, countries=countries)
    assert execute(typed) == 0
    doc = json.loads(capsys.readouterr().out)
    assert (doc["pairs_ge10"], doc["blocked"]) == (pytest.approx(gaining), blocked)
    assert {row["pairs"] for row in doc["slices"]} == {6 - blocked}
    if not gaining:
        assert doc["mean_rtt_ms"]["oracle"] == doc["mean_rtt_ms"]["direct"]


@pytest.mark.parametrize(
    ("zones", "countries", "why"),
    [
        (NOT_BY_US, None, "data.npz: has no key countries, so no zone can be obeyed"),
        (NOT_BY_US, ["br", "us"], "data.npz: has 2 countries of 3 nodes"),
        (NOT_BY_US, ["br", "us", "xq"], 'data.npz: countries: "xq" is none'),
        (
            "  z: {between: [[br], [cn]], reason: x}\n",
            ["br", "us", "cn"],
            "zones.yaml:2: zone z: neither forbid",
        ),
    ],
)
def test_zones_that_can_not_be_obeyed(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    zones: str,
    countries: list[str] | None,
    why: str,
) -> None:
    typed, _ = zoned(tmp_path, zones=zones, countries=countries)
    assert execute(typed) == 3
    assert why in " ".join(map(str, json.loads(capsys.readouterr().out)["error"].values()))
