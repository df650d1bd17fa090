"""Is the table in force on each node lawful today, the one on record, and not too old? Facts in, findings out. Pure.

The judge is today's inventory, not the zones and countries that the table carries: those are the planner's word of its
time. Unknown country = forbidden, and so is a node that the inventory no longer has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from commcli.errors import AnswerBad, Refused, gravest
from commcli.fleet.record import listed
from commcli.relay.table import shard as shard_rule
from commcli.relay.table import zones as zone_rule
from commcli.relay.table.shard import Shard, ShardRefused, Shared
from commcli.remote.outcome import Outcome
from commcli.routing.held import Held
from commcli.routing.policy import Policy
from commcli.routing.table import Path, sha256, unix

Document = dict[str, Any]
What = Literal[
    "forbidden", "unknown-node", "no-table", "missing", "damaged", "behind", "ahead", "not-on-record",
    "refused", "expired", "expiring", "old", "future", "outdated",
]  # fmt: skip

SCHEMA = 1
NAMED = 5
# Two controllers' clocks may differ by so much.
CLOCKS_S = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """In seconds. `apply` renews a table when half its life is over: what is older was not renewed. As `health`'s."""

    expires_within_s: float = 3 * 86_400.0
    max_age_s: float = 4 * 86_400.0


@dataclass(frozen=True, slots=True)
class Record:
    """What should be: the serial in force (None: none is kept here), and the digests of kept manifests, by serial."""

    serial: int | None
    manifests: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong on one node. Of a path: `where` it stands ("primary to kr-1", "carries"), the zone it breaks."""

    node: str
    what: What
    text: str
    where: str = ""
    path: Path | None = None
    zone: str | None = None

    @property
    def exit_code(self) -> int:
        """A zone is a rule, and media breaks it now: 5. All else is a bad answer."""
        return Refused.exit_code if self.what == "forbidden" else AnswerBad.exit_code


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one relay holds, and what is wrong with it. `paths` of its own rows and `carried` ones were judged;
    `on_record`: whether the manifest is byte for byte one of ours, None where it is not known.
    """

    node: str
    serial: int | None
    created: str | None = None
    expires: str | None = None
    age_s: int | None = None
    left_s: int | None = None
    paths: int = 0
    carried: int = 0
    on_record: bool | None = None
    findings: tuple[Finding, ...] = ()


def judge(policy: Policy, held: Held, record: Record, limits: Limits, *, now_unix: float) -> Verdict:
    """One relay's table against today's `policy`, the `record`, and the clock."""
    found = list(_serials(held, record))
    if held.manifest is None or held.shard is None:
        if held.serial is not None:
            found.append(Finding(held.node, "missing", held.missing))
        return Verdict(held.node, held.serial, findings=tuple(found))
    on_record = held.serial is not None and record.manifests.get(held.serial) == sha256(held.manifest)
    if not on_record:
        found.append(Finding(held.node, "not-on-record", _stranger(held, record)))
    try:
        # Its dates are judged below, by our clock and limits.
        shard = shard_rule.load(
            held.manifest,
            held.shard,
            node=held.node,
            unix=0.0,
            highest_serial=0,
            shared=_shared(held.shared),
        )
    except ShardRefused as error:
        found.append(Finding(held.node, "damaged", f"its files are not what was signed: {error}"))
        return Verdict(held.node, held.serial, on_record=on_record, findings=tuple(found))
    created = unix(shard.created)
    found += [*_dates(shard, created, limits, now_unix), *_outdated(shard, policy), *_paths(shard, policy)]
    return Verdict(
        node=held.node,
        serial=held.serial,
        created=shard.created,
        expires=shard.expires,
        age_s=round(now_unix - created),
        left_s=round(shard.expires_unix - now_unix),
        paths=sum(len(route.paths()) for route in shard.routes.values()),
        carried=len(shard.carries or ()),
        on_record=on_record,
        findings=tuple(found),
    )


@lru_cache(maxsize=4)
def _shared(data: bytes) -> Shared | bytes:
    """Most nodes hold the same. Raises ShardRefused."""
    return shard_rule.load_shared(data) if data else b""


def _serials(held: Held, record: Record) -> Iterator[Finding]:
    node, serial = held.node, held.serial
    if serial is None:
        yield Finding(node, "no-table", "the relay has no table")
    elif record.serial is not None and serial < record.serial:
        yield Finding(node, "behind", f"table {serial}, not {record.serial}")
    elif record.serial is not None and serial > record.serial:
        yield Finding(
            node, "ahead", f"table {serial}, newer than {record.serial}, which is in force by our record"
        )
    if held.refused is not None:
        yield Finding(node, "refused", f"the relay refused a table: {held.refused}")


