"""Time-step tables: what happens to the paths, and which one is in use when."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from commcli.relay.overlay.failover import (
    BAD,
    DEAD,
    IN_USE_INTERVAL_S,
    MAX_PENDING,
    RECOVERING,
    STANDBY_INTERVAL_S,
    UNTRIED,
    UP,
    Choice,
    PathMonitor,
    Segment,
    no_segment,
)

STEP_S = 0.01
Weather = Callable[[float], bool]  # whether the path works at this time


def works(*dead: tuple[float, float]) -> Weather:
    """A path that is dead in these spans of time."""
    return lambda now: not any(start <= now < end for start, end in dead)


class Road:
    """One path under a weather, with a fixed RTT. A probe is lost if the path is dead at either end of its trip."""

    def __init__(self, label: str, weather: Weather, rtt_s: float = 0.1) -> None:
        self.label, self.weather, self.rtt_s = label, weather, rtt_s
        self.monitor = PathMonitor(("a", label, "b"))
        self.flying: list[tuple[float, int]] = []

    def step(self, now: float, interval_s: float, ids: itertools.count[int]) -> None:
        while self.flying and self.flying[0][0] <= now:
            arrives, probe = self.flying.pop(0)
            if self.weather(arrives):
                self.monitor.answered(probe, now)
        if now - self.monitor.last_probe >= interval_s - 1e-9:
            probe = next(ids)
            self.monitor.probed(probe, now)
            if self.weather(now):
                self.flying.append((now + self.rtt_s, probe))


class Drive:
    """A choice between roads, media always flowing; `log` is (time, label) of every move."""

    def __init__(self, *roads: Road) -> None:
        self.roads = {road.label: road for road in roads}
        self.choice = Choice([(road.label, road.monitor) for road in roads])
        self.log: list[tuple[float, str]] = [(0.0, self.choice.active)]
        self.reasons: list[str] = []
        self.dead_on: Callable[[Sequence[str]], Segment | None] = no_segment
        self.bad: dict[str, Weather] = {}  # False while the road is congested
        self._ids = itertools.count()
        self._steps = 0

    @property
    def now(self) -> float:
        return self._steps * STEP_S

    def until(self, end: float) -> Drive:
        while self.now < end:
            for label, is_good in self.bad.items():
                self.roads[label].monitor.leave = None if is_good(self.now) else "congestion"
            switch = self.choice.decide(self.now, self.dead_on, lambda _path: self.dead_on is not no_segment)
            if switch is not None:
                self.log.append((self.now, switch.after))
                self.reasons.append(switch.reason)
            for road in self.roads.values():
                in_use = road.label == self.choice.active
                road.step(self.now, IN_USE_INTERVAL_S if in_use else STANDBY_INTERVAL_S, self._ids)
            self._steps += 1
        return self

    @property
    def order(self) -> list[str]:
        return [label for _, label in self.log]


NEVER = works()
ALWAYS_DEAD = works((0, 1e9))


def test_all_well_stays_on_the_primary() -> None:
    drive = Drive(
        Road("primary", NEVER), Road("backup", NEVER, 0.05), Road("last_resort", NEVER, 0.02)
    ).until(60)
    assert drive.log == [(0.0, "primary")]
    assert [road.monitor.state for road in drive.roads.values()] == [UP, UP, UP]
    assert drive.roads["primary"].monitor.rtt_s == pytest.approx(0.1, abs=2 * STEP_S)


def test_a_silent_intermediate_is_left_within_a_few_probes_and_taken_again_after_30_s_of_health() -> None:
    drive = Drive(Road("primary", works((10, 20))), Road("backup", NEVER), Road("last_resort", NEVER)).until(
        70
    )
    assert drive.order == ["primary", "backup", "primary"]
    left, back = drive.log[1][0], drive.log[2][0]
    # Three probes 60 ms apart; the first of them lost up to one RTT before the death, noticed one margin after it.
    assert 10 + 2 * IN_USE_INTERVAL_S < left <= 10 + 0.1 + 4 * IN_USE_INTERVAL_S + 0.05
    assert 20 + 30 <= back <= 20 + 30 + 0.1 + 2 * STANDBY_INTERVAL_S
    assert drive.reasons == ["primary does not answer", "primary is healthy"]


@pytest.mark.parametrize("rtt_s", [0.005, 0.1, 0.4, 0.9])
def test_the_patience_follows_the_rtt(rtt_s: float) -> None:
    drive = Drive(Road("primary", works((30, 60)), rtt_s), Road("backup", NEVER, rtt_s)).until(40)
    assert drive.order == ["primary", "backup"]
    assert drive.log[1][0] - 30 <= rtt_s + 0.35


@pytest.mark.parametrize(
    ("primary", "backup", "last_resort", "order"),
    [
        (works((10, 99)), works((10, 99)), NEVER, ["primary", "backup", "last_resort"]),
        (works((10, 99)), works((5, 99)), NEVER, ["primary", "last_resort"]),
        (works((10, 99)), works((12, 14)), NEVER, ["primary", "backup", "last_resort", "backup"]),
        (NEVER, works((10, 99)), NEVER, ["primary"]),
        (works((10, 99)), ALWAYS_DEAD, NEVER, ["primary", "last_resort"]),
        (ALWAYS_DEAD, NEVER, NEVER, ["primary", "backup"]),
        (ALWAYS_DEAD, ALWAYS_DEAD, NEVER, ["primary", "last_resort"]),
        (works((10, 20)), works((10, 99)), works((10, 99)), ["primary", "backup", "last_resort", "primary"]),
        (works((10, 99)), works((10, 20)), works((10, 99)), ["primary", "backup", "last_resort", "backup"]),
        # All came back at once: the one in use stays until a better one has proved itself.
        (works((10, 20)), works((10, 20)), works((10, 20)), ["primary", "backup", "last_resort", "primary"]),
    ],
)
def test_who_takes_over(primary: Weather, backup: Weather, last_resort: Weather, order: list[str]) -> None:
    roads = Road("primary", primary), Road("backup", backup), Road("last_resort", last_resort)
    drive = Drive(*roads).until(80)
    assert drive.order == order


def test_a_death_of_everything_goes_to_the_last_resort_and_stays_there() -> None:
    gone = works((10, 1e9))
    drive = Drive(Road("primary", gone), Road("backup", gone), Road("last_resort", gone)).until(100)
    assert drive.choice.active == "last_resort"
    assert len(drive.log) <= 3


def test_a_path_that_comes_and_goes_does_not_flap() -> None:
    """20 s dead, 20 s alive, for ten minutes: it is never healthy for 30 s, so it is left once and for all."""
    spans = [(start, start + 20.0) for start in range(10, 600, 40)]
    drive = Drive(Road("primary", works(*spans)), Road("backup", NEVER), Road("last_resort", NEVER)).until(
        600
    )
    assert drive.order == ["primary", "backup"]


def test_a_relapse_doubles_the_proof() -> None:
    """40 s alive between deaths of 5 s: enough to return once; the next time 60 s are asked for, and not had."""
    spans = [(start, start + 5.0) for start in range(10, 600, 45)]
    drive = Drive(Road("primary", works(*spans)), Road("backup", NEVER)).until(600)
    assert drive.order == ["primary", "backup", "primary", "backup"]


def test_a_long_good_time_forgives() -> None:
    drive = Drive(Road("primary", works((10, 15), (500, 505))), Road("backup", NEVER)).until(540)
    returns = [now for now, label in drive.log[1:] if label == "primary"]
    assert returns == [pytest.approx(45, abs=2.5), pytest.approx(535, abs=2.5)]


def test_single_losses_are_no_death() -> None:
    lost = itertools.cycle([True, False, False, True, True])
    drive = Drive(Road("primary", lambda _: next(lost)), Road("backup", NEVER)).until(60)
    assert drive.order == ["primary"]


def test_media_on_the_way_back_forgives_lost_probes_but_not_for_ever() -> None:
    monitor = PathMonitor(("a", "b"))
    monitor.probed(0, 0.0)
    assert monitor.answered(0, 0.05)
    states = []
    for step in range(1, 30):
        now = step * IN_USE_INTERVAL_S
        monitor.last_heard = now
        monitor.probed(step, now)
        states.append(monitor.judge(now + 0.05))
    dead_after = states.index(DEAD)
    # The first probe is due one RTT and a margin after it went out, about three intervals.
    assert 10 <= dead_after <= 13
    assert all(state == UP for state in states[:dead_after])


def test_a_late_answer_is_a_sign_of_life_and_teaches_patience() -> None:
    """The route behind the path changes and the RTT grows by 300 ms: no probe is in time, none is lost."""
    road = Road("primary", NEVER, 0.05)
    drive = Drive(road, Road("backup", NEVER)).until(20)
    road.rtt_s = 0.35
    drive.until(120)
    assert drive.choice.active == "primary"
    assert road.monitor.rtt_s == pytest.approx(0.35, abs=0.02)


@pytest.mark.parametrize(("rtts_s", "dead_at_s"), [([0.15], 0.21), ([0.05, 0.25], 0.57)])
def test_a_jittery_path_is_waited_for(rtts_s: list[float], dead_at_s: float) -> None:
    """Both have a mean of 150 ms; the second one is off by 100 ms either way, and gets four times that."""
    monitor = PathMonitor(("a", "b"))
    for probe in range(100):
        monitor.probed(probe, float(probe))
        monitor.answered(probe, probe + rtts_s[probe % len(rtts_s)])
        monitor.judge(probe + 0.9)
    for probe in range(100, 103):
        monitor.probed(probe, 200.0)
    died = next(step for step in range(1000) if monitor.judge(200 + step / 1000) == DEAD)
    assert died / 1000 == pytest.approx(dead_at_s, abs=0.03)


def test_our_own_sleep_is_nobodys_death() -> None:
    monitor = PathMonitor(("a", "b"))
    monitor.probed(0, 0.0)
    monitor.answered(0, 0.1)
    for probe in range(1, 4):
        monitor.probed(probe, probe * 0.06)
    monitor.excuse(5.0)
    assert monitor.judge(5.2) == UP
    assert monitor.judge(5.7) == DEAD


def test_states_and_unasked_answers() -> None:
    monitor = PathMonitor(("a", "b"))
    assert (monitor.state, monitor.rtt_s) == (UNTRIED, None)
    assert not monitor.answered(5, 0.0)
    for probe in range(3):
        monitor.probed(probe, 0.0)
    assert monitor.judge(0.9) == UNTRIED
    assert monitor.judge(1.1) == DEAD
    assert monitor.answered(2, 1.2)
    assert not monitor.answered(2, 1.2)  # twice is no second sign
    assert monitor.judge(1.3) == RECOVERING
    assert monitor.judge(31.1) == RECOVERING
    assert monitor.judge(31.3) == UP


def test_a_choice_made_anew_begins_with_what_is_known_to_work() -> None:
    proven, fresh, dead = PathMonitor(("a", "p")), PathMonitor(("a", "f")), PathMonitor(("a", "d"))
    proven.probed(0, 0.0)
    proven.answered(0, 0.1)
    dead.state = DEAD
    assert Choice([("primary", fresh), ("backup", proven)]).active == "backup"
    assert Choice([("primary", dead), ("backup", fresh)]).active == "backup"
    assert Choice([("primary", fresh), ("backup", PathMonitor(("a", "g")))]).active == "primary"
    choice = Choice([("primary", fresh), ("backup", proven)])
    fresh.probed(1, 1.0)
    fresh.answered(1, 1.1)
    switch = choice.decide(1.1)
    assert switch is not None
    assert (switch.before, switch.after) == ("backup", "primary")


def test_memory_is_bounded() -> None:
    monitor = PathMonitor(("a", "b"))
    for probe in range(10 * MAX_PENDING):
        monitor.probed(probe, probe * 0.001)
    assert not monitor.answered(8 * MAX_PENDING, 1.0)
    assert monitor.answered(10 * MAX_PENDING - 1, 1.0)


# --- dead segments, bad paths ------------------------------------------------------------------------------


class Segments:
    """What liveness knows: the paths by label, dead between these times."""

    def __init__(self, drive: Drive, **dead: Weather) -> None:
        self._drive, self._dead = drive, dead

    def __call__(self, path: Sequence[str]) -> Segment | None:
        alive = self._dead.get(path[1], NEVER)
        return None if alive(self._drive.now) else (path[0], path[1])


def _driven(*roads: Road, **dead: Weather) -> Drive:
    drive = Drive(*roads)
    drive.dead_on = Segments(drive, **dead)
    return drive


def test_a_dead_segment_is_a_dead_path_at_once() -> None:
    drive = _driven(Road("primary", NEVER), Road("backup", NEVER), primary=works((10, 20))).until(70)
    assert drive.order == ["primary", "backup", "primary"]
    assert drive.log[1][0] == pytest.approx(10, abs=2 * STEP_S)
    # Answers that were on the way when it died are no sign of life.
    assert 20 + 30 <= drive.log[2][0] <= 20 + 30 + 0.1 + 2 * STANDBY_INTERVAL_S
    assert drive.reasons == ["primary is dead from a to primary", "primary is healthy"]


def test_a_segment_that_flaps_every_second_is_left_once_and_its_path_must_prove_itself_after() -> None:
    spans = works(*[(start, start + 1.0) for start in range(10, 100, 2)])
    drive = _driven(Road("primary", spans), Road("backup", NEVER), primary=spans).until(140)
    assert drive.order == ["primary", "backup", "primary"]
    assert drive.log[2][0] == pytest.approx(99 + 30, abs=2.5)


def test_a_segment_that_flaps_every_second_again_after_each_return_doubles_the_hold() -> None:
    """It flaps for five seconds whenever its path has just returned: 30 s, then 60, 120, 240, 480, 480."""
    seconds, start = [], 10.0
    for hold_s in (30, 60, 120, 240, 480, 480, 480):
        seconds += [(start + second, start + second + 0.5) for second in range(5)]
        start += 5 + hold_s + 3
    weather = works(*seconds)
    drive = _driven(Road("primary", weather), Road("backup", NEVER), primary=weather).until(start - 2)
    moves = [now for now, _ in drive.log[1:]]
    away_s = [back - left for left, back in zip(moves[::2], moves[1::2], strict=False)]
    assert away_s == [pytest.approx(4.5 + hold, abs=4) for hold in (30, 60, 120, 240, 480, 480, 480)]


def test_two_paths_that_die_together_do_not_flap() -> None:
    gone = works((10, 1e9))
    drive = _driven(
        Road("primary", gone), Road("backup", gone), Road("last_resort", NEVER), primary=gone, backup=gone
    ).until(300)
    assert drive.order == ["primary", "last_resort"]


def test_a_moment_without_any_path_leaves_all_as_it_was() -> None:
    """The other edge is cut off for half a second: no path is better than another, and none is to blame."""
    dark = works((10, 10.5))
    roads = Road("primary", dark), Road("backup", dark), Road("last_resort", dark)
    drive = _driven(*roads, primary=dark, backup=works((10.01, 10.5)), last_resort=works((10.02, 10.5)))
    drive.until(60)
    assert drive.order == ["primary", "backup", "last_resort", "primary"]
    assert drive.log[3][0] <= 10.5 + STANDBY_INTERVAL_S + 0.2
    assert drive.reasons[-1] == "every path was dead for a moment"


def test_after_a_moment_without_any_path_who_stays_dead_is_not_waited_for() -> None:
    dark, gone = works((10, 10.5)), works((10, 99))
    roads = Road("primary", gone), Road("backup", dark), Road("last_resort", dark)
    drive = _driven(*roads, primary=gone, backup=dark, last_resort=dark).until(80)
    assert drive.order == ["primary", "last_resort", "backup"]
    assert drive.log[2][0] == pytest.approx(10.5 + 30, abs=2.5)


def test_probes_that_are_lost_while_the_segments_are_vouched_for_are_loss() -> None:
    """34 % of the round trips fail: 10 % loss each way on two segments. Once in 76 minutes it would be death."""
    chance = random.Random(2)
    drive = _driven(Road("primary", lambda _: chance.random() < 0.81), Road("backup", NEVER)).until(300)
    assert drive.order == ["primary"]


def test_who_says_hello_and_forwards_nothing_is_found_by_the_probes() -> None:
    drive = _driven(Road("primary", works((10, 99))), Road("backup", NEVER)).until(15)
    assert drive.order == ["primary", "backup"]
    assert drive.log[1][0] <= 10 + 0.1 + 11 * IN_USE_INTERVAL_S + 0.05
    assert drive.reasons == ["primary does not answer"]


@pytest.mark.parametrize(
    ("primary", "backup", "order"),
    [
        (works((10, 12)), NEVER, ["primary", "backup", "primary"]),
        (NEVER, works((10, 12)), ["primary"]),
        (works((10, 12)), works((9, 20)), ["primary"]),  # not for one that is bad as well
        (works((10, 16)), works((5, 11)), ["primary"]),  # nor for one that was until just now
        # It fills up again whenever we return: the second time it is left for twice as long.
        (works((10, 12), (45, 47)), NEVER, ["primary", "backup", "primary", "backup"]),
    ],
)
def test_a_bad_path_is_left_for_a_good_one(primary: Weather, backup: Weather, order: list[str]) -> None:
    drive = Drive(Road("primary", NEVER), Road("backup", NEVER))
    drive.bad = {"primary": primary, "backup": backup}
    drive.until(90)
    assert drive.order == order
    if len(order) > 1:
        assert drive.log[1][0] == pytest.approx(10, abs=2 * STEP_S)
        assert drive.reasons[0] == "primary is bad: congestion"


def test_a_bad_path_is_better_than_a_dead_one() -> None:
    drive = Drive(Road("primary", works((10, 99))), Road("backup", NEVER))
    drive.bad = {"primary": NEVER, "backup": ALWAYS_DEAD}
    drive.until(40)
    assert drive.order == ["primary", "backup"]
    assert drive.roads["backup"].monitor.state == BAD


def test_a_bad_path_that_dies_is_dead_and_comes_back_by_the_same_rules() -> None:
    monitor = PathMonitor(("a", "p", "b"))
    monitor.probed(0, 0.0)
    assert monitor.answered(0, 0.1)
    monitor.leave = "loss"
    assert monitor.judge(1.0) == BAD
    assert monitor.judge(2.0, ("a", "p")) == DEAD
    monitor.probed(1, 2.0)
    assert monitor.answered(1, 2.1)
    assert monitor.judge(2.2, ("a", "p")) == DEAD
    monitor.probed(2, 3.0)
    assert monitor.judge(3.0) == DEAD
    assert monitor.answered(2, 3.1)
    assert monitor.judge(3.2) == BAD
    monitor.leave = None
    assert monitor.judge(4.0) == RECOVERING
    assert monitor.judge(33.9) == RECOVERING
    assert monitor.judge(34.0) == UP
