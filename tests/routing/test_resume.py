"""A rollout that was broken off, or that missed a node, is finished with the very table that was signed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.fleet import Fleet, Node, Signing
from commcli.remote.outcome import Event, Outcome
from commcli.remote.ssh import Pool
from commcli.routing import resume
from commcli.routing import table as tables
from commcli.routing.change import Change, How
from commcli.routing.decision import Decision, decide
from commcli.routing.history import situation
from commcli.routing.preflight import Preflight, why_publish
from commcli.routing.publish import Package, Rollout
from commcli.store.sqlite import Store
from tests.routing.fleets import zone
from tests.routing.live import make_keys
from tests.routing.nodes import FakeNodes
from tests.routing.worlds import COUNTRIES, NOW, RTT_MS, small_fleet, windows

OTHER_MS = {**RTT_MS, ("ae-1", "kr-1"): 160.0}


class Relays(FakeNodes):
    """Relays that outlive commcli; `killed_at` is the node at which it is killed, `killed_handing` at handing to it."""

    killed_at = killed_handing = ""

    def is_ours(self, package: Package, signature: str) -> bool:
        return signature.startswith("-----BEGIN SSH SIGNATURE-----")

    async def stage(self, node: Node, package: Package) -> int:
        if node.id == self.killed_handing:
            raise asyncio.CancelledError
        return await super().stage(node, package)

    async def install(self, node: Node, package: Package) -> int:
        if node.id == self.killed_at:
            raise asyncio.CancelledError
        return await super().install(node, package)


@dataclass
class Desk:
    """An operator's desk in memory but for its store and its keys."""

    store: Store
    fleet: Fleet
    relays: Relays = field(default_factory=Relays)
    away: frozenset[str] = frozenset()
    now: float = NOW

    def look(self) -> Preflight:
        gone: list[Outcome[int]] = [
            Outcome(node, "unreachable", None, "no route", 0.1, 4) for node in sorted(self.away)
        ]
        return Preflight({n: self.relays.loaded.get(n) for n in COUNTRIES if n not in self.away}, tuple(gone))

    def decide(self, rtt_ms: Mapping[tuple[str, str], float] = RTT_MS) -> Decision:
        serial = max(self.store.latest_serial(), self.look().highest) + 1
        in_force = situation(self.store).in_force
        rows = [{**row, "start": int(self.now) - 20} for row in windows(rtt_ms)]
        return decide(self.fleet, rows, in_force=in_force, serial=serial, now_unix=self.now)

    def change(self) -> Change:
        nobody = cast(Pool, None)
        return Change("route apply", self.fleet, self.store, nobody, clock=lambda: self.now, side=self.relays)

    async def publish(self, decision: Decision | None = None) -> Rollout:
        decision = decision or self.decide()
        change = self.change()
        return await change.publish(
            decision.table, decision.in_force, self.look(), How(), on_event=_nobody_listens
        )

    async def killed(self, node: str, decision: Decision | None = None) -> None:
        """Publish, and be killed at this node."""
        self.relays.killed_at = node
        with pytest.raises(asyncio.CancelledError):
            await self.publish(decision)
        self.relays.killed_at = ""

    def find(
        self, decision: Decision | None = None, *, by_itself: bool = False
    ) -> tuple[resume.Resumable | None, str]:
        decision = decision or self.decide()
        return resume.find(
            self.store, decision, self.look(), self.fleet, now_unix=self.now, by_itself=by_itself
        )

    async def resume(self) -> Rollout:
        found, obstacle = self.find()
        assert found is not None, obstacle
        return await self.change().resume(
            found, resume.former(self.store, found), self.look(), How(), on_event=_nobody_listens
        )

    def statuses(self) -> list[tuple[int, str]]:
        return [(row["serial"], row["status"]) for row in self.store.tables()]


def _nobody_listens(_event: Event) -> None:
    pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def desk(tmp_path: Path, keys: Path) -> Iterator[Desk]:
    with Store(tmp_path / "db") as store:
        yield Desk(store, small_fleet(signing=Signing(signers=keys / "signers", key=keys / "ours")))


@pytest.mark.parametrize(
    ("node", "loaded"),
    [("ae-1", []), ("de-1", ["ae-1", "hk-1"]), ("sg-1", ["ae-1", "de-1", "hk-1", "kr-1"])],
    ids=["at the canary", "in the first wave", "in the last wave"],
)
async def test_a_rollout_that_was_killed_is_finished_under_its_own_serial(
    desk: Desk, node: str, loaded: list[str]
) -> None:
    await desk.publish(desk.decide(OTHER_MS))
    await desk.killed(node)
    assert desk.statuses() == [(2, "interrupted"), (1, "published")]
    assert [n for n, serial in sorted(desk.relays.loaded.items()) if serial == 2] == loaded
    signed = desk.store.table(2)

    rollout = await desk.resume()
    assert (rollout.state, rollout.serial, rollout.canary) == ("published", 2, "ae-1")
    assert desk.relays.loaded == dict.fromkeys(COUNTRIES, 2)
    assert desk.statuses() == [(2, "published"), (1, "published")]
    after = desk.store.table(2)
    assert signed is not None and after is not None
    assert (after.manifest, after.signature) == (signed.manifest, signed.signature), "nobody signed again"
    assert why_publish(desk.decide(), desk.look(), now_unix=NOW) == []


