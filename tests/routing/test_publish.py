from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from commcli.errors import Refused
from commcli.fleet import Fleet, Node, Signing
from commcli.remote.outcome import Failed, Outcome, Unreachable
from commcli.routing import publish as publishing
from commcli.routing import table as tables
from commcli.routing.publish import Package, Rollout, prepare
from tests.routing.fleets import zone
from tests.routing.nodes import FakeNodes, Notebook
from tests.routing.worlds import NOW, decision, small_fleet

NODES = list(small_fleet().nodes.values())
IDS = [node.id for node in NODES]


def package(serial: int = 2) -> Package:
    encoded = tables.encode(decision(serial=serial).table)
    return Package(serial, encoded.manifest, f"signed {len(encoded.manifest)}", encoded.shards)


async def publish(
    side: FakeNodes,
    journal: Notebook | None = None,
    *,
    nodes: list[Node] = NODES,
    first: bool = False,
    canary: str | None = None,
    absent: tuple[Outcome[int], ...] = (),
) -> Rollout:
    return await publishing.publish(
        package(),
        nodes,
        side,
        journal or Notebook(),
        back=None if first else lambda: package(3),
        canary=canary,
        absent=absent,
    )


def states(rollout: Rollout) -> dict[str, str]:
    return {outcome.node: outcome.state for outcome in rollout.outcomes}


async def test_canary_first_then_everyone() -> None:
    side, journal = FakeNodes(), Notebook()
    rollout = await publish(side, journal)
    assert (rollout.state, rollout.exit_code, rollout.canary) == ("published", 0, "ae-1")
    assert side.loaded == dict.fromkeys(IDS, 2)
    assert side.asked[0] == ("ae-1", 2)
    assert journal.entries == [("intend", 2, ""), ("settle", 2, "published")]


async def test_everybody_holds_it_ready_before_anybody_goes_by_it() -> None:
    events: list[tuple[str, str]] = []

    class Watched(FakeNodes):
        async def stage(self, node: Node, package: Package) -> int:
            events.append(("stage", node.id))
            return await super().stage(node, package)

        async def install(self, node: Node, package: Package) -> int:
            events.append(("install", node.id))
            return await super().install(node, package)

    await publish(Watched(), canary="kr-1")
    verbs = [verb for verb, _ in events]
    assert verbs == ["stage"] * len(IDS) + ["install"] * len(IDS)
    assert events[0] == ("stage", "kr-1"), "a table that no relay survives is to cost one"
    assert events[len(IDS)] == ("install", "kr-1")


@pytest.mark.parametrize(("node", "handed"), [("ae-1", 1), ("sg-1", len(IDS))])
@pytest.mark.parametrize("trouble", ["refuse", "disk"])
async def test_what_a_node_will_not_hold_is_nowhere_in_force(trouble: str, node: str, handed: int) -> None:
    side, journal = FakeNodes(at_hand={node: trouble}), Notebook()
    rollout = await publish(side, journal)
    assert (rollout.state, rollout.exit_code, rollout.back) == ("rolled-back", 6, None)
    assert rollout.stopped.startswith(f"{node}: {'refused' if trouble == 'refuse' else 'failed'}: ")
    assert (side.asked, side.loaded, len(side.handed)) == ([], {}, handed)
    assert journal.entries == [("intend", 2, ""), ("settle", 2, "rolled-back")]
    assert rollout.detail()["nodes"][node]["state"] in ("refused", "failed")


@pytest.mark.parametrize("trouble", ["unreachable", "timeout", "lost"])
async def test_a_node_that_can_not_be_handed_it_is_not_asked_again(trouble: str) -> None:
    side = FakeNodes(at_hand={"ae-1": trouble})
    rollout = await publish(side)
    assert (rollout.state, rollout.exit_code, rollout.canary) == ("partial", 4, "de-1")
    assert "ae-1" not in {node for node, _ in side.asked}
    assert set(side.loaded) == set(IDS) - {"ae-1"}


async def test_a_named_canary_that_can_not_be_handed_it_ends_it_there() -> None:
    side = FakeNodes(at_hand={"kr-1": "unreachable"})
    rollout = await publish(side, canary="kr-1")
    assert (rollout.state, rollout.exit_code) == ("unreached", 4)
    assert (side.handed, side.asked) == ([("kr-1", 2)], [])


async def test_a_lost_answer_to_the_handing_over_is_asked_for_again() -> None:
    side = FakeNodes(at_hand={"hk-1": ["lost"]})
    assert (await publish(side)).state == "published"
    assert [node for node, _ in side.handed].count("hk-1") == 2


async def test_the_canary_can_be_named() -> None:
    side = FakeNodes()
    rollout = await publish(side, canary="kr-1")
    assert side.asked[0] == ("kr-1", 2)
    assert rollout.canary == "kr-1"
    assert set(side.loaded) == set(IDS)


