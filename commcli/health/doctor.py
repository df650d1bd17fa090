"""Is this machine fit to run the fleet: facts in, findings out, each with what to type next. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from commcli.errors import BadInput, CommcliError
from commcli.fleet.model import Fleet
from commcli.health.desk import Desk, KeyFile, Machine, Met, Place
from commcli.health.judge import Limits
from commcli.remote.outcome import Outcome
from commcli.store.glance import KNOWN, Change

Document = dict[str, Any]
Logins = Mapping[str, Outcome[Met]]
Verdict = Literal["ok", "warn", "fail"]
GIB = 1 << 30
LITTLE_BYTES, NONE_BYTES = GIB, GIB // 10
OTHERS = 0o077
TOLD = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `next` is what to type, where there is something to do."""

    check: str
    verdict: Verdict
    what: str
    next: str | None = None


def of_machine(facts: Machine, now: float) -> Iterator[Finding]:
    """What this machine is by itself."""
    missing = [name for name, version in facts.versions.items() if version == "missing"]
    told = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    yield Finding("versions", "fail" if missing else "ok", told, "pip install commcli" if missing else None)
    gone = [name for name, path in facts.programs.items() if path is None]
    if gone:
        what = f"{' and '.join(gone)} not found: no `commcli ssh`, no lab, no tables verified here"
        yield Finding("openssh", "warn", what, "apt install openssh-client")
    else:
        yield Finding("openssh", "ok", ", ".join(str(path) for path in facts.programs.values()))
    yield _state(facts)
    yield from _runs(facts.store.changes, now)


def _state(facts: Machine) -> Finding:
    free = f"{facts.free_bytes / GIB:.1f} GiB free"
    if not facts.writable:
        return Finding("state", "fail", f"{facts.state} can not be written to", "name another with --state")
    if facts.store.error:
        return Finding("state", "fail", f"the database in {facts.state}: {facts.store.error}")
    version = facts.store.version
    if version is not None and version > KNOWN:
        what = (
            f"the database in {facts.state} is of a newer commcli (version {version}, this one knows {KNOWN})"
        )
        return Finding("state", "fail", what, "use that commcli, or another --state")
    shape = "no database yet" if version is None else f"database of version {version}"
    told = f"{facts.state}: {shape}, {free}"
    if facts.free_bytes < LITTLE_BYTES:
        return Finding("state", "fail" if facts.free_bytes < NONE_BYTES else "warn", told)
    return Finding("state", "ok", told)


def _runs(changes: Sequence[Change], now: float) -> Iterator[Finding]:
    """When every command that changes the fleet was last run."""
    if not changes:
        return
    told = [f"{change.command} {_ago(now - change.started)} ({change.result})" for change in changes[:TOLD]]
    unended = [change.command for change in changes if change.ended is None]
    what = "; ".join(told)
    if unended:
        yield Finding(
            "runs", "warn", f"{what}; never ended, or at work still: {_some(unended)}", "commcli audit list"
        )
    else:
        yield Finding("runs", "ok", what)


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def of_inventory(fleet: Fleet | BadInput) -> Finding:
    """Whether it can be read."""
    if isinstance(fleet, BadInput):
        more = f" (and {len(fleet.errors) - 1} more)" if len(fleet.errors) > 1 else ""
        return Finding("inventory", "fail", fleet.errors[0] + more, "commcli fleet check")
    return Finding(
        "inventory", "ok", f"{fleet.name}: {len(fleet.nodes)} nodes in {len(fleet.regions)} regions"
    )


def of_desk(facts: Desk) -> Iterator[Finding]:
    """What the inventory asks of this machine."""
    if isinstance(facts.agent, int):
        yield Finding(
            "agent",
            "ok" if facts.agent else "warn",
            f"{facts.agent} keys",
            None if facts.agent else "ssh-add",
        )
    else:
        yield _no_agent(facts)
    yield from _identities(facts.keys)
    if facts.signing_error:
        yield Finding("signing", "fail", facts.signing_error, "see `signing:` in fleet.yaml, and ssh-add -L")
    else:
        yield Finding("signing", "ok", f"{facts.signing} signs tables")
    yield from _secrets(facts.secrets)
    yield _known_hosts(facts)
    if facts.unresolved:
        told = _some([f"{name} ({reason})" for name, reason in facts.unresolved.items()])
        yield Finding("dns", "fail", f"no address: {told}")
    else:
        yield Finding("dns", "ok", "every host that is named has an address")


def _no_agent(facts: Desk) -> Finding:
    if facts.agent == "not used":
        return Finding("agent", "ok", "not used")
    able = any(key.mode is not None and not key.locked and not key.error for key in facts.keys)
    return Finding("agent", "warn" if able else "fail", str(facts.agent), "eval $(ssh-agent); ssh-add")


