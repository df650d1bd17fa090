"""What `probe run` has to do now: jobs with a cadence, each with its own place in the cadence. Pure.

A job falls due at its slots: its phase (from its name, so that jobs of one cadence spread over it and every machine
finds the same) plus whole periods. However many slots went by, a job is due once: after a missed hour everything is
due, nothing twice, and what does not fit into a run's budget waits for the next one, the most late first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from commcli.fleet.probing import ProbePair, Probes

MESH, EDGES = "mesh", "edges"
# A job that waits as long as another in periods is served so much before it.
WEIGHT = {"high": 4.0, "normal": 2.0, "low": 1.0}
# cron starts a run so often at most: what is wanted as often is due in every run, whatever its slot.
RUN_EVERY_S = 60


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do every `every_s`; `pair` is None for the mesh and the edges."""

    key: str
    every_s: int
    weight: float = WEIGHT["normal"]
    pair: ProbePair | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """A job that is to be done now. `slot_unix`: for which slot; `late`: in periods, since the first slot missed."""

    job: Job
    slot_unix: float
    late: float

    @property
    def urgency(self) -> float:
        """Grows without end while the job waits, so that nothing waits for ever."""
        return self.job.weight * (1 + self.late)

    def noticed(self) -> dict[str, float]:
        """What to keep of a job that never ran and has to wait, so that it is known since when."""
        return {"due_unix": self.slot_unix - self.job.every_s, "ran_unix": 0.0}


def jobs_of(probes: Probes) -> list[Job]:
    """Everything that probes.yaml schedules."""
    jobs = [
        Job(key, every_s)
        for key, every_s in ((MESH, probes.mesh_every_s), (EDGES, probes.edges_every_s))
        if every_s is not None
    ]
    for pair in probes.scheduled():
        assert pair.every_s is not None
        jobs.append(Job(key_of(pair.a, pair.b), pair.every_s, WEIGHT[pair.importance], pair))
    return jobs


def key_of(one: str, other: str) -> str:
    """How the store knows the job of these two markets, whoever calls: "call ae-kr"."""
    return f"call {'-'.join(sorted((one, other)))}"


def due(jobs: Iterable[Job], last_runs: Mapping[str, Mapping[str, Any]], now: float) -> list[Due]:
    """The jobs to be done at `now` (unix s), the most urgent first. `last_runs` is the store's."""
    found = [each for job in jobs if (each := _due(job, last_runs.get(job.key), now)) is not None]
    return sorted(found, key=lambda each: (-each.urgency, each.job.key))


def slot(job: Job, unix: float) -> float:
    """The job's newest slot at `unix`."""
    digest = hashlib.sha256(job.key.encode()).digest()
    phase = int.from_bytes(digest[:8], "big") % job.every_s
    return (unix - phase) // job.every_s * job.every_s + phase


def _due(job: Job, last: Mapping[str, Any] | None, now: float) -> Due | None:
    newest = slot(job, now)
    # A clock that was wrong has written times to come: they must not silence the job until then.
    if last is None or last["due_unix"] > now + job.every_s or last["ran_unix"] > now + job.every_s:
        return Due(job, newest, (now - newest) / job.every_s)
    # What ran late has not to run again for a slot that comes soon after; that slot is served half a period later.
    if now - last["ran_unix"] < job.every_s / 2:
        return None
    if newest <= last["due_unix"] and job.every_s > RUN_EVERY_S:
        return None
    missed = slot(job, last["due_unix"]) + job.every_s
    return Due(job, max(newest, last["due_unix"]), max(0.0, (now - missed) / job.every_s))
