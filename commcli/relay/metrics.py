"""Prometheus text format (version 0.0.4) of a relay's status document."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Tuple

Sample = Tuple[str, float]


def render(status: Dict[str, Any]) -> str:
    """The page for a status document (control command `status`). No label holds a user or a client."""
    turn, table = status["turn"], status["table"]
    lines: List[str] = []
    lines += _metric("commcli_relay_uptime_seconds", "gauge", [("", status["uptime_s"])])
    lines += _metric("commcli_relay_allocations", "gauge", [("", status["allocations"])])
    lines += _metric("commcli_relay_draining", "gauge", [("", float(status["drain"]))])
    lines += _metric("commcli_relay_table_serial", "gauge", [("", table["serial"] or 0)])
    lines += _metric("commcli_relay_table_refused", "gauge", [("", float(table["refused"] is not None))])
    lines += _metric("commcli_relay_drops_total", "counter", _by("reason", status["drops"]))
    lines += _metric("commcli_relay_turn_total", "counter", _by("what", turn))
    lag = [(quantile, value) for quantile, value in status["loop_lag_ms"].items() if value is not None]
    lines += _metric("commcli_relay_loop_lag_ms", "gauge", _by("quantile", dict(lag)))
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, samples: Iterable[Sample]) -> List[str]:
    return [f"# TYPE {name} {kind}"] + [f"{name}{labels} {value:g}" for labels, value in samples]


def _by(label: str, values: Dict[str, float]) -> List[Sample]:
    return [(f'{{{label}="{key}"}}', value) for key, value in sorted(values.items())]
