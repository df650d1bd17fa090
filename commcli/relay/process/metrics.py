"""The figures of a relay: their document, one document out of those of several workers, and the Prometheus page.

The figures document (JSON-able). A section that is absent or None was not measured; none names a user or an address:

    drain: bool, drained: bool, allocations: int, workers: int, uptime_s: float, version: str
    allocations_by   {"udp"|"tcp"|"tls": live allocations}
    traffic          {"packets"|"bytes": {"from_client"|"to_client": {"udp"|"tcp"|"tls": since the start}}}
    turn             {counter: since the start}: auth_ok auth_failed allocations_made allocations_ended quota_user
                     quota_total, and error_CODE for replies by error code
    drops            {reason: since the start}
    loop_lag_ms      {"p50", "p99"}: how late the loop's ticks were lately; of several workers the worst
    kernel_drops     datagrams that the kernel dropped at our sockets, since the start
    streams          {"open", "open_tcp", "open_tls", "half_open", "handshakes": now; "accepted", "handshakes_done":
                     since the start} (stream.Streams.figures)
    tls              {"not_after_unix": when the certificate ends, "refused": what is wrong with its files or None};
                     None where there is no TLS port
    process          {"cpu_s": since the start, "rss_bytes": now}
    reload           {"ok", "refused": since the start, "last_ok": bool or None}
    log_held_back    lines, since the start
    worker_restarts  workers that died and were started again, since the start: the node's; of one process none
    table            {"serial", "expires_unix", "expired", "refused"}: the node's, not a worker's; without a table
                     serial and expires_unix are None
    overlay          what `Overlay.status` says of segments, paths and their changes, buffers, drops: the node's, not
                     a worker's
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

Figures = Dict[str, Any]
Sample = Tuple[Mapping[str, str], Optional[float]]

_PREFIX = "commcli_relay_"


# --- the document -----------------------------------------------------------------------------------------------


def traffic(totals: "Mapping[Tuple[str, str, str], int]") -> Dict[str, Any]:
    """The section `traffic` of what `turn.Server.totals` says: {("packets", "from_client", "udp"): n, ...}."""
    section: Dict[str, Any] = {}
    for (what, direction, transport), count in totals.items():
        section.setdefault(what, {}).setdefault(direction, {})[transport] = count
    return section


def process() -> Dict[str, float]:
    """The section `process` of the process that asks."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": round(usage.ru_utime + usage.ru_stime, 3), "rss_bytes": _resident_bytes()}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def merge(parts: Sequence[Figures]) -> Figures:
    """One document for a node out of one a worker.

    Counts are added; a lag is that of the worst worker, a certificate's end that of the first to end. What is not
    one worker's (names, versions, the table, the peers) is taken from the first part. Raises ValueError for no parts.
    """
    if not parts:
        raise ValueError("no figures to merge")
    merged = dict(parts[0])
    for key, combine in _COMBINE.items():
        values = [part[key] for part in parts if part.get(key) is not None]
        if values:
            merged[key] = combine(values)
    return merged


def counted(part: Figures) -> Figures:
    """Of a worker that is gone, what it had counted since its start: without that, the node's sums would fall."""
    held: Figures = {
        key: part[key] for key in ("traffic", "turn", "drops", "kernel_drops", "log_held_back") if key in part
    }
    for key, counts in (("streams", ("accepted", "handshakes_done")), ("process", ("cpu_s",))):
        held[key] = {name: part[key][name] for name in counts if name in (part.get(key) or {})}
    return held


def ended(part: Figures) -> Figures:
    """`counted` of a worker that died: with it ended every allocation that it had made."""
    held = counted(part)
    turn = held.get("turn") or {}
    return {**held, "turn": {**turn, "allocations_ended": turn.get("allocations_made")}}


def _sum(values: Sequence[Any]) -> Any:
    """Numbers are added, mappings key by key, however deep."""
    if not isinstance(values[0], Mapping):
        return sum(values)
    keys = dict.fromkeys(key for value in values for key in value)
    held = {key: [value[key] for value in values if value.get(key) is not None] for key in keys}
    return {key: _sum(found) if found else None for key, found in held.items()}