async def test_killed_while_it_was_handed_out_it_is_in_force_nowhere_and_goes_on(desk: Desk) -> None:
    await desk.publish(desk.decide(OTHER_MS))
    desk.relays.killed_handing = "sg-1"
    with pytest.raises(asyncio.CancelledError):
        await desk.publish()
    desk.relays.killed_handing = ""
    assert desk.relays.loaded == dict.fromkeys(COUNTRIES, 1)
    assert desk.relays.staged["ae-1"] == 2
    rollout = await desk.resume()
    assert (rollout.state, rollout.serial) == ("published", 2)
    assert desk.relays.loaded == dict.fromkeys(COUNTRIES, 2)


async def test_a_kill_that_left_no_word_at_all(desk: Desk) -> None:
    await desk.killed("de-1")
    desk.store.set_table_status(1, "publishing", {})  # as SIGKILL leaves it
    found, _ = desk.find()
    assert found is not None
    assert found.why == "the rollout of table 1 was broken off: it is not yet on de-1, kr-1, sg-1"
    assert (await desk.resume()).state == "published"
    assert desk.relays.loaded == dict.fromkeys(COUNTRIES, 1)


async def test_killed_after_the_last_push_it_is_only_recorded(desk: Desk) -> None:
    await desk.publish()
    desk.store.set_table_status(1, "publishing", {})
    found, _ = desk.find()
    assert found is not None
    assert found.why == "the rollout of table 1 was broken off: every relay that answers has it"
    await desk.resume()
    assert desk.statuses() == [(1, "published")]


async def test_a_canary_that_has_it_already_is_the_canary_still(desk: Desk) -> None:
    desk.relays.loaded = {}
    await desk.killed("ae-1")
    await desk.relays.install(desk.fleet.nodes["kr-1"], _package(desk, 1))
    assert (await desk.resume()).canary == "kr-1"


async def test_a_refusal_while_it_is_finished_goes_back_to_the_former_routes(desk: Desk) -> None:
    await desk.publish(desk.decide(OTHER_MS))
    former = desk.store.table(1)
    await desk.killed("de-1")
    desk.relays.refuse("kr-1")
    rollout = await desk.resume()
    assert (rollout.state, rollout.back) == ("rolled-back", 3)
    assert desk.relays.loaded["ae-1"] == 3
    back = desk.store.table(3)
    assert back is not None and former is not None
    assert tables.decode(back.manifest, back.shards).same_routing(
        tables.decode(former.manifest, former.shards)
    )


async def test_when_it_goes_back_so_does_everybody_who_had_it(desk: Desk) -> None:
    await desk.publish(desk.decide(OTHER_MS))
    await desk.killed("sg-1")  # all others have it
    desk.relays.refuse("ae-1")
    rollout = await desk.resume()
    assert (rollout.state, rollout.stopped.split(":")[0]) == ("rolled-back", "canary ae-1")
    assert desk.relays.loaded == {**dict.fromkeys(("de-1", "hk-1", "kr-1"), 3), "ae-1": 2, "sg-1": 1}


async def test_with_its_canary_away_it_can_be_taken_up_later(desk: Desk) -> None:
    await desk.killed("de-1")
    found, _ = desk.find()
    assert found is not None
    desk.relays.cut("kr-1")
    how = How(canary="kr-1")
    rollout = await desk.change().resume(found, None, desk.look(), how, on_event=_nobody_listens)
    assert rollout.state == "unreached"
    assert desk.statuses() == [(1, "interrupted")]


async def test_a_node_that_was_away_gets_the_same_table_later_and_nobody_else_is_asked(desk: Desk) -> None:
    desk.away = frozenset({"kr-1"})
    assert (await desk.publish()).state == "partial"
    desk.relays.asked.clear()
    desk.away = frozenset()
    found, _ = desk.find()
    assert found is not None
    assert found.why == "table 1 is not yet on kr-1"
    rollout = await desk.resume()
    assert (rollout.state, rollout.exit_code) == ("published", 0)
    assert desk.relays.asked == [("kr-1", 1)]
    (row,) = desk.store.tables()
    assert row["status"] == "published"
    assert {node["state"] for node in row["detail"]["nodes"].values()} == {"done"}
    assert set(row["detail"]["nodes"]) == set(COUNTRIES)


async def test_a_node_that_comes_back_and_refuses_takes_nothing_from_the_others(desk: Desk) -> None:
    desk.away = frozenset({"kr-1"})
    await desk.publish()
    desk.away = frozenset()
    desk.relays.refuse("kr-1")
    rollout = await desk.resume()
    assert (rollout.state, rollout.exit_code, rollout.back) == ("partial", 5, None)
    assert desk.relays.loaded == dict.fromkeys(COUNTRIES.keys() - {"kr-1"}, 1)
    assert desk.statuses() == [(1, "partial")]


