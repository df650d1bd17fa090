"""What is due: phases, catching up, fairness."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from commcli.fleet.probing import ProbePair, Probes
from commcli.probe.schedule import EDGES, MESH, WEIGHT, Due, Job, due, jobs_of, key_of, slot

NOON = 1_767_268_800.0
HOUR = 3600

Last = dict[str, dict[str, float]]


def ran(due_unix: float, ran_unix: float | None = None) -> dict[str, float]:
    return {"due_unix": due_unix, "ran_unix": due_unix if ran_unix is None else ran_unix, "exit_code": 0}


class Cron:
    """Starts a run every `step` seconds, of which each does `most` jobs at once."""

    def __init__(self, jobs: list[Job], *, most: int = 1000, step: float = 60.0) -> None:
        self.jobs, self.most, self.step = jobs, most, step
        self.now = NOON
        self.last: Last = {}
        self.runs: list[list[Due]] = []

    def go(self, seconds: float) -> list[list[Due]]:
        """The runs of the next `seconds`."""
        first = len(self.runs)
        until = self.now + seconds
        while self.now < until:
            found = due(self.jobs, self.last, self.now)
            done, waiting = found[: self.most], found[self.most :]
            for each in done:
                self.last[each.job.key] = ran(each.slot_unix, self.now)
            for each in waiting:
                self.last.setdefault(each.job.key, each.noticed())
            self.runs.append(done)
            self.now += self.step
        return self.runs[first:]


def jobs(count: int, every_s: int, weight: float = 2.0) -> list[Job]:
    return [Job(f"call {every_s}-{number}", every_s, weight) for number in range(count)]


def test_what_the_inventory_schedules() -> None:
    pairs = (
        ProbePair("kr", "ae", 300, importance="high"),
        ProbePair("br", "cn", None),
        ProbePair("br", "ae", 86_400, importance="low"),
    )
    found = jobs_of(Probes(pairs, mesh_every_s=60))
    assert [(job.key, job.every_s, job.weight) for job in found] == [
        (MESH, 60, WEIGHT["normal"]),
        ("call ae-kr", 300, WEIGHT["high"]),
        ("call ae-br", 86_400, WEIGHT["low"]),
    ]
    assert [job.pair for job in found] == [None, pairs[0], pairs[2]]
    assert jobs_of(Probes()) == []
    assert [job.key for job in jobs_of(Probes(edges_every_s=900))] == [EDGES]


def test_a_pair_is_the_same_job_whoever_calls() -> None:
    assert key_of("kr", "ae") == key_of("ae", "kr")


def test_what_never_ran_is_due_at_once_and_then_at_its_slots() -> None:
    cron = Cron(jobs(1, 300))
    counts = [len(run) for run in cron.go(HOUR)]
    assert counts[0] == 1
    assert sum(counts) in (12, 13)
    times = [NOON + 60 * at for at, count in enumerate(counts) if count][2:]
    assert {later - earlier for earlier, later in pairwise(times)} == {300.0}


def test_jobs_of_one_cadence_spread_over_it() -> None:
    many = jobs(1000, 900)
    phases = Counter(int(slot(job, NOON + 900) % 900) // 90 for job in many)
    assert len(phases) == 10
    assert max(phases.values()) < 150


def test_slots_stay_where_they_are() -> None:
    """They depend on the name alone, so that another process, or another machine, finds the same."""
    job = Job("call ae-kr", 300)
    assert slot(job, NOON) == slot(job, NOON + 235) == NOON - 64
    assert slot(job, NOON + 236) == NOON + 236


def test_after_a_missed_hour_everything_is_due_once() -> None:
    cron = Cron(jobs(20, 300) + jobs(20, 900))
    cron.go(2 * HOUR)
    cron.now += HOUR
    first, *others = cron.go(HOUR)
    assert Counter(each.job.every_s for each in first) == {300: 20, 900: 20}
    assert all(each.late >= (HOUR - each.job.every_s) / each.job.every_s - 1 for each in first)
    # From then on as if nothing had been: nothing within half a period, and nobody makes up for lost slots.
    assert [len(run) for run in others[:2]] == [0, 0]
    of_each = Counter(each.job.key for run in others for each in run)
    assert {of_each[job.key] for job in cron.jobs if job.every_s == 300} <= {11, 12}
    assert {of_each[job.key] for job in cron.jobs if job.every_s == 900} <= {3, 4}


def test_catching_up_keeps_to_the_budget_and_serves_what_matters_first() -> None:
    high, normal, low = jobs(5, 300, 4.0), jobs(20, 300, 2.0), jobs(40, 86_400, 1.0)
    cron = Cron(low + normal + high, most=6)
    cron.go(26 * HOUR)
    cron.now += HOUR
    runs = cron.go(HOUR)
    assert all(len(run) <= 6 for run in runs)
    assert {each.job.key for each in runs[0]} >= {job.key for job in high}
    # 25 calls every 5 minutes fit into 30: within ten minutes of the hour everybody is back in his cadence.
    late = [each.late for run in runs[15:] for each in run]
    assert max(late) < 1


def test_too_much_work_is_shared_and_nobody_waits_for_ever() -> None:
    high, normal, low = jobs(10, 60, 4.0), jobs(10, 300, 2.0), jobs(10, 3600, 1.0)
    cron = Cron(high + normal + low, most=4)
    first = cron.go(24 * HOUR)
    assert {each.job.key for run in first for each in run} == {job.key for job in cron.jobs}
    counts = Counter(each.job.key for run in cron.go(24 * HOUR) for each in run)
    share = {job.key: counts[job.key] * job.every_s / (24 * HOUR) for job in cron.jobs}
    served = [[share[job.key] for job in own] for own in (high, normal, low)]
    assert min(served[0]) > max(served[1]) and min(served[1]) > max(served[2])
    assert all(counts[job.key] >= 2 for job in low)


@pytest.mark.parametrize("shift", [-0.9, -0.3, 0.3, 0.9])
def test_every_minute_is_every_run_however_cron_jitters(shift: float) -> None:
    job = Job(MESH, 60)
    last: Last = {}
    for minute in range(60):
        now = NOON + slot(job, NOON) % 60 + 60 * minute + (shift if minute % 2 else 0)
        (found,) = due([job], last, now)
        last = {MESH: ran(found.slot_unix, now)}


def test_a_run_right_after_a_run_finds_nothing() -> None:
    cron = Cron([Job(MESH, 60), *jobs(5, 300)])
    (first,) = cron.go(60)
    assert len(first) == 6
    assert due(cron.jobs, cron.last, NOON + 5) == []


def test_a_clock_that_was_set_back() -> None:
    """By a second: nothing happens twice. By a year: the times that were written then silence nothing."""
    (job,) = jobs(1, 300)
    newest = slot(job, NOON)
    assert due([job], {job.key: ran(newest, newest + 1)}, newest - 0.5) == []
    (found,) = due([job], {job.key: ran(NOON + 365 * 24 * HOUR)}, NOON)
    assert found.slot_unix == newest


def test_a_slow_cron_does_each_job_once_a_run() -> None:
    cron = Cron(jobs(10, 60), step=HOUR)
    assert [len(run) for run in cron.go(5 * HOUR)] == [10] * 5
