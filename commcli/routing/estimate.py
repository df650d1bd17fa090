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

# Five windows of 10 s: a median of five is what the back-tests on public data liked best. Of longer windows fewer
# make up the time, and a window of a minute has a median over as much by itself.
ROUNDS = 5
ROUND_S = 10
# So far back a path is asked how it would have done. Back-tests on public data liked nine, and a cautious RTT at 0.7.
ROUNDS_KEPT = 9
CAUTION = 0.7
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
    """

    ids: tuple[str, ...]
    rtt_ms: Matrix
    loss: Matrix
    jitter_ms: Matrix
    age_s: Matrix
    samples: NDArray[np.int64]
    rounds: Rounds

    @property
    def cautious_ms(self) -> Matrix:
        """RTT that was met or bettered in seven of ten rounds: what an edge is worth as a part of a relayed path, which
        is the winner among many sums of noisy figures. Nowhere below `rtt_ms`.
        """
        cautious: Matrix = np.fmax(self.rtt_ms, quantile(answered(self.rounds), CAUTION))
        return cautious

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The edges that a path may use: both RTT and loss are known."""
        known: NDArray[np.bool_] = ~(np.isnan(self.rtt_ms) | np.isnan(self.loss))
        return known

    def sha256(self) -> str:
        """Digest of all that decides: names, RTT, loss, jitter (age and samples only gate what enters them)."""
        digest = hashlib.sha256("\0".join(self.ids).encode())
        for matrix in (self.rtt_ms, self.loss, self.jitter_ms):
            # NaN has many bit patterns; equal estimates must have equal digests.
            digest.update(np.where(np.isnan(matrix), -1.0, matrix).astype("<f8").tobytes())
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
    rtt = quantile(rounds, 0.5)
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
    )


def answered(rounds: Rounds) -> Rounds:
    """The rounds in which something came back; the others have their price as loss."""
    kept: Rounds = np.where(np.isinf(rounds), np.float32(np.nan), rounds)
    return kept


def quantile(rounds: Rounds, share: float) -> Matrix:
    """(N, N) quantiles of what is known of each edge, between two values by their distance; NaN where nothing is."""
    if not len(rounds):
        return np.full(rounds.shape[1:], np.nan)
    ordered = np.sort(rounds, axis=0).astype(np.float64)  # NaN goes last
    known = (~np.isnan(ordered)).sum(axis=0)
    at = np.maximum(known - 1, 0) * share
    low, part = np.floor(at).astype(np.intp), at % 1.0
    below = np.take_along_axis(ordered, low[None], axis=0)[0]
    above = np.take_along_axis(ordered, np.minimum(low + 1, np.maximum(known - 1, 0))[None], axis=0)[0]
    with np.errstate(invalid="ignore"):
        between = below + part * (above - below)
    result: Matrix = np.where((part == 0) | (below == above), below, between)
    return result


def estimate(
    ids: Sequence[str],
    windows: Iterable[Mapping[str, Any]],
    *,
    now_unix: float,
    rounds: int = ROUNDS,
    max_age_s: float = MAX_AGE_S,
) -> Estimate:
    """Matrices over `ids` from mesh windows: {"node", "peer", "start", "seconds", "sent", "received",
    "rtt_ms": {"p50"} or null, "loss", "loss_fwd", "jitter_fwd_ms", ...}. Windows of unknown nodes, those
    that ended more than `max_age_s` ago and those of the future are left out; of the rest the newest full
    `rounds` of each edge count: all of them for the loss, and for times as few as make up so many rounds of
    10 s. An edge with fewer than MIN_SAMPLES packets is unmeasured.
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
    return Estimate(tuple(ids), rtt, loss, jitter, age, samples, _rounds(size, edges))


def _rounds(size: int, edges: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]]) -> Rounds:
    """What all edges said at the same time, so that paths can be compared as they were. A round is as long as most
    windows are; of a longer window it has the figure that was in force then.
    """
    lengths = Counter(window["seconds"] for found in edges.values() for window in found)
    if not lengths:
        return np.full((0, size, size), np.nan, dtype=np.float32)
    step = lengths.most_common(1)[0][0]
    until = max(window["start"] + window["seconds"] for found in edges.values() for window in found)
    rounds = np.full((ROUNDS_KEPT, size, size), np.nan, dtype=np.float32)
    for edge, found in edges.items():
        for window in found:
            if window["sent"] < MIN_SAMPLES:
                continue
            rtt = np.inf if window["rtt_ms"] is None else window["rtt_ms"]["p50"]
            newest = (until - window["start"] - window["seconds"]) // step
            oldest = -(-(until - window["start"]) // step)
            for back in range(newest, max(oldest, newest + 1)):
                if back < ROUNDS_KEPT:
                    rounds[(ROUNDS_KEPT - 1 - back, *edge)] = rtt
    return rounds


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