async def test_a_table_that_hardly_anybody_got_takes_its_course_again_and_goes_back_if_it_fails(
    desk: Desk,
) -> None:
    """As when the run's deadline ended behind the canary: all others had the former table, and nobody judged."""
    await desk.publish(desk.decide(OTHER_MS))
    former = desk.store.table(1)
    desk.away = frozenset(COUNTRIES) - {"de-1"}
    assert (await desk.publish()).state == "partial"
    desk.away = frozenset()
    found, _ = desk.find()
    assert found is not None
    assert found.why == "the rollout of table 2 was broken off: it is not yet on ae-1, hk-1, kr-1, sg-1"
    desk.relays.refuse("sg-1")
    rollout = await desk.resume()
    assert (rollout.state, rollout.canary, rollout.back) == ("rolled-back", "de-1", 3)
    back = desk.store.table(3)
    assert back is not None and former is not None
    assert tables.decode(back.manifest, back.shards).same_routing(
        tables.decode(former.manifest, former.shards)
    )


async def _stopped_with_one_node_away(desk: Desk) -> None:
    """Table 2 was stopped; all but one, which has it, are back on the routes of table 1."""
    await desk.publish(desk.decide(OTHER_MS))
    desk.relays.refuse("sg-1")
    assert (await desk.publish()).back == 3
    desk.relays.loaded["ae-1"] = 2


async def test_by_itself_a_way_back_is_finished_whatever_the_plan_says(desk: Desk) -> None:
    await _stopped_with_one_node_away(desk)
    found, obstacle = desk.find()
    assert (found, obstacle) == (None, ""), "a person is not asked to go back once more"
    found, _ = desk.find(by_itself=True)
    assert found is not None
    assert found.why == "table 3 is not yet on ae-1, sg-1"


async def test_nor_is_it_where_a_zone_of_today_forbids_it(desk: Desk) -> None:
    await _stopped_with_one_node_away(desk)
    desk.fleet = replace(desk.fleet, zones=(zone("z", "ae", "kr", forbid=["ae"]),))
    assert desk.find(by_itself=True)[0] is None


async def test_with_nothing_lacking_there_is_no_way_back_to_finish(desk: Desk) -> None:
    await _stopped_with_one_node_away(desk)
    desk.relays.loaded["ae-1"] = 3  # and sg-1, which refused, has the former table, that is the same
    assert desk.find(by_itself=True) == (None, "")


def _other_plan(desk: Desk) -> Decision:
    return desk.decide(OTHER_MS)


def _half_a_life_later(desk: Desk) -> Decision:
    desk.now += tables.LIFETIME_S / 2 + 1
    return desk.decide()


def _another_key(desk: Desk) -> Decision:
    assert desk.fleet.signing.key is not None
    folder = desk.fleet.signing.key.parent
    theirs = folder / "their_signers"
    theirs.write_text(f'commcli-table namespaces="commcli-table" {(folder / "theirs.pub").read_text()}')
    desk.fleet = replace(desk.fleet, signing=Signing(signers=theirs, key=folder / "theirs"))
    return desk.decide()


def _a_newer_one(desk: Desk) -> Decision:
    desk.relays.loaded["sg-1"] = 7
    return desk.decide()


@pytest.mark.parametrize(
    ("happens", "why"),
    [
        (_other_plan, "the plan is another one now"),
        (_half_a_life_later, "more than half of its life is over"),
        (_another_key, "table 1 refused before any push: signature"),
        (_a_newer_one, "a relay has table 7"),
    ],
)
async def test_what_no_longer_holds_is_replaced_by_a_newer_table(desk: Desk, happens: Any, why: str) -> None:
    await desk.killed("de-1")
    decision = happens(desk)
    found, obstacle = desk.find(decision)
    assert found is None
    assert obstacle.startswith("the rollout of table 1 was broken off, and a newer one replaces it: " + why)
    assert (await desk.publish(decision)).state == "published"
    assert set(desk.relays.loaded.values()) == {decision.table.serial}


async def test_a_table_of_a_key_that_was_taken_out_is_to_be_signed_anew(desk: Desk) -> None:
    await desk.publish()
    assert resume.disowned(desk.store, desk.decide(), desk.fleet) is None
    decision = _another_key(desk)
    assert why_publish(decision, desk.look(), now_unix=NOW) == [], "else nobody would publish"
    why = resume.disowned(desk.store, decision, desk.fleet)
    assert why == "table 1 is signed by a key that is not among the signers any more"
    assert desk.find(decision)[0] is None


async def test_what_was_taken_back_is_not_taken_up_again(desk: Desk) -> None:
    desk.relays.refuse("ae-1")
    assert (await desk.publish()).state == "rolled-back"
    assert desk.find() == (None, "")


def _package(desk: Desk, serial: int) -> Package:
    stored = desk.store.table(serial)
    assert stored is not None
    return Package(serial, stored.manifest, stored.signature, stored.shards)