def _each(pick: Callable[[List[Any]], Any]) -> Callable[[Sequence[Any]], Dict[str, Any]]:
    """Key by key what `pick` takes of the values that are not None."""

    def combine(values: Sequence[Any]) -> Dict[str, Any]:
        keys = dict.fromkeys(key for value in values for key in value)
        held = {key: [value[key] for value in values if value.get(key) is not None] for key in keys}
        return {key: pick(found) if found else None for key, found in held.items()}

    return combine


_COMBINE: Dict[str, Callable[[Sequence[Any]], Any]] = {
    "drain": any,
    "allocations": _sum,
    "workers": _sum,
    "allocations_by": _sum,
    "traffic": _sum,
    "turn": _sum,
    "drops": _sum,
    "loop_lag_ms": _each(max),
    "kernel_drops": _sum,
    "streams": _sum,
    "tls": _each(min),
    "process": _sum,
    "log_held_back": _sum,
}


# --- the page -----------------------------------------------------------------------------------------------------


def render(figures: Figures) -> str:
    """The Prometheus page (text format 0.0.4). What was not measured has no line."""
    lines: List[str] = []
    metrics = (
        *_calls(figures),
        *_trouble(figures),
        *_machine(figures),
        *_overlay(figures.get("overlay") or {}),
    )
    for name, kind, text, samples in metrics:
        measured = [(labels, value) for labels, value in samples if value is not None]
        if measured:
            lines += [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
            lines += [f"{_PREFIX}{name}{_labels(labels)} {_number(value)}" for labels, value in measured]
    return "\n".join(lines) + "\n"


Metric = Tuple[str, str, str, List[Sample]]


def _gauge(name: str, text: str, value: "Union[float, List[Sample], None]") -> Metric:
    return name, "gauge", text, value if isinstance(value, list) else [({}, value)]


def _counter(name: str, text: str, value: "Union[float, List[Sample], None]") -> Metric:
    return name, "counter", text, value if isinstance(value, list) else [({}, value)]


def _calls(figures: Figures) -> List[Metric]:
    turn, moved, streams = (figures.get(key) or {} for key in ("turn", "traffic", "streams"))
    by_transport = figures.get("allocations_by")
    live = figures.get("allocations") if by_transport is None else _by("transport", by_transport)
    transports = {transport: streams.get(f"open_{transport}") for transport in ("tcp", "tls")}
    return [
        _gauge("allocations", "Live allocations by the client's transport.", live),
        _counter("allocations_created_total", "Allocations made.", turn.get("allocations_made")),
        _counter("allocations_ended_total", "Allocations that ended.", turn.get("allocations_ended")),
        _counter("packets_total", "Relayed packets.", _moved(moved.get("packets", {}))),
        _counter("bytes_total", "Bytes of the payload of relayed packets.", _moved(moved.get("bytes", {}))),
        _gauge("streams", "Open connections of clients by transport.", _by("transport", transports)),
        _gauge("streams_half_open", "Those without an allocation yet.", streams.get("half_open")),
        _gauge("tls_handshakes_pending", "TLS handshakes under way.", streams.get("handshakes")),
        _counter("streams_accepted_total", "Connections taken.", streams.get("accepted")),
        _counter("tls_handshakes_total", "TLS handshakes completed.", streams.get("handshakes_done")),
        _gauge("draining", "1 while no new allocation is taken.", figures.get("drain")),
        _gauge("drained", "1 when a drain has come to its threshold.", figures.get("drained")),
    ]


def _trouble(figures: Figures) -> List[Metric]:
    turn = figures.get("turn") or {}
    auth = {"ok": turn.get("auth_ok"), "failed": turn.get("auth_failed")}
    quotas = {"user": turn.get("quota_user"), "total": turn.get("quota_total")}
    codes = {key[len("error_") :]: count for key, count in turn.items() if key.startswith("error_")}
    lost = "Datagrams that the kernel dropped at the relay's sockets."
    return [
        _counter("auth_total", "Requests with credentials by result.", _by("result", auth)),
        _counter("error_replies_total", "Error replies by STUN error code.", _by("code", codes)),
        _counter("quota_refusals_total", "Allocations refused by a quota.", _by("quota", quotas)),
        _counter("drops_total", "Packets dropped by reason.", _by("reason", figures.get("drops") or {})),
        _counter("kernel_drops_total", lost, figures.get("kernel_drops")),
        _counter("log_lines_held_back_total", "Log lines kept back.", figures.get("log_held_back")),
    ]


def _machine(figures: Figures) -> List[Metric]:
    lag, reload, used, tls = (figures.get(key) or {} for key in ("loop_lag_ms", "reload", "process", "tls"))
    reloads = {result: reload.get(result) for result in ("ok", "refused")}
    version: List[Sample] = [({"version": str(figures.get("version", ""))}, 1)]
    ends = "When the TLS certificate ends, in Unix time."
    return [
        _gauge("info", "Always 1.", version),
        _gauge("uptime_seconds", "Seconds since the start.", figures.get("uptime_s")),
        _gauge("workers", "Processes that serve clients.", figures.get("workers")),
        _counter(
            "worker_restarts_total", "Workers that died and came again.", figures.get("worker_restarts")
        ),
        _gauge("loop_lag_p50_seconds", "How late the loop was, median.", _seconds(lag.get("p50"))),
        _gauge("loop_lag_p99_seconds", "How late the loop was, p99.", _seconds(lag.get("p99"))),
        _counter("cpu_seconds_total", "User and system time.", used.get("cpu_s")),
        _gauge("resident_memory_bytes", "Resident memory.", used.get("rss_bytes")),
        _gauge("tls_certificate_expiry_timestamp_seconds", ends, tls.get("not_after_unix")),
        _gauge("tls_certificate_refused", "1 while its files cannot be used.", _refused(figures.get("tls"))),
        _counter("reloads_total", "Reloads of the configuration by result.", _by("result", reloads)),
        _gauge("config_last_reload_successful", "0 when the last was refused.", reload.get("last_ok")),
        *_table(figures.get("table") or {}),
    ]


def _refused(tls: Optional[Mapping[str, Any]]) -> Optional[bool]:
    return None if tls is None else tls.get("refused") is not None


def _table(table: Mapping[str, Any]) -> List[Metric]:
    loaded, refused = table.get("serial") is not None, table.get("refused") is not None
    return [
        _gauge("table_serial", "Serial of the table in force.", table.get("serial")),
        _gauge("table_expiry_timestamp_seconds", "When it expires, Unix time.", table.get("expires_unix")),
        _gauge("table_expired", "1 when it has expired.", table.get("expired") if loaded else None),
        _gauge("table_refused", "1 when a newer one was refused.", refused if loaded or refused else None),
    ]


# A label a neighbour, a class of traffic, a buffer: as many lines as the fleet has nodes, however many calls there are.


def _overlay(overlay: Mapping[str, Any]) -> List[Metric]:
    segments: Mapping[str, Any] = overlay.get("segments") or {}
    return [
        *_sent(segments),
        *_came(segments),
        *_ways(overlay.get("paths") or {}),
        _counter("overlay_path_switches_total", "Changes of path.", _by("to", overlay.get("switched") or {})),
        *_buffers(overlay.get("buffers") or {}),
        _counter("overlay_drops_total", "Dropped by the overlay.", _by("reason", overlay.get("drops") or {})),
    ]


def _sent(segments: Mapping[str, Any]) -> List[Metric]:
    def column(*keys: str) -> List[Sample]:
        return [({"peer": peer}, _found(told, "out", *keys)) for peer, told in sorted(segments.items())]

    def seconds(key: str) -> List[Sample]:
        return [(labels, _seconds(value)) for labels, value in column(key)]

    # Hellos measure it also where nothing flows and so nothing is reported.
    rtt_s = [
        (labels, _seconds(_found(segments[labels["peer"]], "hello", "rtt_ms")))
        if value is None
        else (labels, value)
        for labels, value in seconds("rtt_ms")
    ]

    return [
        _counter("overlay_sent_datagrams_total", "Datagrams to a neighbour.", column("datagrams")),
        _counter("overlay_sent_bytes_total", "Their bytes.", column("bytes")),
        _counter("overlay_packed_packets_total", "Packets that shared a datagram.", column("packed")),
        _counter("overlay_class_bytes_total", "Media by class.", _by_class(segments, "bytes")),
        _counter("overlay_extra_bytes_total", "Bytes to protect it.", _by_class(segments, "extra_bytes")),
        _counter("overlay_repeated_total", "Datagrams sent again on request.", column("repeated")),
        _counter("overlay_overflow_total", "Packets that found no room in a turn.", column("overflow")),
        _gauge("overlay_loss_ratio", "Loss that the neighbour reports.", column("loss")),
        _gauge("overlay_rtt_seconds", "Round trip to the neighbour.", rtt_s),
        _gauge("overlay_queue_seconds", "Queueing on the way there.", seconds("queue_ms")),
        _gauge("overlay_jitter_seconds", "Delay variation on the way there.", seconds("jitter_ms")),
        _gauge("overlay_mtu_bytes", "Path MTU in use.", column("mtu", "mtu")),
    ]


def _came(segments: Mapping[str, Any]) -> List[Metric]:
    def column(key: str) -> List[Sample]:
        return [({"peer": peer}, _found(told, "in", key)) for peer, told in sorted(segments.items())]

    return [
        _counter("overlay_expected_total", "Datagrams that a neighbour sent us.", column("expected")),
        _counter("overlay_lost_total", "Of them lost on the way.", column("lost")),
        _counter("overlay_repaired_total", "Of the lost repaired.", column("repaired")),
        _counter(
            "overlay_train_packets_lost_total",
            "Packets of trains that came apart.",
            column("train_packets_lost"),
        ),
        _counter("overlay_loss_runs_total", "Losses in a row, counted once.", column("runs")),
        _counter("overlay_reordered_total", "Datagrams that were overtaken.", column("reordered")),
    ]


def _by_class(segments: Mapping[str, Any], key: str) -> List[Sample]:
    return [
        ({"peer": peer, "class": name}, traffic.get(key))
        for peer, told in sorted(segments.items())
        for name, traffic in sorted((_found(told, "out", "classes") or {}).items())
    ]


def _ways(paths: Mapping[str, Any]) -> List[Metric]:
    labels = {"primary": 0, "backup": 0, "last_resort": 0, "straight": 0}
    dead = 0
    for way in paths.values():
        label = "straight" if way["straight"] else way["active"]
        labels[label] = labels.get(label, 0) + 1
        dead += way["state"] == "dead"
    return [
        _gauge("overlay_ways", "Other edges by the path in use.", _by("path", labels if paths else {})),
        _gauge("overlay_ways_dead", "Those that no path leads to.", dead if paths else None),
    ]


def _buffers(buffers: Mapping[str, Any]) -> List[Metric]:
    def column(key: str) -> List[Sample]:
        return _by("buffer", {name: buffer.get(key) for name, buffer in buffers.items()})

    return [
        _gauge("overlay_buffer_bytes", "Memory of a buffer, of all neighbours.", column("bytes")),
        _gauge("overlay_buffer_limit_bytes", "Its bound.", column("most_bytes")),
        _gauge("overlay_buffer_entries", "Rows of a buffer, of all neighbours.", column("entries")),
        _gauge("overlay_buffer_limit_entries", "Its bound.", column("most_entries")),
    ]


def _found(document: Any, *keys: str) -> Any:
    """What stands under the keys, None where there is nothing."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _by(label: str, values: "Mapping[str, Optional[float]]") -> List[Sample]:
    return [({label: key}, value) for key, value in sorted(values.items())]


def _moved(by_direction: "Mapping[str, Mapping[str, float]]") -> List[Sample]:
    return [
        ({"direction": direction, "transport": transport}, value)
        for direction, by_transport in sorted(by_direction.items())
        for transport, value in sorted(by_transport.items())
    ]


def _seconds(ms: Optional[float]) -> Optional[float]:
    return None if ms is None else ms / 1000


def _labels(labels: "Mapping[str, str]") -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Exact: a counter of bytes rounded to six digits would stand still and then jump."""
    return repr(float(value)) if isinstance(value, float) else str(int(value))
