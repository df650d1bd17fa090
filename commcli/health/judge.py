"""Facts in, findings out. Pure: the same facts always give the same verdict, and every verdict its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from commcli.health.facts import Facts, Relay

Verdict = Literal["ok", "warn", "fail"]
_GRAVITY: tuple[Verdict, ...] = ("ok", "warn", "fail")

# What nodes are built for: the executor and the relay need it (DESIGN: the house).
OLDEST_PYTHON = (3, 9)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a figure turns from ok to warn to fail. They are part of every report, next to what they judged."""

    disk_warn_bytes: int = 1 << 30
    # A table and a zipapp are pushed beside the old ones before the switch; below this a push may not fit.
    disk_fail_bytes: int = 64 << 20
    inodes_warn: int = 10_000
    inodes_fail: int = 500
    # One-way delays are quoted with their clock error; half a second makes them useless.
    clock_warn_s: float = 0.5
    # Time-limited TURN passwords and the overlay's replay window believe the clock.
    clock_fail_s: float = 30.0
    # A relay is one thread: load hurts once every CPU has a queue. It never fails a node by itself.
    load_warn_per_cpu: float = 2.0
    # How late the relay's loop runs is added to every packet. 20 ms is one audio frame.
    lag_warn_ms: float = 20.0
    lag_fail_ms: float = 150.0
    sessions_warn: float = 0.8
    # Of seven days; any `route apply` renews a table after half of them. One that gets older than that was forgotten,
    # and a weekend must be enough to see it.
    table_warn_s: float = 3 * 86400.0
    table_fail_s: float = 86400.0
    # Automatic renewal tries from a month before the end; one that has failed for two weeks needs a person.
    tls_warn_s: float = 14 * 86400.0
    tls_fail_s: float = 86400.0
    # Repair makes up for it, at a price; beyond some 15 % a relay looks for another path by itself.
    loss_warn: float = 0.05
    # One backup is what it is for; most of them, and the next failure finds nothing to move to.
    backup_warn: float = 0.5
    # A relay that began so lately has not measured its peers yet, and may be one that keeps dying.
    young_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement. `cause` is the same words on every node with the same trouble; `reason` has the figures."""

    check: str
    verdict: Verdict
    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What one node's facts cannot tell: the newest table serial that any node has loaded, our version, and with
    which key (its id) each node sends to each.
    """

    serial: int | None
    version: str
    send_keys: Mapping[tuple[str, str], str] = field(default_factory=dict)


def overview(everybody: Iterable[Facts], version: str) -> Overview:
    """The fleet's side of the judgement, from all nodes' facts together."""
    relays = [(facts.node, facts.relay) for facts in everybody if facts.relay]
    serials = [relay.serial for _, relay in relays if relay.serial is not None]
    keys = {(node, peer): key for node, relay in relays for peer, key in relay.send_keys.items()}
    return Overview(max(serials, default=None), version, keys)


def worst(findings: Iterable[Finding]) -> Verdict:
    """The verdict of a node: its gravest finding's; ok when there is none."""
    return max((finding.verdict for finding in findings), key=_GRAVITY.index, default="ok")


def judge(facts: Facts, fleet: Overview, limits: Limits) -> tuple[Finding, ...]:
    """Every finding on one node, gravest first. A node out of reach has one: nothing else is known of it."""
    if facts.state != "done":
        words = f"{facts.state}: {facts.reason}"
        # "failed": it let us in, and then could not look at itself (no python3, or one too old).
        return (Finding("look" if facts.state == "failed" else "reach", "fail", words, words),)
    findings = [finding for check in _CHECKS if (finding := check(facts, fleet, limits)) is not None]
    return tuple(sorted(findings, key=lambda finding: -_GRAVITY.index(finding.verdict)))


