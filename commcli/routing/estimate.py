"""Mesh windows from the store -> directed matrices. Pure; the time is an argument.

An edge i -> j is what node i measured about its peer j (STAMP, RFC 8762). RTT is the median over the last
windows, because one bad window must not move a route; loss is pooled over them, because a window alone holds
too few packets to tell 0 % from 2 %. Windows are 10 s long, or up to 300 s where a node may send each of many
peers only little. Unmeasured is NaN here and null outside, never 0.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commcli.store.windows import AHEAD_S

Matrix = NDArray[np.float64]
# (R, N, N) RTT in ms of the last rounds, the newest last; NaN: nobody looked, infinite: nothing came back.
Rounds = NDArray[np.float32]

# (from, to, packets lost on the way, of them repaired before the other end needed them)
Repair = tuple[str, str, int, int]

# Five windows of 10 s: a median of five is what the back-tests on public data liked best. Of longer windows fewer
# make up the time, and a window of a minute has a median over as much by itself.
ROUNDS = 5
ROUND_S = 10
# So far back a path is asked how it would have done. Back-tests on public data liked nine.
ROUNDS_KEPT = 9
# What an edge says now is no word on what it will say when its rounds were half away from the ones before them, on
# average. It is no part of a new relayed path then; one that is in force is left when next to nothing is left of it.
SKILLED, UNSKILLED = 0.5, 0.1
# A fleet is new until half of its edges have this many rounds: its nodes close their windows at times of their own, so
# at first some edges have two rounds and others one.
PAST = 3
# Below this a millisecond more or less is no sign of anything.
SMALL_MS = 20.0
# One standard error (Wilson): of an edge that lost nothing of 250 packets 0.4 % is assumed.
LOSS_ERRORS = 1.0
# Nodes keep 60 windows of 10 s; older figures than that belong to a mesh that was not read back.
MAX_AGE_S = 900.0
# Fewer packets than this cannot tell a clean edge from a bad one (one lost of eight reads as 12 %):
# unmeasured.
MIN_SAMPLES = 20
# A window that holds less of its neighbour of the same length is a relay's first: it also counts packets to peers
# that were not up yet.
FULL_WINDOW = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What is known about every directed edge; all matrices are (N, N), row = from, column = to, in order of
    `ids`.

    `rtt_ms`, `loss` (0..1), `jitter_ms` and `age_s` (of the newest window) are NaN where unmeasured;
    `samples` counts packets sent. The diagonal is unmeasured. `rounds` are the RTTs of up to ROUNDS_KEPT rounds.
    `loss_bound` is the upper confidence bound of the loss; `repaired` the share of its losses that the overlay was seen
    to repair (0 where nobody looked).
    """

    ids: tuple[str, ...]
    rtt_ms: Matrix
    loss: Matrix
    jitter_ms: Matrix
    age_s: Matrix
    samples: NDArray[np.int64]
    rounds: Rounds
    loss_bound: Matrix
    repaired: Matrix

    @property
    def skill(self) -> Matrix:
        """1: each round was as the one before it; 0: nothing like it. NaN where no two rounds are known."""
        before, after = self.rounds[:-1].astype(np.float64), self.rounds[1:].astype(np.float64)
        with np.errstate(invalid="ignore"):
            most = np.maximum(np.maximum(after, before), SMALL_MS)
            off = np.where(np.isinf(most), 1.0, np.abs(after - before) / most)
        off[np.isnan(before) | np.isnan(after)] = np.nan
        known = (~np.isnan(off)).sum(axis=0)
        skill: Matrix = 1.0 - np.where(known, np.nansum(off, axis=0) / np.maximum(known, 1), np.nan)
        return skill

    @property
    def is_new(self) -> bool:
        """Whether an edge of unknown skill is nothing unusual yet."""
        known = (~np.isnan(self.rounds)).sum(axis=0)[self.measured]
        return bool(known.size and np.median(known) < PAST)

    @property
    def cautious_ms(self) -> Matrix:
        """The worst RTT of the last rounds: what an edge is worth as a part of a new relayed path, which is the winner
        among many sums of noisy figures. Nowhere below `rtt_ms`.
        """
        return np.fmax(self.rtt_ms, worst(self.rounds))

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The edges that a path may use: both RTT and loss are known."""
        known: NDArray[np.bool_] = ~(np.isnan(self.rtt_ms) | np.isnan(self.loss))
        return known

    def sha256(self) -> str:
        """Digest of all that decides: names, RTT, loss, jitter (age only gates what enters them), and each round."""
        digest = hashlib.sha256("\0".join(self.ids).encode())
        for matrix in (self.rtt_ms, self.loss_bound, self.repaired, self.jitter_ms):
            # NaN has many bit patterns; equal estimates must have equal digests.
            digest.update(np.where(np.isnan(matrix), -1.0, matrix).astype("<f8").tobytes())
        digest.update(np.where(np.isnan(self.rounds), -1.0, self.rounds).astype("<f4").tobytes())
        return digest.hexdigest()


def from_matrices(ids: Sequence[str], rtt_ms: Matrix, loss: Matrix | None = None) -> Estimate:
    """An estimate from a finished RTT matrix in ms (NaN = unmeasured), as replays and what-ifs bring it.

    Without `loss` every measured edge counts as loss-free: a term that nobody measured decides nothing.
    """
    return from_rounds(ids, np.asarray(rtt_ms, dtype=np.float32)[None], loss)


def from_rounds(ids: Sequence[str], rounds: Rounds, loss: Matrix | None = None) -> Estimate:
    """An estimate from whole rounds (R, N, N), the newest last: RTT is their median. Otherwise as `from_matrices`."""
    rounds = np.array(rounds[-ROUNDS_KEPT:], dtype=np.float32)
    rounds[:, np.arange(len(ids)), np.arange(len(ids))] = np.nan
    rtt = median(rounds)
    rtt[np.isinf(rtt)] = np.nan
    known = np.where(np.isnan(rtt), np.nan, 0.0) if loss is None else np.array(loss, dtype=np.float64)
    return Estimate(
        ids=tuple(ids),
        rtt_ms=rtt,
        loss=known,
        jitter_ms=np.full_like(rtt, np.nan),
        age_s=np.where(np.isnan(rtt), np.nan, 0.0),
        samples=np.isfinite(rounds).sum(axis=0),
        rounds=rounds,
        loss_bound=known,
        repaired=np.zeros_like(known),
    )


def answered(rounds: Rounds) -> Rounds:
    """The rounds in which something came back; the others have their price as loss."""
    kept: Rounds = np.where(np.isinf(rounds), np.float32(np.nan), rounds)
    return kept


def worst(rounds: Rounds) -> Matrix:
    """(N, N): the longest RTT that each edge answered with; NaN where it never did."""
    found: Matrix = np.fmax.reduce(answered(rounds), axis=0, initial=np.nan).astype(np.float64)
    return found


def median(rounds: Rounds) -> Matrix:
    """(N, N) medians of what is known of each edge; NaN where nothing is."""
    if not len(rounds):
        return np.full(rounds.shape[1:], np.nan)
    ordered = np.sort(rounds, axis=0).astype(np.float64)  # NaN goes last
    last = np.maximum((~np.isnan(ordered)).sum(axis=0) - 1, 0)
    below, above = (np.take_along_axis(ordered, at[None], axis=0)[0] for at in (last // 2, (last + 1) // 2))
    with np.errstate(invalid="ignore"):
        between = below + 0.5 * (above - below)
    result: Matrix = np.where(below == above, below, between)
    return result


def estimate(
    ids: Sequence[str],
    windows: Iterable[Mapping[str, Any]],
    *,
    now_unix: float,
    rounds: int = ROUNDS,
    max_age_s: float = MAX_AGE_S,
    repairs: Iterable[Repair] = (),
) -> Estimate:
    """Matrices over `ids` from mesh windows: {"node", "peer", "start", "seconds", "sent", "received",
    "rtt_ms": {"p50"} or null, "loss", "loss_fwd", "jitter_fwd_ms", ...}. Windows of unknown nodes, those
    that ended more than `max_age_s` ago and those of the future are left out; of the rest the newest full
    `rounds` of each edge count: all of them for the loss, and for times as few as make up so many rounds of
    10 s. An edge with fewer than MIN_SAMPLES packets is unmeasured. `repairs` are (from, to, lost, repaired) packets of
    overlay segments.
    """
    position = {node: index for index, node in enumerate(ids)}
    edges: dict[tuple[int, int], list[Mapping[str, Any]]] = defaultdict(list)
    for window in windows:
        source, peer = position.get(window["node"]), position.get(window["peer"])
        if source is None or peer is None or source == peer:
            continue
        if -AHEAD_S <= now_unix - (window["start"] + window["seconds"]) <= max_age_s:
            edges[source, peer].append(window)
    size = len(position)
    rtt, loss, jitter, age = (np.full((size, size), np.nan) for _ in range(4))
    samples = np.zeros((size, size), dtype=np.int64)
    for edge, found in edges.items():
        last = _last_full(found, rounds)
        if sum(window["sent"] for window in last) < MIN_SAMPLES:
            continue
        now = _newest(last, rounds * ROUND_S)
        rtt[edge] = _median(window["rtt_ms"]["p50"] for window in now if window["rtt_ms"] is not None)
        loss[edge] = _pooled_loss(last)
        jitter[edge] = _median(w["jitter_fwd_ms"] for w in now if w.get("jitter_fwd_ms") is not None)
        age[edge] = max(0.0, now_unix - (last[-1]["start"] + last[-1]["seconds"]))
        samples[edge] = sum(window["sent"] for window in last)
    repaired_ = _repaired(position, repairs)
    rounds_ = _rounds(size, edges)
    return Estimate(tuple(ids), rtt, loss, jitter, age, samples, rounds_, bound(loss, samples), repaired_)


def bound(loss: Matrix, samples: NDArray[np.int64]) -> Matrix:
    """The upper end of Wilson's score interval (J. Am. Stat. Assoc. 22, 1927) of a share among so many samples."""
    z, n = LOSS_ERRORS, np.maximum(samples, 1)
    spread = z * np.sqrt(loss * (1 - loss) / n + (z / (2 * n)) ** 2)
    upper: Matrix = (loss + z * z / (2 * n) + spread) / (1 + z * z / n)
    return upper