def _stranger(held: Held, record: Record) -> str:
    if held.serial in record.manifests:
        return f"table {held.serial} is another one than ours of that serial"
    return f"table {held.serial} is not by our record: judged as it is"


def _dates(shard: Shard, created: float, limits: Limits, now_unix: float) -> Iterator[Finding]:
    left_s, age_s = shard.expires_unix - now_unix, now_unix - created
    if left_s <= 0:
        yield Finding(shard.node, "expired", f"table {shard.serial} expired {shard.expires}")
    elif left_s < limits.expires_within_s:
        yield Finding(
            shard.node, "expiring", f"table {shard.serial} expires in {_days(left_s)}, {shard.expires}"
        )
    if age_s < -CLOCKS_S:
        text = f"table {shard.serial} was signed in the future, {shard.created}: it would not get old"
        yield Finding(shard.node, "future", text)
    if age_s > limits.max_age_s:
        yield Finding(shard.node, "old", f"table {shard.serial} is {_days(age_s)} old")


def _days(seconds: float) -> str:
    if seconds >= 86_400:
        return f"{seconds / 86_400:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def _outdated(shard: Shard, policy: Policy) -> Iterator[Finding]:
    """Rules and countries of its time that are no longer today's: probes and failovers go by them."""
    old = {zone.id: _rule(zone) for zone in shard.zones}
    new = {zone.id: _rule(zone) for zone in policy.zones}
    zones = sorted(zone for zone in {*old, *new} if old.get(zone) != new.get(zone))
    if zones:
        yield Finding(shard.node, "outdated", f"its zones are not today's: {listed(zones, NAMED)}")
    moved = sorted(
        name
        for name, row in shard.nodes.items()
        if name in policy.places
        and (row.country, row.markets) != (policy.places[name].country, policy.places[name].markets)
    )
    if moved:
        yield Finding(shard.node, "outdated", f"country or markets are not today's: {listed(moved, NAMED)}")


def _rule(zone: zone_rule.Rule) -> tuple[object, ...]:
    return (set(map(frozenset, zone.between)), frozenset(zone.forbid), zone.allow)


def _paths(shard: Shard, policy: Policy) -> Iterator[Finding]:
    """Each path of its rows and each that it carries for others, by the zones of today."""
    law = zone_rule.Judge(policy.zones, policy.places)
    for where, path in _all_paths(shard):
        zone = law.violated(path)
        if zone is not None:
            text = f"zone {zone} forbids {policy.offender(zone, path)}"
            yield Finding(shard.node, "forbidden", text, where, path, zone)
        elif gone := [name for name in path if name not in policy.places]:
            yield Finding(shard.node, "unknown-node", f"{gone[0]} is not in the inventory", where, path)


def _all_paths(shard: Shard) -> Iterator[tuple[str, Path]]:
    for egress, route in sorted(shard.routes.items()):
        for role, path in route.paths():
            yield f"{role.replace('_', ' ')} to {egress}", tuple(path)
    for path in sorted(shard.carries or ()):
        yield "carries", tuple(path)


def document(
    fleet: str,
    record: Record,
    limits: Limits,
    verdicts: Sequence[Verdict],
    absent: Sequence[Outcome[Held]],
    *,
    now_unix: float,
) -> Document:
    """What `route audit` answers; `absent` are the nodes that gave no word."""
    findings = [finding for verdict in verdicts for finding in verdict.findings]
    codes = [finding.exit_code for finding in findings] + [outcome.code for outcome in absent]
    return {
        "schema": SCHEMA,
        "kind": "route.audit",
        "fleet": fleet,
        "unix": round(now_unix),
        "exit_code": gravest(codes),
        "serial": record.serial,
        "limits": asdict(limits),
        "paths": sum(verdict.paths for verdict in verdicts),
        "carried": sum(verdict.carried for verdict in verdicts),
        "nodes": [
            *({**_without_findings(verdict), "state": "done", "reason": ""} for verdict in verdicts),
            *({"node": o.node, "serial": None, "state": o.state, "reason": o.reason} for o in absent),
        ],
        "findings": [asdict(finding) for finding in findings],
    }


def _without_findings(verdict: Verdict) -> Document:
    return {key: value for key, value in asdict(verdict).items() if key != "findings"}
