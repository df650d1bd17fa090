"""What a relay holds, judged: by today's zones, the record and the clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from commcli.fleet import Zone
from commcli.relay.table import shard as shard_rule
from commcli.relay.table.shard import SHARED
from commcli.remote.outcome import Outcome
from commcli.routing import audit, policy
from commcli.routing import table as tables
from commcli.routing.audit import Limits, Record, Verdict
from commcli.routing.held import Held
from commcli.routing.table import Table
from tests.routing.fleets import zone
from tests.routing.worlds import COUNTRIES, NOW, decision, small_fleet

DAY_S = 86_400
NOT_SG = zone("not-sg", "ae", "kr", forbid=["sg"])


def held(table: Table, node: str = "ae-1", *, refused: str | None = None) -> Held:
    encoded = tables.encode(table)
    shared = encoded.shards[SHARED]
    return Held(node, table.serial, refused, encoded.manifest, encoded.shards[node], shared=shared)


def record_of(*kept: Table) -> Record:
    """The last one is in force."""
    digests = {table.serial: tables.sha256(tables.encode(table).manifest) for table in kept}
    return Record(kept[-1].serial if kept else None, digests)


def judged(
    word: Held, record: Record, zones: Sequence[Zone] = (), *, now: float = NOW, limits: Limits | None = None
) -> Verdict:
    return audit.judge(policy.of(small_fleet(zones)), word, record, limits or Limits(), now_unix=now)


def whats(verdict: Verdict) -> list[str]:
    return [finding.what for finding in verdict.findings]


def test_a_fresh_table_that_is_ours_is_good() -> None:
    table = decision().table
    verdict = judged(held(table), record_of(table), now=NOW + 3600)
    assert verdict.findings == ()
    assert (verdict.serial, verdict.on_record, verdict.age_s) == (1, True, 3600)
    assert verdict.left_s == 7 * DAY_S - 3600
    assert verdict.paths >= len(COUNTRIES) - 1
    assert verdict.carried


def test_a_zone_of_today_is_broken_where_the_path_begins_and_where_it_is_carried() -> None:
    table = decision().table
    begins = judged(held(table, "ae-1"), record_of(table), [NOT_SG])
    (primary,) = [row for row in begins.findings if row.where == "primary to kr-1"]
    assert (primary.path, primary.zone, primary.exit_code) == (("ae-1", "sg-1", "kr-1"), "not-sg", 5)
    assert primary.text == "zone not-sg forbids sg (sg-1)"
    carried = judged(held(table, "sg-1"), record_of(table), [NOT_SG]).findings
    assert ("carries", ("ae-1", "sg-1", "kr-1")) in {(row.where, row.path) for row in carried}
    assert "outdated" in whats(begins), "the table knows nothing of the zone"


def test_every_role_is_judged() -> None:
    table = decision().table
    route = tables.Route(("ae-1", "kr-1"), ("ae-1", "hk-1", "kr-1"), ("ae-1", "sg-1", "kr-1"))
    table = dataclasses.replace(table, routes={("ae-1", "kr-1"): route})
    for country, where in (("hk", "backup to kr-1"), ("sg", "last resort to kr-1")):
        law = zone("law", "ae", "kr", forbid=[country])
        found = judged(held(table), record_of(table), [law]).findings
        assert [row.where for row in found if row.what == "forbidden"] == [where]


def test_an_unknown_country_and_a_node_that_is_gone_are_forbidden() -> None:
    table = decision().table
    fleet = small_fleet([zone("law", "*", "*", forbid=["cn"])])
    nowhere = {**fleet.nodes, "sg-1": dataclasses.replace(fleet.nodes["sg-1"], country="")}
    gone = {name: node for name, node in fleet.nodes.items() if name != "sg-1"}
    for nodes, text in ((nowhere, "an unknown country (sg-1)"), (gone, "sg-1 is not in the inventory")):
        rules = policy.of(dataclasses.replace(fleet, nodes=nodes, markets={}))
        found = audit.judge(rules, held(table), record_of(table), Limits(), now_unix=NOW).findings
        forbidden = {row.path: row.text for row in found if row.what == "forbidden"}
        assert text in forbidden["ae-1", "sg-1", "kr-1"]


def test_a_node_that_is_gone_is_told_where_no_zone_rules() -> None:
    table = decision().table
    fleet = small_fleet()
    rest = {name: node for name, node in fleet.nodes.items() if name != "sg-1"}
    rules = policy.of(dataclasses.replace(fleet, nodes=rest, markets={}))
    found = audit.judge(rules, held(table), record_of(table), Limits(), now_unix=NOW).findings
    assert {row.what for row in found} == {"unknown-node", "outdated"}
    assert max(row.exit_code for row in found) == 1


def test_serials_beside_the_record() -> None:
    first, second = decision().table, decision(serial=2).table
    record = record_of(first, second)
    assert whats(judged(held(first), record)) == ["behind"]
    assert whats(judged(held(second), record_of(first))) == ["ahead", "not-on-record"]
    assert whats(judged(Held("ae-1", None), record)) == ["no-table"]
    assert whats(judged(held(second, refused="zone: x"), record)) == ["refused"]
    assert whats(judged(Held("ae-1", 2, missing="gone"), record)) == ["missing"]


def test_a_table_that_is_not_ours_is_judged_as_it_is() -> None:
    other = decision(serial=9).table
    verdict = judged(held(other), Record(None, {}), [NOT_SG])
    assert {"not-on-record", "forbidden"} <= set(whats(verdict))
    assert verdict.on_record is False
    ours = dataclasses.replace(other, created=NOW - 5)
    assert "another one than ours" in judged(held(other), record_of(ours)).findings[0].text


def test_a_shard_that_is_not_the_one_signed_is_damaged() -> None:
    table = decision().table
    word = dataclasses.replace(held(table), shard=tables.encode(table).shards["hk-1"])
    assert whats(judged(word, record_of(table))) == ["damaged"]


def test_a_table_of_the_future_would_not_get_old() -> None:
    table = decision().table
    assert whats(judged(held(table), record_of(table), now=NOW - 300)) == []
    verdict = judged(held(table), record_of(table), now=NOW - 301)
    assert (whats(verdict), verdict.age_s) == (["future"], -301)


def test_expiry_and_age_have_limits() -> None:
    table = decision().table
    record, word = record_of(table), held(table)
    cases = {
        NOW + 4 * DAY_S: [],
        NOW + 4 * DAY_S + 1: ["expiring", "old"],
        NOW + 7 * DAY_S: ["expired", "old"],
    }
    assert {now: whats(judged(word, record, now=now)) for now in cases} == cases
    strict = Limits(expires_within_s=7 * DAY_S, max_age_s=3600)
    assert whats(judged(word, record, now=NOW + 3601, limits=strict)) == ["expiring", "old"]


def test_rules_of_another_day_are_told_though_no_path_breaks_todays() -> None:
    table = decision([NOT_SG]).table
    assert whats(judged(held(table), record_of(table), [NOT_SG])) == []
    found = judged(held(table), record_of(table), [zone("not-cn", "*", "*", forbid=["cn"])]).findings
    assert [row.text for row in found] == ["its zones are not today's: not-cn, not-sg"]


def test_the_gravest_decides_the_exit_code() -> None:
    table = decision().table
    good, bad = judged(held(table), record_of(table)), judged(held(table), record_of(table), [NOT_SG])
    old = judged(held(table), record_of(table), now=NOW + 5 * DAY_S)
    away: Outcome[Held] = Outcome("kr-1", "unreachable", None, "connection refused", 0.1, 4)

    def code(*verdicts: Verdict, absent: Sequence[Outcome[Held]] = ()) -> int:
        doc = audit.document("f", record_of(table), Limits(), verdicts, absent, now_unix=NOW)
        return int(doc["exit_code"])

    assert (code(good), code(good, absent=[away]), code(old, absent=[away])) == (0, 4, 1)
    assert code(bad, old, absent=[away]) == 5


def test_the_planners_own_table_is_always_good() -> None:
    zones = [NOT_SG, zone("eu", "de", "*", forbid=["sg"])]
    table = decision(zones).table
    for node in COUNTRIES:
        word = held(table, node)
        assert judged(word, record_of(table), zones).findings == ()
        assert word.manifest is not None and word.shard is not None
        shard_rule.load(word.manifest, word.shard, shared=word.shared, node=node, unix=NOW, highest_serial=0)
