"""`commcli route`: what it prints and how it exits. No node is reached: their SSH ports are closed."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commcli import fleet as fleets
from commcli.cli import execute
from commcli.routing import history
from commcli.routing import table as tables
from commcli.routing.decision import Decision, decide
from commcli.routing.publish import Package
from commcli.store.lock import exclusive
from commcli.store.sqlite import Store
from tests.routing.worlds import MANY, RTT_MS, window

CITIES = {"ae-1": "dxb", "de-1": "fra", "hk-1": "hkg", "kr-1": "sel", "sg-1": "sgp"}
FILES = {
    "regions.yaml": """\
regions:
  dxb: {city: Dubai, country: ae, continent: asia}
  fra: {city: Frankfurt, country: de, continent: europe}
  hkg: {city: Hong Kong, country: hk, continent: asia}
  sel: {city: Seoul, country: kr, continent: asia}
  sgp: {city: Singapore, country: sg, continent: asia}
""",
    "markets.yaml": "markets:\n"
    + "".join(f"  {node[:2]}: {{name: {node[:2].upper()}, edges: [{node}]}}\n" for node in CITIES),
    "zones.yaml": "zones: {}\n",
}
ZONE = """\
zones:
  not-sg:
    between: [[ae], [kr]]
    forbid: [sg]
    reason: a contract
"""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document: dict[str, Any] = json.loads(self.out)
        return document


class Commcli:
    """`commcli route ...` on an inventory and a state folder of its own, in this process."""

    def __init__(self, folder: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
        self.inventory, self.state = folder / "inventory", folder / "state"
        self.inventory.mkdir()
        nodes = "".join(
            f"  {node}: {{region: {region}, address: 127.9.0.{n}, base: /srv/{node},"
            f" ssh: {{host: 127.0.0.1, port: {port}}}}}\n"
            for n, (node, region) in enumerate(CITIES.items(), 1)
        )
        (self.inventory / "fleet.yaml").write_text(
            "name: small\nrealm: test\nssh: {known_hosts: known_hosts, agent: false}\n"
            "signing: {signers: signers}\nsecrets: {}\n"
        )
        (self.inventory / "nodes.yaml").write_text(f"defaults:\n  ssh: {{user: ops}}\nnodes:\n{nodes}")
        (self.inventory / "known_hosts").write_text("")
        (self.inventory / "signers").write_text("")
        for name, text in FILES.items():
            (self.inventory / name).write_text(text)
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        code = execute(["route", *arguments, "--inventory", str(self.inventory), "--state", str(self.state)])
        said = self._capsys.readouterr()
        return Answer(code, said.out, said.err)

    def store(self) -> Store:
        return Store(self.state / "commcli.sqlite3")

    def measure(self) -> None:
        """Put a fresh round of the mesh into the store."""
        start = int(time.time()) - 20
        with self.store() as store:
            for node in CITIES:
                rows = [
                    window(node, other, rtt_ms, start=start, sent=MANY)
                    for pair, rtt_ms in RTT_MS.items()
                    if node in pair
                    for other in pair
                    if other != node
                ]
                store.record_mesh(node, rows)

    def publish(self, serial: int = 1, *, age_s: int = 0, status: str = "published") -> Decision:
        """Record what today's plan says as a table that was published."""
        now = time.time() - age_s
        with self.store() as store:
            made = decide(
                fleets.load(self.inventory),
                store.mesh(),
                in_force=None,
                serial=serial,
                now_unix=now,
            )
            encoded = tables.encode(made.table)
            journal = history.StoreJournal(store)
            journal.intend(Package(serial, encoded.manifest, "sig", encoded.shards), {})
            nodes = {node: {"state": "done"} for node in CITIES}
            journal.settle(serial, status, {"canary": "ae-1", "nodes": nodes, "reason": "INC-1"})
        return made


@pytest.fixture
def commcli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Commcli]:
    # Bound and not listening: whoever connects is refused, and nobody else gets the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield Commcli(tmp_path, closed.getsockname()[1], capsys)


def test_plan_without_measurements_keeps_the_table(commcli: Commcli) -> None:
    answer = commcli("plan")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.splitlines() == [
        "nothing measured in the last 15 minutes: the table in force stays",
        "  commcli probe mesh",
    ]


def test_plan_shows_what_would_change_and_why(commcli: Commcli) -> None:
    commcli.measure()
    answer = commcli("plan")
    assert (answer.code, answer.err) == (0, "")
    assert "small: no table in force; table 1 would change 20 of 20 pairs" in answer.out
    assert "ae-1 > sg-1 > kr-1" in answer.out
    assert "191 ms (48%) cheaper than ae-1 > kr-1" in answer.out
    assert "20 of 20 pairs routed" in answer.out
    assert "pairs get their first route: direct" in answer.out