def _repaired(position: Mapping[str, int], repairs: Iterable[Repair]) -> Matrix:
    lost, mended = np.zeros((2, len(position), len(position)))
    for source, target, gone, back in repairs:
        if source in position and target in position:
            edge = position[source], position[target]
            lost[edge] += gone
            mended[edge] += back
    # Fewer losses than this are an anecdote.
    share: Matrix = np.where(lost >= MIN_SAMPLES, np.minimum(1.0, mended / np.maximum(lost, 1)), 0.0)
    return share


def _rounds(size: int, edges: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]]) -> Rounds:
    """What all edges said at the same time, so that paths can be compared as they were. A round is as long as most
    windows are; of a longer window it has the figure that was in force then.
    """
    lengths = Counter(window["seconds"] for found in edges.values() for window in found)
    if not lengths:
        return np.full((0, size, size), np.nan, dtype=np.float32)
    step = lengths.most_common(1)[0][0]
    until = _until(edges)
    rounds = np.full((ROUNDS_KEPT, size, size), np.nan, dtype=np.float32)
    for edge, found in edges.items():
        for window in found:
            if window["sent"] < MIN_SAMPLES:
                continue
            rtt = np.inf if window["rtt_ms"] is None else window["rtt_ms"]["p50"]
            newest = (until - window["start"] - window["seconds"]) // step
            oldest = -(-(until - window["start"]) // step)
            for back in range(newest, max(oldest, newest + 1)):
                if 0 <= back < ROUNDS_KEPT:
                    rounds[(ROUNDS_KEPT - 1 - back, *edge)] = rtt
    return rounds


def _until(edges: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]]) -> int:
    """When the newest round ended that a quarter of the nodes know of, and never one alone: a clock that is ahead must
    not make everybody else's rounds old ones.
    """
    newest: dict[int, int] = {}
    for (source, _), found in edges.items():
        end = max(window["start"] + window["seconds"] for window in found)
        newest[source] = max(end, newest.get(source, end))
    ends = sorted(newest.values(), reverse=True)
    return ends[min(max(1, len(ends) // 4), len(ends) - 1)]


def _last_full(windows: Sequence[Mapping[str, Any]], rounds: int) -> list[Mapping[str, Any]]:
    ordered = sorted(windows, key=lambda window: window["start"])
    # As far as it takes: a relay of a day ago began with a window that is no neighbour of these.
    recent = ordered[-rounds - 2 :]
    return [window for window, *beside in _neighbours(recent) if _is_full(window, beside)][-rounds:]


def _neighbours(
    windows: Sequence[Mapping[str, Any]],
) -> Iterable[tuple[Mapping[str, Any], ...]]:
    """Each window, and the one or two beside it."""
    for place, window in enumerate(windows):
        yield window, *windows[max(0, place - 1) : place], *windows[place + 1 : place + 2]


def _is_full(window: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> bool:
    alike = [other["sent"] for other in beside if other["seconds"] == window["seconds"]]
    return bool(window["sent"] >= FULL_WINDOW * max(alike, default=0))


def _newest(windows: Sequence[Mapping[str, Any]], span_s: float) -> Sequence[Mapping[str, Any]]:
    """The last of them that make up `span_s`. An odd number: the median of two is moved by one bad window."""
    count, taken_s = 0, 0
    for window in reversed(windows):
        if taken_s >= span_s and count % 2:
            break
        count, taken_s = count + 1, taken_s + window["seconds"]
    return windows[-count:]


def _median(values: Iterable[float]) -> float:
    known = list(values)
    return float(np.median(known)) if known else float("nan")


def _pooled_loss(windows: Sequence[Mapping[str, Any]]) -> float:
    """Lost over sent, the forward direction where it is known; a window in which nothing came back has lost
    all.
    """
    sent = lost = 0.0
    for window in windows:
        fraction = window["loss_fwd"] if window.get("loss_fwd") is not None else window["loss"]
        if fraction is None or not window["sent"]:
            continue
        sent += window["sent"]
        lost += fraction * window["sent"]
    return lost / sent if sent else float("nan")


def unmeasured_as_none(value: float | np.floating[Any], digits: int = 3) -> float | None:
    """A figure for JSON: null where it is NaN or infinite."""
    return round(float(value), digits) if np.isfinite(value) else None
