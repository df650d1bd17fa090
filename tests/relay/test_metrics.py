from __future__ import annotations

import re
from typing import Any

import pytest

from commcli.relay.process import metrics


def figures(**changes: Any) -> dict[str, Any]:
    """What one busy worker says."""
    return {
        "version": "1.0", "uptime_s": 12.5, "drain": False, "drained": False, "workers": 1, "allocations": 3,
        "allocations_by": {"udp": 2, "tcp": 1, "tls": 0},
        "traffic": {
            "packets": {"from_client": {"udp": 10, "tcp": 1}, "to_client": {"udp": 20}},
            "bytes": {"from_client": {"udp": 123_456_789_012, "tcp": 100}, "to_client": {"udp": 20_000}},
        },
        "turn": {
            "auth_ok": 5, "auth_failed": 2, "allocations_made": 4, "allocations_ended": 1, "quota_user": 7,
            "quota_total": 0, "error_401": 5, "error_486": 7,
        },
        "drops": {"no_permission": 4, "junk": 1},
        "loop_lag_ms": {"p50": 0.5, "p99": 2.0},
        "kernel_drops": 9,
        "streams": {
            "open": 4, "open_tcp": 3, "open_tls": 1, "half_open": 2, "handshakes": 1, "accepted": 9,
            "handshakes_done": 5,
        },
        "tls": {"not_after_unix": 2_000_000_000.0, "refused": None},
        "process": {"cpu_s": 1.25, "rss_bytes": 20 << 20},
        "reload": {"ok": 2, "refused": 1, "last_ok": False, "error": "no realm", "restart": []},
        "log_held_back": 6,
        "worker_restarts": 1,
        "table": {"serial": 17, "expires_unix": 1893456000.0, "expired": False, "refused": None},
        **changes,
    }  # fmt: skip


def overlay() -> dict[str, Any]:
    """What a node says of the overlay while a neighbour's segment loses packets (`Overlay.figures`)."""
    plan = {
        "resend": True, "copies": 3, "parity": None, "backup": False, "leave": False, "reason": "loss 3.1 %, rtt 80 ms",
        "expected_residual": 0.0004, "expected_overhead": 0.05,
    }  # fmt: skip
    way = {"path": ["ae-1", "hk-1", "sg-1"], "state": "up", "rtt_ms": 96.3}
    return {
        "serial": 17,
        "carries": True,
        "segments": {
            "sg-1": {
                "out": {
                    "datagrams": 1000, "bytes": 900_000, "packed": 40, "overflow": 0, "repeated": 31,
                    "mtu": {"mtu": 1500, "bytes": 1472},
                    "loss": 0.031, "burst": 1.4, "jitter_ms": 2.5, "queue_ms": 0.4, "rtt_ms": 80.5, "age_s": 0.1,
                    "leave": None, "plan": {"audio": plan, "video": plan},
                    "classes": {
                        "audio": {"datagrams": 600, "bytes": 90_000, "extra_bytes": 9_000},
                        "video": {"datagrams": 0, "bytes": 0, "extra_bytes": 0},
                    },
                },
                "in": {
                    "expected": 2000, "lost": 60, "repaired": 58, "reordered": 4, "duplicates": 1, "runs": 50,
                    "train_packets_lost": 5,
                },
                "hello": {"state": "alive", "hears_us": True, "rtt_ms": 79.0, "dead_after_ms": 132},
            }
        },
        "paths": {
            "sg-1": {
                "active": "backup", "straight": False, **way,
                "switches": [
                    {"unix": 1_999_999_990.0, "from": "primary", "to": "backup", "reason": "primary does not answer"}
                ],
                "candidates": {"primary": {**way, "state": "dead", "rtt_ms": None}, "backup": way},
            }
        },
        "buffers": {
            "sent": {"bytes": 524_288, "datagrams": 400, "most_bytes": 1_048_576},
            "flows": {"entries": 12, "most_entries": 8192},
        },
        "drops": {"forged": 2},
        "switched": {"primary": 3, "backup": 4, "last_resort": 0},
    }  # fmt: skip


OVERLAY_LINES = (
    'sent_datagrams_total{peer="sg-1"} 1000',
    'sent_bytes_total{peer="sg-1"} 900000',
    'packed_packets_total{peer="sg-1"} 40',
    'class_bytes_total{peer="sg-1",class="audio"} 90000',
    'extra_bytes_total{peer="sg-1",class="audio"} 9000',
    'class_bytes_total{peer="sg-1",class="video"} 0',
    'extra_bytes_total{peer="sg-1",class="video"} 0',
    'repeated_total{peer="sg-1"} 31',
    'overflow_total{peer="sg-1"} 0',
    'train_packets_lost_total{peer="sg-1"} 5',
    'loss_ratio{peer="sg-1"} 0.031',
    'rtt_seconds{peer="sg-1"} 0.0805',
    'queue_seconds{peer="sg-1"} 0.0004',
    'jitter_seconds{peer="sg-1"} 0.0025',
    'mtu_bytes{peer="sg-1"} 1500',
    'expected_total{peer="sg-1"} 2000',
    'lost_total{peer="sg-1"} 60',
    'repaired_total{peer="sg-1"} 58',
    'loss_runs_total{peer="sg-1"} 50',
    'reordered_total{peer="sg-1"} 4',
    'ways{path="backup"} 1',
    'ways{path="primary"} 0',
    "ways_dead 0",
    'path_switches_total{to="backup"} 4',
    'path_switches_total{to="last_resort"} 0',
    'path_switches_total{to="primary"} 3',
    'buffer_bytes{buffer="sent"} 524288',
    'buffer_limit_bytes{buffer="sent"} 1048576',
    'buffer_entries{buffer="flows"} 12',
    'buffer_limit_entries{buffer="flows"} 8192',
    'drops_total{reason="forged"} 2',
)