def test_plan_as_json(commcli: Commcli) -> None:
    commcli.measure()
    doc = commcli("plan", "--json").document
    assert (doc["schema"], doc["kind"], doc["serial"]) == (1, "route.plan", 1)
    change = next(row for row in doc["changes"] if (row["from"], row["to"]) == ("ae-1", "kr-1"))
    assert change["after"] == ["ae-1", "sg-1", "kr-1"]
    assert change["rtt_before_ms"] - change["rtt_after_ms"] == 193.0


def test_plan_is_silent_when_good_and_quiet(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    assert commcli("plan", "--quiet").out == ""
    assert "nothing to change" in commcli("plan").out


def test_plan_says_what_a_zone_costs(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    (commcli.inventory / "zones.yaml").write_text(ZONE)
    answer = commcli("plan")
    assert "zone not-sg forbids sg (sg-1)" in answer.out
    (price,) = commcli("plan", "--json").document["zones"]
    assert (price["zone"], price["worst_ms"], price["worst"]) == ("not-sg", 29.0, ["ae-1", "kr-1"])


def test_plan_with_a_node_away(commcli: Commcli) -> None:
    commcli.measure()
    doc = commcli("plan", "--away", "sg-1", "--json").document
    assert not any("sg-1" in (row["after"] or ()) for row in doc["changes"])
    assert commcli("plan", "--away", "nobody").code == 2


def test_broken_inventory_is_bad_input(commcli: Commcli) -> None:
    (commcli.inventory / "regions.yaml").write_text("regions: [")
    assert commcli("plan").code == 3


def test_explain_between_markets_in_one_screen(commcli: Commcli) -> None:
    commcli.measure()
    (commcli.inventory / "zones.yaml").write_text(ZONE)
    answer = commcli("explain", "ae", "kr")
    assert (answer.code, answer.err) == (0, "")
    assert "ae-1 (edge of market ae) to kr-1 (edge of market kr); nothing in force" in answer.out
    assert "removed: zone not-sg forbids sg (sg-1), and 4 more" in " ".join(answer.out.split())
    assert "zone not-sg (a contract) costs +29 ms RTT; without it ae-1 > sg-1 > kr-1" in answer.out
    assert len(answer.out.splitlines()) <= 24


def test_explain_as_json_has_every_candidate(commcli: Commcli) -> None:
    commcli.measure()
    doc = commcli("explain", "ae-1", "kr-1", "--json").document
    best = doc["candidates"][0]
    assert (best["path"], best["role"], best["cost_ms"]) == (["ae-1", "sg-1", "kr-1"], "primary", 205.0)
    assert (doc["from_market"], doc["to_market"]) == (None, None)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("ae", "ae-1"), 2, "media between them stays on that node"),
        (("ae", "xx"), 3, '"xx" is neither a node nor a market'),
    ],
)
def test_explain_of_what_is_no_pair(commcli: Commcli, words: tuple[str, str], code: int, text: str) -> None:
    commcli.measure()
    answer = commcli("explain", *words)
    assert answer.code == code
    assert text in answer.err


def test_show_and_history_before_the_first_table(commcli: Commcli) -> None:
    assert commcli("show").code == 1
    answer = commcli("history", "--json")
    assert (answer.code, answer.document["tables"]) == (0, [])