async def test_a_canary_that_refuses_stops_it_before_anyone_else_hears_of_it() -> None:
    side, journal = FakeNodes({"ae-1": "refuse"}), Notebook()
    rollout = await publish(side, journal)
    assert (rollout.state, rollout.exit_code) == ("rolled-back", 6)
    assert side.asked == [("ae-1", 2)]
    assert rollout.back is None  # nobody has it, so there is nothing to take back
    assert "relay refused the table" in rollout.stopped
    assert journal.entries == [("intend", 2, ""), ("settle", 2, "rolled-back")]


async def test_a_canary_that_confirms_another_serial_is_rolled_back() -> None:
    side = FakeNodes({"ae-1": ["liar"]})
    rollout = await publish(side)
    assert (rollout.state, rollout.exit_code) == ("rolled-back", 6)
    assert side.asked == [("ae-1", 2), ("ae-1", 3)]
    assert "says serial 1, not 2" in rollout.stopped
    assert side.loaded == {"ae-1": 3}


@pytest.mark.parametrize("trouble", ["refuse", "disk"])
async def test_trouble_in_a_wave_brings_all_that_were_touched_back_under_a_newer_serial(trouble: str) -> None:
    side, journal = FakeNodes({"hk-1": [trouble]}), Notebook()
    rollout = await publish(side, journal)
    assert (rollout.state, rollout.exit_code, rollout.back) == ("rolled-back", 6, 3)
    assert states(rollout) == {
        "ae-1": "done",
        "de-1": "done",
        "hk-1": "refused" if trouble == "refuse" else "failed",
    }
    # hk-1 with a full disk may hold half a push and gets the former routes as well; one that refused keeps
    # what it had.
    expected = {"ae-1", "de-1"} | ({"hk-1"} if trouble == "disk" else set())
    assert side.loaded == dict.fromkeys(expected, 3)
    assert not {"kr-1", "sg-1"} & {node for node, _ in side.asked}
    assert journal.entries == [
        ("intend", 2, ""),
        ("intend", 3, ""),
        ("settle", 3, "published"),
        ("settle", 2, "rolled-back"),
    ]
    assert journal.details[3]["rollback_of"] == 2


async def test_a_rollback_without_a_former_table_leaves_what_is_and_says_so() -> None:
    side = FakeNodes({"kr-1": "refuse"})
    rollout = await publish(side, first=True)
    assert (rollout.state, rollout.exit_code, rollout.back) == ("rolled-back", 6, None)


async def test_a_way_back_that_can_not_be_signed_is_told_and_nobody_takes_the_table_up_again() -> None:
    def no_agent() -> Package:
        raise Refused("no agent answers")

    side, journal = FakeNodes({"kr-1": "refuse"}), Notebook()
    rollout = await publishing.publish(package(), NODES, side, journal, back=no_agent)
    assert (rollout.state, rollout.exit_code, rollout.back) == ("rolled-back", 6, None)
    assert rollout.stopped.endswith("; the way back can not be signed: no agent answers")
    assert journal.entries[-1] == ("settle", 2, "rolled-back")


async def test_one_node_out_of_reach_is_reported_and_stops_nobody() -> None:
    side = FakeNodes({"hk-1": "unreachable"})
    rollout = await publish(side)
    assert (rollout.state, rollout.exit_code) == ("partial", 4)
    assert states(rollout)["hk-1"] == "unreachable"
    assert set(side.loaded) == set(IDS) - {"hk-1"}


async def test_an_unreachable_canary_gives_way_to_the_next() -> None:
    side = FakeNodes({"ae-1": "unreachable"})
    rollout = await publish(side)
    assert (rollout.state, rollout.canary) == ("partial", "de-1")


async def test_a_named_canary_out_of_reach_ends_it_before_it_began() -> None:
    side = FakeNodes({"kr-1": "unreachable"})
    rollout = await publish(side, canary="kr-1")
    assert (rollout.state, rollout.exit_code) == ("unreached", 4)
    assert side.asked == [("kr-1", 2)]


async def test_nobody_in_reach() -> None:
    rollout = await publish(FakeNodes(dict.fromkeys(IDS, "unreachable")))
    assert (rollout.state, rollout.exit_code) == ("unreached", 4)


@pytest.mark.parametrize("trouble", ["lost", "lost-after"])
async def test_a_lost_answer_is_asked_for_again(trouble: str) -> None:
    side = FakeNodes({"hk-1": [trouble]})
    rollout = await publish(side)
    assert (rollout.state, rollout.exit_code) == ("published", 0)
    assert [node for node, _ in side.asked].count("hk-1") == 2


async def test_lost_twice_is_out_of_reach_and_comes_along_when_others_go_back() -> None:
    side = FakeNodes({"de-1": ["lost-after", "lost"], "hk-1": ["disk"]})
    rollout = await publish(side)
    assert states(rollout)["de-1"] == "lost"
    assert side.loaded["de-1"] == 3