def _identities(keys: Sequence[KeyFile]) -> Iterator[Finding]:
    for key in keys:
        if key.error:
            yield Finding("identity", "fail", f"{key.path}: {key.error}")
        elif key.locked and not key.in_agent:
            what = f"{key.path} has a passphrase or is on a token, and the agent does not have it"
            yield Finding("identity", "fail", what, f"ssh-add {key.path}")
        elif key.mode is not None and key.mode & OTHERS:
            what = f"{key.path} has mode {key.mode:04o}: others can read it, and ssh refuses it"
            yield Finding("identity", "warn", what, f"chmod 600 {key.path}")
        else:
            yield Finding("identity", "ok", f"{key.path}{' in the agent' if key.in_agent else ''}")


def _secrets(places: Sequence[Place]) -> Iterator[Finding]:
    for place in places:
        if place.error:
            yield Finding("secret", "fail", place.error)
        elif place.mode is not None and place.mode & OTHERS:
            path = place.where.removeprefix("file ")
            what = f"{place.name}: {place.where} has mode {place.mode:04o}: others can read it"
            yield Finding("secret", "warn", what, f"chmod 600 {path}")
        else:
            yield Finding("secret", "ok", f"{place.name}: {place.where}")


def _known_hosts(facts: Desk) -> Finding:
    if facts.known_hosts_error:
        return Finding("known_hosts", "fail", facts.known_hosts_error)
    if facts.unknown:
        what = f"{len(facts.unknown)} of {facts.hosts} hosts have no key in {facts.known_hosts}: {_some(facts.unknown)}"
        return Finding("known_hosts", "fail", what, "commcli fleet trust all")
    return Finding("known_hosts", "ok", f"all {facts.hosts} hosts have a key in {facts.known_hosts}")


def of_reach(jumps: Logins, nodes: Logins, limits: Limits) -> Iterator[Finding]:
    """The way to the fleet: a jump host that fails is our way cut off, a node that fails may be its own trouble."""
    for name, outcome in jumps.items():
        if outcome.value is None:
            what = f"{name}: {outcome.state}: {outcome.reason}"
            yield Finding("bastion", "fail", what)
        else:
            yield Finding("bastion", "ok", f"{name}: login in {outcome.value.login_s:.1f} s")
    yield _nodes(nodes)
    yield from _clocks(nodes, limits)


def no_way(error: BaseException) -> Finding:
    """Not one login can be tried: what is wrong is not the nodes'. What is no word of ours is raised."""
    if not isinstance(error, CommcliError):
        raise error
    return Finding("nodes", "fail", str(error).splitlines()[0], error.hint)


def _nodes(nodes: Logins) -> Finding:
    met = {name: outcome.value for name, outcome in nodes.items() if outcome.value is not None}
    away = [f"{name} ({outcome.reason})" for name, outcome in nodes.items() if outcome.value is None]
    told = f"{len(met)} of {len(nodes)} nodes that were tried let us in"
    if met:
        slowest = max(met, key=lambda name: met[name].login_s)
        told += f", the slowest in {met[slowest].login_s:.1f} s ({slowest})"
    if away:
        return Finding(
            "nodes", "warn" if met else "fail", f"{told}; not: {_some(away)}", "commcli health check"
        )
    return Finding("nodes", "ok", told)


def _clocks(nodes: Logins, limits: Limits) -> Iterator[Finding]:
    clocks = {
        name: outcome.value.clock for name, outcome in nodes.items() if outcome.value and outcome.value.clock
    }
    if not clocks:
        return
    surely = {name: max(0.0, abs(clock.offset_s) - clock.uncertainty_s) for name, clock in clocks.items()}
    worst = max(surely, key=lambda name: (surely[name], abs(clocks[name].offset_s)))
    clock = clocks[worst]
    side = "ahead" if clock.offset_s > 0 else "behind"
    told = f"{worst} is {abs(clock.offset_s):.2f} s {side} (±{clock.uncertainty_s:.2f} s)"
    off = surely[worst]
    if off <= limits.clock_warn_s:
        yield Finding("clock", "ok", f"at most {told}, of {len(clocks)} nodes")
        return
    verdict: Verdict = "fail" if off > limits.clock_fail_s else "warn"
    middle = statistics.median(clock.offset_s for clock in clocks.values())
    if len(clocks) > 2 and abs(middle) > limits.clock_warn_s:
        ours = "behind" if middle > 0 else "ahead of"
        what = f"this machine's clock is {abs(middle):.2f} s {ours} most nodes'; {told}"
        yield Finding("clock", verdict, what, "timedatectl")
    else:
        yield Finding("clock", verdict, told, f"commcli ssh {worst} -- timedatectl")


def document(findings: Iterable[Finding], seconds: float) -> Document:
    """`doctor`: JSON-able. `exit_code` is 1 where something fails; warnings do not count."""
    rows = list(findings)
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("ok", "warn", "fail")}
    return {
        "schema": 1,
        "kind": "doctor.checks",
        "seconds": round(seconds, 3),
        "counts": counts,
        "exit_code": 1 if counts["fail"] else 0,
        "checks": [
            {"check": row.check, "verdict": row.verdict, "what": row.what, "next": row.next} for row in rows
        ],
    }


def _some(names: Sequence[str], most: int = TOLD) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
