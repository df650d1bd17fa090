"""Facts in, findings out: one table of cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from commcli.health.facts import Clock, Disk, Facts, Load
from commcli.health.judge import Finding, Limits, Overview, Verdict, judge, overview, worst
from tests.health.nodes import GIB, HEALTHY, NOW, relay

FLEET = Overview(serial=7, version="1.0")


def found(facts: Facts, check: str, fleet: Overview = FLEET) -> Finding | None:
    return next((finding for finding in judge(facts, fleet, Limits()) if finding.check == check), None)


def test_a_healthy_node_is_ok_in_every_check() -> None:
    findings = judge(HEALTHY, FLEET, Limits())
    assert {finding.verdict for finding in findings} == {"ok"}
    assert {f.check for f in findings} == {
        "relay", "table", "peers", "sessions", "lag", "clock", "disk", "load", "python",
    }  # fmt: skip
    assert all(finding.reason for finding in findings)


CASES: list[tuple[str, Facts, str, Verdict, str]] = [
    # what, facts, check, verdict, words in the reason
    ("no relay", replace(HEALTHY, relay=None, errors={"relay": "not running"}), "relay", "fail", "relay not running"),
    ("another version", relay(version="0.9"), "relay", "warn", "relay runs 0.9, this commcli ships 1.0"),
    ("uptime", relay(uptime_s=90_000), "relay", "ok", "up 1 d 1 h"),
    ("old serial", relay(serial=6), "table", "warn", "serial 6 of 7"),
    ("newer serial than seen", relay(serial=8), "table", "ok", "serial 8"),
    ("no table, fleet has one", relay(serial=None), "table", "fail", "the fleet has serial 7"),
    ("expired a second ago", relay(expires_unix=NOW - 1), "table", "fail", "expired 1 s ago and stays in use"),
    ("expires now", relay(expires_unix=NOW), "table", "fail", "expired"),
    ("expires tonight", relay(expires_unix=NOW + 86399), "table", "fail", "in 23 h 59 min (fails under 1 d)"),
    ("expires tomorrow", relay(expires_unix=NOW + 86400), "table", "warn", "expires in 1 d (warns under 3 d)"),
    ("nobody renewed it", relay(expires_unix=NOW + 3 * 86400 - 1), "table", "warn", "(warns under 3 d)"),
    ("it is renewed about now", relay(expires_unix=NOW + 3 * 86400), "table", "ok", "expires in 3 d"),
    ("old, and expires tonight", relay(serial=6, expires_unix=NOW + 3600), "table", "fail", "serial 6 expires in 1 h"),
    ("refused, old one stays", relay(refused="bad signature"), "table", "warn", "bad signature; serial 7 stays"),
    ("refused, none left", relay(refused="expired", serial=None), "table", "fail", "no table is loaded"),
    ("one peer silent", relay(peers_rtt_ms={"a": None, "b": 1.0}), "peers", "warn", "1 of 2 peers: a"),
    ("all peers silent", relay(peers_rtt_ms={"a": None, "b": None}), "peers", "fail", "2 of 2 peers: a, b"),
    ("silent, but young", relay(peers_rtt_ms={"a": None}, uptime_s=5), "peers", "ok", "not measured yet"),
    ("on the last resort", relay(ways={"a": "last_resort", "b": "primary"}), "paths", "warn",
     "last resort to a (of 2 edges)"),
    ("dead and straight", relay(ways={"c": "dead", "a": "straight", "b": "backup"}), "paths", "warn",
     "no path to c; straight, since no path answers, to a (of 3 edges, 1 on the backup)"),
    ("no path at all", relay(ways={"a": "dead", "b": "straight"}), "paths", "fail", "no path to a"),
    ("no path yet", relay(ways={"a": "dead"}, uptime_s=5), "paths", "ok", "not all paths to 1 edges tried yet"),
    ("backups", relay(ways={"a": "primary", "b": "backup"}), "paths", "ok", "paths to all 2 edges, 1 on the backup"),
    ("mostly backups", relay(ways={"a": "primary", "b": "backup", "c": "backup"}), "paths", "warn",
     "2 of 3 ways on the backup (warns over 50%)"),
    ("mostly backups, but young", relay(ways={"a": "backup"}, uptime_s=5), "paths", "ok", "tried yet"),
    ("a little loss", relay(loss={"a": 0.01, "b": 0.049}), "loss", "ok", "4.9% lost at most, towards b"),
    ("heavy loss", relay(loss={"a": 0.05, "b": 0.2, "c": 0.0}), "loss", "warn",
     "lost 20.0% towards b, 5.0% towards a (warns from 5%)"),
    ("a table of an older controller", relay(carries=False), "table", "warn", "table without `carries`: packets pass"),
    ("a table with carries", relay(carries=True), "table", "ok", "serial 7"),
    ("no table, no carries", relay(carries=False, serial=None), "table", "fail", "the fleet has serial 7"),
    ("keys of peers that were not asked", relay(send_keys={"b": "01ab"}), "keys", "ok", "keys of 1 pairs"),
    ("draining", relay(drain=True, allocations=3), "drain", "ok", "draining, 3 allocations left"),
    ("TLS without a certificate", relay(tls=True), "tls", "fail", "no certificate that the relay can use"),
    ("certificate expired", relay(tls=True, tls_until_unix=NOW - 7200), "tls", "fail", "expired 2 h ago"),
    ("it ends now", relay(tls=True, tls_until_unix=NOW), "tls", "fail", "expired"),
    ("it ends tonight", relay(tls=True, tls_until_unix=NOW + 86399), "tls", "fail", "23 h 59 min (fails under 1 d)"),
    ("it ends in 13 days", relay(tls=True, tls_until_unix=NOW + 13 * 86400), "tls", "warn", "13 d (warns under 14 d)"),
    ("a renewal failed", relay(tls=True, tls_until_unix=NOW + 89 * 86400, tls_refused="fullchain.pem: not a PEM file"),
     "tls", "warn", "certificate refused: fullchain.pem: not a PEM file; TLS certificate expires in 89 d"),
    ("it failed until the end was near", relay(tls=True, tls_until_unix=NOW + 3600, tls_refused="privkey.pem: no key"),
     "tls", "fail", "certificate refused: privkey.pem: no key; TLS certificate expires in 1 h"),
    ("it never could be used", relay(tls=True, tls_refused="privkey.pem: no key"),
     "tls", "fail", "certificate refused: privkey.pem: no key; no certificate that the relay can use"),
    ("a reload was refused", relay(reload_refused="etc/relay.json: no 'realm'"),
     "reload", "warn", "reload refused: etc/relay.json: no 'realm'; the next restart would use what is on the disk"),
    ("an upgrade failed", relay(upgrade_failed="no word of ready"),
     "upgrade", "warn", "upgrade failed: no word of ready; the old program goes on, but a restart starts what is on"),
    ("it ends in 14 days", relay(tls=True, tls_until_unix=NOW + 14 * 86400), "tls", "ok", "expires in 14 d"),
    ("79 of 100 sessions", relay(allocations=79), "sessions", "ok", "79 of 100"),
    ("80 of 100 sessions", relay(allocations=80), "sessions", "warn", "80 of 100 sessions (warns at 80%)"),
    ("full", relay(allocations=100), "sessions", "fail", "100 of 100"),
    ("lag at the limit", relay(lag_p99_ms=20.0), "lag", "ok", "20.0 ms"),
    ("lag over it", relay(lag_p99_ms=20.1), "lag", "warn", "(warns over 20 ms)"),
    ("lag far over it", relay(lag_p99_ms=151), "lag", "fail", "(fails over 150 ms)"),
    ("clock ahead", replace(HEALTHY, clock=Clock(0.6, 0.05)), "clock", "warn", "ahead, ±50 ms (warns over 0.5 s)"),
    ("clock behind", replace(HEALTHY, clock=Clock(-40, 0.2)), "clock", "fail", "clock 40.0 s behind, ±200 ms"),
    ("clock unsure", replace(HEALTHY, clock=Clock(0.6, 0.2)), "clock", "ok", "600 ms ahead, ±200 ms"),
    ("disk low", replace(HEALTHY, disk=Disk(GIB - 1, 9 * GIB)), "disk", "warn", "(warns under 1.0 GiB)"),
    ("disk full", replace(HEALTHY, disk=Disk(5 << 20, 9 * GIB)), "disk", "fail", "5.0 MiB free of 9.0 GiB"),
    ("disk has room", replace(HEALTHY, disk=Disk(GIB, 9 * GIB)), "disk", "ok", "1.0 GiB free"),
    ("no inodes", replace(HEALTHY, disk=Disk(9 * GIB, 9 * GIB, 0)), "disk", "fail", "0 inodes free"),
    ("few inodes", replace(HEALTHY, disk=Disk(9 * GIB, 9 * GIB, 9999)), "disk", "warn", "9999 inodes free"),
    ("read-only", replace(HEALTHY, disk=Disk(9 * GIB, 9 * GIB, None, True)), "disk", "fail", "read-only"),
    ("disk unknown", replace(HEALTHY, disk=None, errors={"disk": "I/O error"}), "disk", "warn", "unknown: I/O error"),
    ("busy", replace(HEALTHY, load=Load(4.1, 2)), "load", "warn", "load 4.1 on 2 CPUs (warns over 2 a CPU)"),
    ("as busy as may be", replace(HEALTHY, load=Load(4.0, 2)), "load", "ok", "load 4.0"),
    ("load unknown", replace(HEALTHY, load=None), "load", "warn", "load unknown: not told"),
    ("old python", replace(HEALTHY, python=(3, 8), python_text="3.8.1"), "python", "fail", "3.8.1, needs 3.9"),
    ("oldest python", replace(HEALTHY, python=(3, 9), python_text="3.9.0"), "python", "ok", "python 3.9.0"),
    ("newer python", replace(HEALTHY, python=(3, 14), python_text="3.14.0"), "python", "ok", "python 3.14.0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "check", "verdict", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_finding(facts: Facts, check: str, verdict: Verdict, words: str) -> None:
    finding = found(facts, check)
    assert finding is not None
    assert finding.verdict == verdict
    assert words in finding.reason
    assert bool(finding.cause) == (verdict != "ok"), "a cause is what failures are grouped by"


def test_pairs_that_send_with_different_keys_are_named_on_both_sides() -> None:
    here = relay(send_keys={"hk-1": "01ab", "sg-1": "77aa"})
    there = replace(relay(send_keys={"ae-1": "02cd"}), node="hk-1")
    same = replace(relay(send_keys={"ae-1": "77aa", "hk-1": "1111"}), node="sg-1")
    fleet = overview([here, there, same], "1.0")
    for facts, cause in ((here, "send keys differ: hk-1"), (there, "send keys differ: ae-1"), (same, "")):
        finding = found(facts, "keys", fleet)
        assert finding is not None
        assert (finding.cause, finding.verdict) == (cause, "warn" if cause else "ok")


UNMEASURED: list[tuple[str, Facts]] = [
    ("peers", relay(peers_rtt_ms={})),
    ("paths", HEALTHY),
    ("loss", HEALTHY),
    ("keys", HEALTHY),
    ("lag", relay(lag_p99_ms=None)),
    ("clock", replace(HEALTHY, clock=None)),
    ("sessions", replace(HEALTHY, sessions=None)),
    ("drain", HEALTHY),
    ("reload", HEALTHY),
    ("reload", replace(HEALTHY, relay=None)),
    ("table", replace(HEALTHY, relay=None)),
]


@pytest.mark.parametrize(("check", "facts"), UNMEASURED, ids=[check for check, _ in UNMEASURED])
def test_what_was_not_measured_is_not_judged(check: str, facts: Facts) -> None:
    assert found(facts, check) is None


def test_a_fleet_without_any_table_is_not_ill_for_it() -> None:
    finding = found(relay(serial=None), "table", Overview(None, "1.0"))
    assert finding == Finding("table", "ok", "", "no table published yet")


STATES = [
    ("unreachable", "reach"),
    ("timeout", "reach"),
    ("lost", "reach"),
    ("refused", "reach"),
    ("failed", "look"),
]


@pytest.mark.parametrize(("state", "check"), STATES)
def test_a_node_of_which_nothing_is_known_has_one_finding(state: str, check: str) -> None:
    facts = Facts("ae-1", state=state, reason="no TCP connection after 10 s", code=4)
    words = f"{state}: no TCP connection after 10 s"
    assert judge(facts, FLEET, Limits()) == (Finding(check, "fail", words, words),)


def test_gravest_findings_come_first() -> None:
    facts = replace(HEALTHY, load=Load(99, 2), disk=Disk(0, GIB))
    verdicts = [finding.verdict for finding in judge(facts, FLEET, Limits())]
    assert verdicts[:3] == ["fail", "warn", "ok"]
    assert worst(judge(facts, FLEET, Limits())) == "fail"


def test_worst_of_nothing_is_ok() -> None:
    assert worst([]) == "ok"


def test_overview_takes_the_newest_serial_of_those_that_have_one() -> None:
    gone = Facts("x", state="unreachable")
    assert overview([gone, relay(serial=None), relay(serial=3), relay(serial=9)], "1").serial == 9
    assert overview([gone], "1").serial is None


def test_nodes_with_the_same_trouble_share_the_cause_whatever_the_figures() -> None:
    first, second = (found(replace(HEALTHY, disk=Disk(free, GIB)), "disk") for free in (1 << 20, 2 << 20))
    assert first is not None
    assert second is not None
    assert first.reason != second.reason
    assert first.cause == second.cause


def test_a_relay_that_died_has_its_last_words_in_the_reason_but_not_in_the_cause() -> None:
    dead = replace(HEALTHY, relay=None, log="cannot bind UDP 192.0.2.1:3478", errors={"relay": "not running"})
    finding = found(dead, "relay")
    assert finding is not None
    assert finding.cause == "relay not running"
    assert finding.reason == "relay not running; its log ends: cannot bind UDP 192.0.2.1:3478"