async def test_a_timeout_does_not_stop_the_others() -> None:
    rollout = await publish(FakeNodes({"sg-1": "timeout"}))
    assert (rollout.state, rollout.exit_code) == ("partial", 4)


async def test_absent_nodes_are_not_asked_but_counted() -> None:
    gone: Outcome[int] = Outcome("kr-1", "unreachable", None, "connection refused", 0.1, 4)
    side = FakeNodes()
    rollout = await publish(side, nodes=[node for node in NODES if node.id != "kr-1"], absent=(gone,))
    assert (rollout.state, rollout.exit_code) == ("partial", 4)
    assert "kr-1" not in {node for node, _ in side.asked}
    assert rollout.detail()["nodes"]["kr-1"]["state"] == "unreachable"


async def test_an_interrupted_rollout_is_in_the_journal() -> None:
    waved = asyncio.Event()

    class Hanging(FakeNodes):
        async def install(self, node: Node, package: Package) -> int:
            if node.id != "ae-1":
                waved.set()
                await asyncio.Event().wait()
            return await super().install(node, package)

    journal = Notebook()
    task = asyncio.create_task(publish(Hanging(), journal))
    await waved.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journal.entries == [("intend", 2, ""), ("settle", 2, "interrupted")]
    assert journal.details[2]["nodes"] == {"ae-1": {"state": "done", "serial": 2, "reason": ""}}


async def test_a_second_rollout_after_a_broken_off_one_just_goes_on() -> None:
    side = FakeNodes()
    await side.install(NODES[0], package(2))  # the canary took it, then commcli was killed
    rollout = await publishing.publish(package(3), NODES, side, Notebook(), back=lambda: package(4))
    assert rollout.state == "published"
    assert side.loaded == dict.fromkeys(IDS, 3)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"state": "confirmed", "serial": 5, "reason": ""}, 5),
        ({"state": "refused", "serial": 4, "reason": "expired"}, Refused),
        ({"state": "down", "serial": None, "reason": "no relay answers"}, Unreachable),
        ({"state": "failed", "serial": 4, "reason": "No space left on device"}, Failed),
    ],
)
def test_what_the_node_says_becomes_an_outcome(answer: Mapping[str, object], expected: object) -> None:
    if isinstance(expected, type):
        with pytest.raises(expected, match=str(answer["reason"])):
            publishing._confirmed(answer)
    else:
        assert publishing._confirmed(answer) == expected


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two keys, of which only the first may sign tables."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    public = (folder / "ours.pub").read_text()
    (folder / "signers").write_text(f'commcli-table namespaces="commcli-table" {public}')
    return folder


def signed_by(keys: Path, name: str) -> publishing.Sign:
    def sign(data: bytes) -> str:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(keys / name), "-n", tables.NAMESPACE]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout.decode()

    return sign


def fleet_with(keys: Path) -> Fleet:
    return small_fleet(signing=Signing(signers=keys / "signers", key=keys / "ours"))


def test_a_good_table_is_signed(keys: Path) -> None:
    made = prepare(
        decision().table, fleet_with(keys), signed_by(keys, "ours"), now_unix=NOW, highest_serial=0
    )
    assert made.serial == 1
    assert made.signature.startswith("-----BEGIN SSH SIGNATURE-----")


def test_our_own_signer_makes_what_ssh_keygen_takes(keys: Path) -> None:
    from commcli.remote.sshsig import sign

    made = prepare(
        decision().table,
        fleet_with(keys),
        lambda data: sign(data, keys / "ours", False, tables.NAMESPACE),
        now_unix=NOW,
        highest_serial=0,
    )
    assert made.serial == 1


def test_a_signature_that_nodes_would_refuse_is_refused_here(keys: Path) -> None:
    with pytest.raises(Refused, match="refused before any push: signature"):
        prepare(decision().table, fleet_with(keys), signed_by(keys, "theirs"), now_unix=NOW, highest_serial=0)


def test_a_lawless_table_is_never_signed(keys: Path) -> None:
    bound = decision([zone("z", "ae", "kr", forbid=["sg"])])
    lawless = tables.under_policy(decision().table, bound.policy)
    asked: list[bytes] = []
    with pytest.raises(Refused, match="breaks z"):
        prepare(
            lawless,
            fleet_with(keys),
            lambda data: asked.append(data) or "",  # type: ignore[func-returns-value]  # a spy in one line
            now_unix=NOW,
            highest_serial=0,
        )
    assert asked == []


def test_a_serial_that_does_not_grow_is_refused(keys: Path) -> None:
    with pytest.raises(Refused, match="not above 1"):
        prepare(decision().table, fleet_with(keys), signed_by(keys, "ours"), now_unix=NOW, highest_serial=1)