def test_show_lists_the_routes_in_force(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    answer = commcli("show", "ae-1")
    assert answer.code == 0
    assert "ae-1 > sg-1 > kr-1" in answer.out
    doc = commcli("show", "market:ae", "--json").document
    assert [row["to"] for row in doc["routes"]] == ["de-1", "hk-1", "kr-1", "sg-1"]
    assert (doc["serial"], doc["expired"]) == (1, False)


def test_where_clients_are_sent_is_planned_and_shown(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    prefixes = "prefixes:\n  203.0.113.0/24: [sg-1, hk-1]\n  198.51.100.0/24: [sg-1]\n"
    (commcli.inventory / "prefixes.yaml").write_text(prefixes)
    nodes = commcli.inventory / "nodes.yaml"
    nodes.write_text(nodes.read_text().replace("base: /srv/hk-1", "base: /srv/hk-1, state: drain"))
    assert "; 2 client networks get other edges" in " ".join(commcli("plan").out.split())
    commcli.publish(2)
    assert "client networks" not in commcli("plan").out, "the table in force has them"
    answer = commcli("show", "sg-1,hk-1")
    assert "no new clients are sent to hk-1" in answer.out
    assert "client networks: 2, nearest to sg-1 2" in answer.out
    doc = commcli("show", "sg-1", "--json").document
    assert (
        doc["prefixes"],
        [(door["node"], door["turn_port"], door["prefixes"]) for door in doc["doors"]],
    ) == (
        2,
        [("sg-1", 3478, 2)],
    )


@pytest.mark.parametrize(
    ("days", "words"), [(3, ""), (4, "expires in 3.0 days"), (6.5, "expires in 0.5 days")]
)
def test_show_says_that_a_table_is_to_be_renewed(commcli: Commcli, days: float, words: str) -> None:
    commcli.measure()
    commcli.publish()
    with commcli.store() as store:
        old = history.kept(store, 1)
        encoded = tables.encode(tables.under_serial(old, 2, int(time.time() - days * 86400)))
        store.record_table(2, encoded.manifest, "sig", encoded.shards, "published")
    answer = commcli("show")
    assert answer.code == 0
    assert f"{words}: commcli route apply" in answer.out if words else "route apply" not in answer.out
    assert commcli("show", "--json").document["due"] is bool(words)


def test_show_of_an_expired_table_is_a_bad_answer(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish(age_s=0)
    with commcli.store() as store:
        old = history.kept(store, 1)
        encoded = tables.encode(tables.under_serial(old, 2, int(time.time()) - 8 * 86400))
        store.record_table(2, encoded.manifest, "sig", encoded.shards, "published")
    answer = commcli("show")
    assert answer.code == 1
    assert "expired" in answer.out


def test_history_tells_what_became_of_each_table(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish(1)
    commcli.publish(2, status="rolled-back")
    doc = commcli("history", "--json").document
    rows = [(row["serial"], row["status"], row["confirmed"], row["shards"]) for row in doc["tables"]]
    assert rows == [(2, "rolled-back", 5, 5), (1, "published", 5, 5)]
    assert doc["in_force"] == 1
    assert "INC-1" in commcli("history").out


def test_history_knows_a_rollout_that_was_killed(commcli: Commcli) -> None:
    commcli.measure()
    for serial in (1, 2):
        commcli.publish(serial, status="publishing")
    doc = commcli("history", "--json").document
    # The newest may be at work this moment; no older one can be.
    assert [(row["serial"], row["status"]) for row in doc["tables"]] == [(2, "publishing"), (1, "unfinished")]


def test_apply_with_nobody_in_reach_changes_and_records_nothing(commcli: Commcli) -> None:
    commcli.measure()
    answer = commcli("apply", "--yes")
    assert (answer.code, answer.out) == (4, "")
    assert "none of 5 relays answers; ae-1: unreachable: connection refused" in answer.err
    with commcli.store() as store:
        assert store.tables() == []
        assert store.audits() == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--yes", "--max-lost", "3"), "are limits of --auto"),
        (("--auto", "--force"), "exclude each other"),
        (("--auto", "--max-changed", "20"), "0<=x<=1"),
    ],
)
def test_limits_that_limit_nothing_are_wrong_use(commcli: Commcli, words: tuple[str, ...], text: str) -> None:
    answer = commcli("apply", *words)
    assert answer.code == 2
    assert text in answer.err


def test_apply_as_json_tells_errors_as_json(commcli: Commcli) -> None:
    commcli.measure()
    answer = commcli("apply", "--yes", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (4, "unreachable")


def test_apply_names_who_holds_the_lock(commcli: Commcli) -> None:
    with exclusive(commcli.state / "lock", "route apply"):
        answer = commcli("apply", "--yes")
    assert answer.code == 75
    assert "route apply" in answer.err


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_an_unknown_canary_is_wrong_use(commcli: Commcli, verb: str) -> None:
    assert commcli(verb, "--yes", "--canary", "nobody").code == 2


def test_rollback_to_a_table_that_a_zone_of_today_forbids_is_refused(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish(1)
    commcli.publish(2)
    (commcli.inventory / "zones.yaml").write_text(ZONE)
    answer = commcli("rollback", "--yes")
    assert (answer.code, answer.out) == (5, "")
    assert "table 1 breaks zone not-sg of today: primary ae-1 > sg-1 > kr-1, and 1 more" in answer.err


def test_rollback_to_nothing(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish(1)
    answer = commcli("rollback", "--yes")
    assert answer.code == 3
    assert "no table before serial 1 is kept" in answer.err
    assert commcli("rollback", "9", "--yes").code == 3


def test_audit_with_nobody_in_reach(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    answer = commcli("audit", "--json")
    assert (answer.code, answer.document["exit_code"]) == (4, 4)
    assert {row["state"] for row in answer.document["nodes"]} == {"unreachable"}
    assert "there was no path to judge; 5 of 5 relays gave no word" in commcli("audit").out
    assert commcli("audit", "--max-age", "soon").code == 2


def test_diff_of_tables_that_are_kept(commcli: Commcli) -> None:
    commcli.measure()
    assert commcli("diff", "1").code == 3, "nothing is kept"
    commcli.publish(1)
    commcli.publish(2)
    assert commcli("diff", "1").code == 0
    assert commcli("diff", "1", "2", "--quiet").out == ""
    (commcli.inventory / "zones.yaml").write_text(ZONE)
    commcli.publish(3)
    answer = commcli("diff", "1")
    assert (answer.code, answer.err) == (1, "")
    assert "ae-1 > sg-1 > kr-1" in answer.out
    assert "zone not-sg: new" in answer.out
    doc = commcli("diff", "1", "3", "--json").document
    assert (doc["before"]["serial"], doc["after"]["serial"], doc["same"]) == (1, 3, False)
    pair = next(row for row in doc["pairs"] if (row["from"], row["to"]) == ("ae-1", "kr-1"))
    assert pair["roles"]["primary"]["before"] == ["ae-1", "sg-1", "kr-1"]


def test_diff_with_what_would_be_planned_now(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    assert commcli("diff", "plan").code == 0
    (commcli.inventory / "zones.yaml").write_text(ZONE)
    assert commcli("diff", "1", "plan").code == 1
    assert commcli("diff", "now").code == 2
    assert commcli("diff", "9").code == 3


def test_whatif_a_node_is_down(commcli: Commcli) -> None:
    commcli.measure()
    answer = commcli("whatif", "--down", "sg-1")
    assert (answer.code, answer.err) == (1, "")
    assert "market sg has no edge left" in answer.out
    doc = commcli("whatif", "--down", "sg-1", "--json").document
    slow = next(row for row in doc["worse"] if (row["from"], row["to"]) == ("ae-1", "kr-1"))
    assert slow["after"] == ["ae-1", "hk-1", "kr-1"]
    assert slow["rtt_after_ms"] > slow["rtt_before_ms"]
    assert (doc["load_is"], doc["counts"]["ended"], doc["harmless"]) == ("pairs", 8, False)


def test_whatif_with_other_zones(commcli: Commcli) -> None:
    commcli.measure()
    file = commcli.state.parent / "zones-of-tomorrow.yaml"
    file.write_text(ZONE)
    answer = commcli("whatif", "--zone", str(file))
    assert answer.code == 0
    assert "ae-1 > hk-1 > kr-1" in answer.out
    assert "nobody else loses a path" in answer.out
    file.write_text(ZONE.replace("forbid: [sg]", "forbid: [sgp]"))
    answer = commcli("whatif", "--zone", str(file))
    assert answer.code == 3
    assert "zones-of-tomorrow.yaml:4: zone not-sg: " in answer.err
    assert commcli("whatif", "--zone", str(file) + ".gone").code == 3


def test_whatif_a_node_more(commcli: Commcli) -> None:
    commcli.measure()
    answer = commcli("whatif", "--add", "sg-2=sg-1", "--down", "sg-1")
    assert answer.code == 0
    assert "assumed, not measured" in answer.out
    assert "new clients of market sg: sg-1, then sg-2" in answer.out


@pytest.mark.parametrize("words", [(), ("--down", "nobody"), ("--add", "nobody"), ("--add", "x=nobody")])
def test_whatif_what(commcli: Commcli, words: tuple[str, ...]) -> None:
    commcli.measure()
    assert commcli("whatif", *words).code == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("diff", "9" * 5000), 2),
        (("diff", "9" * 20), 2),
        (("history", "--limit", "9" * 20), 3),
        (("rollback", "9" * 20, "--yes"), 3),
    ],
)
def test_a_serial_that_no_table_can_have_is_no_bug(
    commcli: Commcli, words: tuple[str, ...], code: int
) -> None:
    answer = commcli(*words)
    assert (answer.code, len(answer.err.splitlines())) == (code, 1)


def test_history_and_audit_do_without_the_table_itself(commcli: Commcli) -> None:
    commcli.measure()
    commcli.publish()
    with closing(sqlite3.connect(commcli.state / "commcli.sqlite3")) as db, db:
        db.execute("UPDATE shards SET body = x'7b7d' WHERE node = 'ae-1'")
    assert commcli("show").code == 3
    assert commcli("history", "--json").document["in_force"] == 1
    assert commcli("audit", "--json").document["serial"] == 1
