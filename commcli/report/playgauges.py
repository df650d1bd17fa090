"""What a `play run` from cron leaves for Prometheus, and the one line on what went wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commcli.report import textfile
from commcli.report.play import names
from commcli.report.textfile import Metric

RUN = "commcli_play_run_"


def line(doc: Mapping[str, Any]) -> str:
    """What went wrong, by cause, and where its log is."""
    causes: dict[str, list[str]] = {}
    for row in doc["nodes"]:
        if row["state"] != "done":
            causes.setdefault(f"{row['state']}: {row['reason']}", []).append(row["node"])
    done = f"{doc['counts'].get('done', 0)} of {len(doc['nodes'])} nodes done"
    told = [f"play {doc['play']} on {doc['fleet']}: {done}"]
    told += [f"{names(nodes)}: {cause}" for cause, nodes in causes.items()]
    rollout = doc.get("rollout") or {}
    told += [f"stopped: {rollout['stopped']}"] if rollout.get("stopped") and not causes else []
    told += ["rolled back"] if rollout.get("rolled_back") else []
    told += [f"log {doc['log']}"] if doc.get("log") else []
    return " ".join("; ".join(told).split())


def text(doc: Mapping[str, Any] | None, code: int, unix: float, seconds: float, before: str) -> str:
    """The textfile's new text, after what was there `before`. `doc`: None for a run that failed before it had one."""
    metrics = textfile.of_run(RUN, "play run", code, unix, seconds, before)
    if doc is not None:
        states = [({"state": state}, float(count)) for state, count in sorted(doc["counts"].items())]
        metrics += [
            Metric(f"{RUN}nodes", "Nodes of the last play run by what became of them.", states),
            Metric(
                f"{RUN}changed",
                "What it changed, or with --check what would be changed.",
                [({}, doc["changed"])],
            ),
        ]
    return textfile.render(metrics)