def test_the_overlay_has_its_lines_and_no_flow_has_one() -> None:
    page = metrics.render(figures(overlay=overlay())).splitlines()
    missing = [line for line in OVERLAY_LINES if f"commcli_relay_overlay_{line}" not in page]
    assert missing == []
    assert sum("overlay" in line and not line.startswith("#") for line in page) == len(OVERLAY_LINES) + 2
    assert "overlay" not in metrics.render(figures(overlay=None))
    quiet = overlay()
    quiet["segments"]["sg-1"]["out"]["rtt_ms"] = None
    assert 'overlay_rtt_seconds{peer="sg-1"} 0.079\n' in metrics.render(figures(overlay=quiet))
    bare: dict[str, Any] = {"segments": {"sg-1": {"out": {}, "in": {}}}, "paths": {}, "drops": {}}
    assert "overlay" not in metrics.render(figures(overlay=bare))


def test_every_family_has_help_and_type_once_and_its_name_keeps_the_conventions() -> None:
    page = metrics.render(figures(overlay=overlay())).splitlines()
    helped = [line.split()[2] for line in page if line.startswith("# HELP ")]
    typed = {line.split()[2]: line.split()[3] for line in page if line.startswith("# TYPE ")}
    assert len(helped) == len(set(helped)) and list(typed) == helped
    sampled = {re.split(r"[ {]", line)[0] for line in page if not line.startswith("#")}
    assert sampled == set(typed)
    for name, kind in typed.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_ms", "_kbit", "_percent")), name


def test_what_was_not_measured_has_no_line() -> None:
    page = metrics.render(figures(kernel_drops=None, tls=None, loop_lag_ms={"p50": None, "p99": None}))
    for name in ("kernel_drops", "tls_certificate", "loop_lag"):
        assert name not in page
    bare = metrics.render({"uptime_s": 1.0, "allocations": 3, "table": {"serial": None, "refused": None}})
    assert "commcli_relay_allocations 3\n" in bare and "commcli_relay_table" not in bare


def test_a_label_can_not_forge_a_line() -> None:
    page = metrics.render(figures(drops={'a"} 1\nforged 1': 2}))
    assert "\nforged" not in page


def test_workers_are_one_node() -> None:
    one = figures()
    other = figures(
        version="other", allocations=10, allocations_by={"udp": 10}, drops={"junk": 2, "bug": 1},
        loop_lag_ms={"p50": 0.1, "p99": 30.0}, tls={"not_after_unix": 1_900_000_000.0, "refused": "expired"},
        table=None, drain=True,
    )  # fmt: skip
    both = metrics.merge([one, other])
    assert (both["version"], both["workers"], both["allocations"], both["drain"]) == ("1.0", 2, 13, True)
    assert both["allocations_by"] == {"udp": 12, "tcp": 1, "tls": 0}
    assert both["drops"] == {"no_permission": 4, "junk": 3, "bug": 1}
    assert both["traffic"]["packets"]["from_client"] == {"udp": 20, "tcp": 2}
    assert both["turn"]["error_486"] == 14
    assert both["loop_lag_ms"] == {"p50": 0.5, "p99": 30.0}
    assert both["tls"] == {"not_after_unix": 1_900_000_000.0, "refused": "expired"}
    assert both["table"] == one["table"] and both["reload"] == one["reload"]
    assert both["kernel_drops"] == 18


def test_merging_neither_invents_nor_changes() -> None:
    one, idle = figures(), figures(kernel_drops=None, loop_lag_ms={"p50": None, "p99": None})
    before = repr((one, idle))
    assert metrics.merge([one]) == one
    assert metrics.merge([idle, idle])["kernel_drops"] is None
    assert metrics.merge([idle, idle])["loop_lag_ms"] == {"p50": None, "p99": None}
    assert metrics.merge([idle, one])["loop_lag_ms"] == one["loop_lag_ms"]
    assert repr((one, idle)) == before
    with pytest.raises(ValueError, match="no figures"):
        metrics.merge([])


def test_the_totals_of_a_server_become_the_section_traffic() -> None:
    totals = {("packets", "from_client", "udp"): 1, ("bytes", "to_client", "tls"): 2}
    assert metrics.traffic(totals) == {
        "packets": {"from_client": {"udp": 1}},
        "bytes": {"to_client": {"tls": 2}},
    }


def test_a_process_knows_its_own_use() -> None:
    used = metrics.process()
    assert used["rss_bytes"] > 1 << 20 and used["cpu_s"] > 0


def test_when_the_table_ends() -> None:
    line = "commcli_relay_table_expiry_timestamp_seconds"
    assert f"\n{line} 1893456000.0\n" in metrics.render(figures())
    nothing = {"serial": None, "expires_unix": None, "expired": False, "refused": None}
    assert line not in metrics.render(figures(table=nothing))
