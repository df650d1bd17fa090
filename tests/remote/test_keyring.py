"""Changing the overlay's keys: the next step from what relays hold, and that no order of nodes loses a packet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.errors import BadInput, Refused
from commcli.fleet.model import Fleet
from commcli.fleet.secrets import Secret
from commcli.relay.mesh import neighbours
from commcli.remote import keyreport, relayfiles
from commcli.remote.keyring import Keyring, Step
from commcli.remote.outcome import Outcome
from commcli.remote.rotation import Rotation
from tests.remote.sshd import Host

HOST = Host(Path("/srv/test"), 22)
NODES = ("sg-1", "de-1", "br-1", "us-1")
FLEET = HOST.fleet(*(HOST.node(name, address=f"127.0.0.{n}") for n, name in enumerate(NODES, 1)))
OLD, NEW, OTHER = "old-secret-" * 2, "new-secret-" * 2, "other-secret-" * 2


def ring(overlay: str, coming: str | None = None, fleet: Fleet = FLEET) -> Keyring:
    secrets = {"overlay": Secret(overlay), **({} if coming is None else {"overlay_next": Secret(coming)})}
    return Keyring(fleet, secrets)


@dataclass
class Relays:
    """What the relays of the fleet hold: the masters of their files, the first one sends."""

    held: dict[str, list[str]] = field(default_factory=lambda: {node: [OLD] for node in NODES})

    def told(self, node: str) -> Mapping[str, Sequence[str]]:
        """As a relay answers to `keys`: by the file it has."""
        document = relayfiles.peers(FLEET, FLEET.nodes[node], self.held[node])
        rows = document["peers"]
        assert isinstance(rows, dict)
        return neighbours.key_ids(neighbours.parse(rows))

    def understand_each_other(self) -> bool:
        return all(self.held[one][0] in self.held[other] for one in NODES for other in NODES)

    def step(self, keys: Keyring, without: Sequence[str] = ()) -> Step | None:
        return keys.next_step({n: keys.holding(n, self.told(n)) for n in NODES if n not in without})

    def take(self, keys: Keyring, step: Step, order: Sequence[str]) -> Iterator[str]:
        """Each node of the step takes its keys up, in the given order of nodes."""
        for node in order:
            if node in step.orders:
                self.held[node] = keys.masters(step.orders[node])
                yield node

    def rotate(self, keys: Keyring, order: Sequence[str] = NODES) -> list[str]:
        words: list[str] = []
        while (step := self.step(keys)) is not None:
            words.append(step.word)
            assert list(self.take(keys, step, order)) and len(words) < 4
        return words


def test_a_change_is_accept_then_send_then_retire() -> None:
    relays = Relays()
    assert relays.rotate(ring(OLD, NEW)) == ["accept", "send"]
    assert set(map(tuple, relays.held.values())) == {(NEW, OLD)}
    assert relays.rotate(ring(OLD, NEW)) == []
    assert relays.rotate(ring(NEW)) == ["retire"]
    assert set(map(tuple, relays.held.values())) == {(NEW,)}


SETS = st.lists(st.sampled_from([OLD, NEW]), min_size=1, max_size=2, unique=True)


@given(st.data(), st.permutations(NODES))
def test_whatever_they_hold_no_relay_is_ever_misunderstood(data: st.DataObject, order: list[str]) -> None:
    """Also from the middle of a change that broke off, and with a node provisioned by hand meanwhile."""
    relays = Relays({node: data.draw(SETS) for node in NODES})
    if not relays.understand_each_other():
        return
    goal = data.draw(st.sampled_from([ring(OLD, NEW), ring(NEW, OLD), ring(f"{NEW}\n{OLD}")]))
    rounds = 0
    while (step := relays.step(goal)) is not None:
        for _ in relays.take(goal, step, order):
            assert relays.understand_each_other(), step.word
        rounds += 1
        assert rounds <= 3
    assert set(map(tuple, relays.held.values())) == {tuple(goal.masters(goal.goal))}


@given(st.data(), st.permutations(NODES), st.integers(0, 3))
def test_taking_the_old_key_away_is_refused_while_anybody_sends_with_it(
    data: st.DataObject, order: list[str], late: int
) -> None:
    relays = Relays({node: [NEW, OLD] for node in NODES})
    for node in order[:late]:
        relays.held[node] = [OLD, NEW]
    if late:
        with pytest.raises(Refused, match="does not name") as caught:
            relays.step(ring(NEW))
        assert all(node in str(caught.value) for node in order[:late])
    else:
        assert relays.rotate(ring(NEW), order) == ["retire"]


def test_nobody_sends_with_the_new_key_while_one_lacks_it() -> None:
    relays, keys = Relays(), ring(OLD, NEW)
    step = relays.step(keys)
    assert step is not None and step.word == "accept"
    list(relays.take(keys, step, NODES[:3]))
    again = relays.step(keys)
    assert again is not None and (again.word, list(again.orders)) == ("accept", ["us-1"])


def test_a_node_that_is_left_out_keeps_no_one_waiting() -> None:
    relays, keys = Relays(), ring(OLD, NEW)
    for _ in range(2):
        step = relays.step(keys, without=("us-1",))
        assert step is not None
        list(relays.take(keys, step, NODES))
    assert relays.step(keys, without=("us-1",)) is None
    assert relays.held["us-1"] == [OLD]
    assert all(OLD in held for held in relays.held.values()), "its own packets are still understood"


def test_a_relay_that_does_not_know_a_new_node_yet_is_told() -> None:
    relays, keys = Relays(), ring(OLD)
    told = dict(relays.told("sg-1"))
    del told["us-1"]
    step = keys.next_step({"sg-1": keys.holding("sg-1", told)})
    assert step == Step("accept", {"sg-1": ("overlay",)})


def test_an_unknown_secret_in_place_of_the_old_one_is_refused() -> None:
    with pytest.raises(Refused, match="br-1, de-1, sg-1, us-1: sends with a key") as caught:
        Relays().step(ring(OTHER))
    assert "overlay_next" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("overlay", "coming", "reason"),
    [
        (OLD, OLD, "twice"),
        (f"{OLD}\n{NEW}", NEW, "twice"),
        ("\n".join(OLD + str(n) for n in range(4)), NEW, "more than 4"),
        (OLD, "short", "shorter than 16"),
        (OLD, "", "1 to 4 lines"),
    ],
)
def test_secrets_that_are_no_pair(overlay: str, coming: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        ring(overlay, coming)


def test_names_and_documents_give_no_secret_away() -> None:
    keys = ring(f"{OLD}\n{OTHER}", NEW)
    assert keys.goal == ("overlay_next", "overlay", "overlay (line 2)")
    relays = Relays()
    held = {node: keys.holding(node, relays.told(node)) for node in NODES}
    answers = [Outcome(node, "done", {"keys": dict(relays.told(node))}, "", 0.1) for node in NODES]
    shown = keyreport.shown(keys, answers, held)
    assert shown["exit_code"] == 1
    assert shown["nodes"][0] == {
        "node": "sg-1", "state": "done", "reason": "", "seconds": 0.1, "sends": ["overlay"], "accepts": ["overlay"],
    }  # fmt: skip
    told = repr((keys.goal, keys._keys, held, shown))
    assert not any(secret in told for secret in (OLD, NEW, OTHER))


def test_a_rotation_that_stopped_says_where() -> None:
    keys = ring(OLD, NEW)
    outcomes: list[Outcome[None]] = [
        Outcome("sg-1", "done", None, "", 0.1),
        Outcome("us-1", "unreachable", None, "no route", 0.1, 4),
    ]
    done = Rotation(steps=[(Step("accept", {"sg-1": keys.goal, "us-1": keys.goal}), [])], outcomes=outcomes)
    doc = keyreport.rotated(keys, done, left_out=[], check=False)
    assert (doc["exit_code"], doc["next"], doc["troubles"][0]["node"]) == (4, None, "us-1")


def test_a_play_on_one_node_never_sends_with_what_is_only_coming() -> None:
    secrets = {"overlay": Secret(OLD), "overlay_next": Secret(NEW), "turn": Secret("turn-secret-of-a-test")}
    given = relayfiles.variables(FLEET, FLEET.nodes["sg-1"], secrets, b"", "")
    relays = Relays({node: [OLD, NEW] for node in NODES})
    assert given["keys_digest"] == neighbours.digest(relays.told("sg-1"))