def _relay(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    if facts.relay is None:
        cause = f"relay {facts.errors.get('relay', 'unknown')}"
        return Finding("relay", "fail", cause, f"{cause}; its log ends: {facts.log}" if facts.log else cause)
    relay = facts.relay
    if relay.version != fleet.version:
        words = f"relay runs {relay.version}, this commcli ships {fleet.version}"
        return Finding("relay", "warn", words, words)
    return _ok("relay", f"relay {relay.version} up {_span(relay.uptime_s)}")


def _table(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None:
        return None
    if relay.refused is not None:
        # Fail static: with the last good table it still serves, and only lacks what is new.
        verdict: Verdict = "fail" if relay.serial is None else "warn"
        kept = "no table is loaded" if relay.serial is None else f"serial {relay.serial} stays"
        return Finding(
            "table", verdict, f"table refused: {relay.refused}", f"table refused: {relay.refused}; {kept}"
        )
    if relay.serial is None:
        if fleet.serial is None:
            return _ok("table", "no table published yet")
        words = f"no table loaded, the fleet has serial {fleet.serial}"
        return Finding("table", "fail", words, words)
    found = _expiry(relay, relay.serial, facts, limits)
    if found.verdict != "fail":
        found = _serial(relay, relay.serial, fleet) or found
    if found.verdict == "ok" and relay.carries is False:
        cause = "table without `carries`"
        reason = (
            f"{found.reason}; {cause}: packets pass on any path that the zones allow, in the table or not"
        )
        return Finding("table", "warn", cause, reason)
    return found


def _serial(relay: Relay, serial: int, fleet: Overview) -> Finding | None:
    if fleet.serial is None or serial >= fleet.serial:
        return None
    # Mixed versions are harmless for routing (source routes), but the node missed a publication.
    return Finding(
        "table", "warn", f"table behind the fleet's {fleet.serial}", f"serial {serial} of {fleet.serial}"
    )


def _expiry(relay: Relay, serial: int, facts: Facts, limits: Limits) -> Finding:
    if relay.expires_unix is None:
        return _ok("table", f"serial {serial}")
    left_s = relay.expires_unix - facts.unix
    if left_s <= 0:
        reason = f"serial {serial} expired {_span(-left_s)} ago and stays in use"
        return Finding("table", "fail", "table expired", reason)
    grades: tuple[tuple[Verdict, float], ...] = (("fail", limits.table_fail_s), ("warn", limits.table_warn_s))
    for verdict, limit_s in grades:
        if left_s < limit_s:
            reason = f"serial {serial} expires in {_span(left_s)} ({verdict}s under {_span(limit_s)})"
            return Finding("table", verdict, "table expires soon", reason)
    return _ok("table", f"serial {serial}, expires in {_span(left_s)}")


def _tls(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or not relay.tls:
        return None
    finding = _certificate(relay, facts, limits)
    if relay.tls_refused is None:
        return finding
    refused = f"certificate refused: {relay.tls_refused}"
    reason = f"{refused}; {finding.reason}"
    # What is wrong with the one in force is graver than that it can not be replaced, which is then the reason.
    if finding.verdict != "ok":
        return replace(finding, reason=reason)
    return Finding("tls", "warn", refused, reason)


def _certificate(relay: Relay, facts: Facts, limits: Limits) -> Finding:
    if relay.tls_until_unix is None:
        reason = "no certificate that the relay can use: clients cannot come over TLS"
        return Finding("tls", "fail", "no usable TLS certificate", reason)
    left_s = relay.tls_until_unix - facts.unix
    if left_s <= 0:
        return Finding(
            "tls", "fail", "TLS certificate expired", f"TLS certificate expired {_span(-left_s)} ago"
        )
    reason = f"TLS certificate expires in {_span(left_s)}"
    grades: tuple[tuple[Verdict, float], ...] = (("fail", limits.tls_fail_s), ("warn", limits.tls_warn_s))
    for verdict, limit_s in grades:
        if left_s < limit_s:
            words = f"{reason} ({verdict}s under {_span(limit_s)})"
            return Finding("tls", verdict, "TLS certificate expires soon", words)
    return _ok("tls", reason)


def _reload(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or relay.reload_refused is None:
        return None
    cause = f"reload refused: {relay.reload_refused}"
    return Finding("reload", "warn", cause, f"{cause}; the next restart would use what is on the disk")


def _upgrade(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or relay.upgrade_failed is None:
        return None
    cause = f"upgrade failed: {relay.upgrade_failed}"
    reason = (
        f"{cause}; the old program goes on, but a restart starts what is on the disk: play a good version"
    )
    return Finding("upgrade", "warn", cause, reason)


def _peers(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or not relay.peers_rtt_ms:
        return None
    silent = sorted(peer for peer, rtt_ms in relay.peers_rtt_ms.items() if rtt_ms is None)
    known = len(relay.peers_rtt_ms)
    if not silent:
        return _ok("peers", f"all {known} peers answer")
    if relay.uptime_s < limits.young_s:
        return _ok("peers", f"{len(silent)} of {known} peers not measured yet")
    reason = f"no answer from {len(silent)} of {known} peers: {', '.join(silent)}"
    if len(silent) == known:
        return Finding("peers", "fail", "no peer answers", reason)
    return Finding("peers", "warn", f"peers do not answer: {', '.join(silent)}", reason)


def _paths(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or not relay.ways:
        return None
    known = len(relay.ways)
    words = []
    for way, said in _BAD_WAYS.items():
        edges = sorted(egress for egress, used in relay.ways.items() if used == way)
        words += [f"{said} {', '.join(edges)}"] if edges else []
    backups = sum(used == "backup" for used in relay.ways.values())
    on_backup = f", {backups} on the backup" if backups else ""
    if not words and backups <= limits.backup_warn * known:
        return _ok("paths", f"paths to all {known} edges{on_backup}")
    if relay.uptime_s < limits.young_s:
        return _ok("paths", f"not all paths to {known} edges tried yet")
    if not words:
        reason = f"{backups} of {known} ways on the backup (warns over {limits.backup_warn:.0%})"
        return Finding("paths", "warn", "most ways are on the backup", reason)
    cause = "; ".join(words)
    is_alone = all(way in ("dead", "straight") for way in relay.ways.values())
    verdict: Verdict = "fail" if is_alone else "warn"
    return Finding(
        "paths", verdict, "no path answers" if is_alone else cause, f"{cause} (of {known} edges{on_backup})"
    )


# A way goes straight where no path of the overlay answers and no zone forbids it.
_BAD_WAYS = {
    "dead": "no path to",
    "straight": "straight, since no path answers, to",
    "last_resort": "last resort to",
}


def _loss(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or not relay.loss:
        return None
    worst_first = sorted(relay.loss.items(), key=lambda item: (-item[1], item[0]))
    heavy = [(peer, loss) for peer, loss in worst_first if loss >= limits.loss_warn]
    if not heavy:
        peer, loss = worst_first[0]
        return _ok("loss", f"{loss:.1%} lost at most, towards {peer}")
    shares = ", ".join(f"{loss:.1%} towards {peer}" for peer, loss in heavy)
    cause = f"heavy loss towards {', '.join(sorted(peer for peer, _ in heavy))}"
    return Finding("loss", "warn", cause, f"lost {shares} (warns from {limits.loss_warn:.0%})")


def _keys(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    relay = facts.relay
    if relay is None or not relay.send_keys:
        return None
    differ = sorted(
        peer for peer, key in relay.send_keys.items() if fleet.send_keys.get((peer, facts.node), key) != key
    )
    if not differ:
        return _ok("keys", f"keys of {len(relay.send_keys)} pairs")
    cause = f"send keys differ: {', '.join(differ)}"
    # Both sides verify with both keys while a rotation lasts. One that stays so ends with the older key's removal.
    return Finding("keys", "warn", cause, f"{cause}; a key rotation is under way or was left half done")


def _drain(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    # A draining node is healthy: somebody wants it so. It is said all the same, for whoever forgot it.
    if facts.relay is None or not facts.relay.drain:
        return None
    return _ok("drain", f"draining, {facts.relay.allocations} allocations left")


def _sessions(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    if facts.relay is None or not facts.sessions:
        return None
    used = facts.relay.allocations / facts.sessions
    reason = f"{facts.relay.allocations} of {facts.sessions} sessions"
    if used >= 1:
        return Finding("sessions", "fail", "sessions at capacity", reason)
    if used >= limits.sessions_warn:
        return Finding(
            "sessions", "warn", "sessions near capacity", f"{reason} (warns at {limits.sessions_warn:.0%})"
        )
    return _ok("sessions", reason)


def _lag(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    lag_ms = None if facts.relay is None else facts.relay.lag_p99_ms
    if lag_ms is None:
        return None
    reason = f"relay loop {lag_ms:.1f} ms late at p99"
    return _above("lag", lag_ms, limits.lag_warn_ms, limits.lag_fail_ms, "relay loop late", reason, "{:g} ms")


def _clock(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    clock = facts.clock
    if clock is None:
        return None
    direction = "ahead" if clock.offset_s >= 0 else "behind"
    reason = f"clock {_seconds(abs(clock.offset_s))} {direction}, ±{_seconds(clock.uncertainty_s)}"
    # Only what is surely off is called off: the nearest offset that the measurement allows.
    surely_s = max(0.0, abs(clock.offset_s) - clock.uncertainty_s)
    return _above(
        "clock", surely_s, limits.clock_warn_s, limits.clock_fail_s, "clock is off", reason, "{:g} s"
    )


def _disk(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    disk = facts.disk
    if disk is None:
        return _unknown("disk", facts)
    if disk.read_only:
        return Finding("disk", "fail", "disk is read-only", "the relay's file system is mounted read-only")
    if disk.free_inodes is not None and disk.free_inodes < limits.inodes_warn:
        verdict: Verdict = "fail" if disk.free_inodes < limits.inodes_fail else "warn"
        return Finding("disk", verdict, "disk short of inodes", f"{disk.free_inodes} inodes free")
    reason = f"disk {_bytes(disk.free_bytes)} free of {_bytes(disk.total_bytes)}"
    if disk.free_bytes < limits.disk_fail_bytes:
        return Finding(
            "disk", "fail", "disk full", f"{reason} (fails under {_bytes(limits.disk_fail_bytes)})"
        )
    if disk.free_bytes < limits.disk_warn_bytes:
        return Finding(
            "disk", "warn", "disk nearly full", f"{reason} (warns under {_bytes(limits.disk_warn_bytes)})"
        )
    return _ok("disk", f"disk {_bytes(disk.free_bytes)} free")


def _load(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    if facts.load is None:
        return _unknown("load", facts)
    reason = f"load {facts.load.one_minute:.1f} on {facts.load.cpus} CPUs"
    if facts.load.one_minute > limits.load_warn_per_cpu * facts.load.cpus:
        return Finding(
            "load", "warn", "load high", f"{reason} (warns over {limits.load_warn_per_cpu:g} a CPU)"
        )
    return _ok("load", reason)


def _python(facts: Facts, fleet: Overview, limits: Limits) -> Finding | None:
    if facts.python is None:
        return _unknown("python", facts)
    needed = ".".join(map(str, OLDEST_PYTHON))
    if facts.python < OLDEST_PYTHON:
        words = f"python {facts.python_text}, needs {needed} or newer"
        return Finding("python", "fail", words, words)
    return _ok("python", f"python {facts.python_text}")


Check = Callable[[Facts, Overview, Limits], Finding | None]
_CHECKS: tuple[Check, ...] = (
    *(_relay, _table, _drain, _reload, _upgrade, _tls, _peers, _paths, _loss, _keys),
    *(_sessions, _lag, _clock, _disk, _load, _python),
)


def _ok(check: str, reason: str) -> Finding:
    return Finding(check, "ok", "", reason)


def _unknown(check: str, facts: Facts) -> Finding:
    reason = f"{check} unknown: {facts.errors.get(check, 'not told')}"
    return Finding(check, "warn", reason, reason)


def _above(check: str, value: float, warn: float, fail: float, cause: str, reason: str, unit: str) -> Finding:
    """Judge a figure where more is worse; `unit` prints the limit that was crossed."""
    if value > fail:
        return Finding(check, "fail", cause, f"{reason} (fails over {unit.format(fail)})")
    if value > warn:
        return Finding(check, "warn", cause, f"{reason} (warns over {unit.format(warn)})")
    return _ok(check, reason)


def _span(seconds: float) -> str:
    """A length of time in its two largest units at most: `3 d 4 h`, `12 min`, `40 s`."""
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit}" + (f" {rest // below} {small}" if rest // below else "")
    return f"{seconds // 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _bytes(count: int) -> str:
    for size, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
