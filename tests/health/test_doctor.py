"""`commcli doctor`: what is found from which facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.health import doctor
from commcli.health.desk import Desk, KeyFile, Machine, Met, Place, clock_of, sample
from commcli.health.facts import Clock
from commcli.health.judge import Limits
from commcli.remote.outcome import Failed, Outcome
from commcli.store.glance import KNOWN, Change, Glance
from tests.health.nodes import FLEET

KEY = KeyFile(Path("/k"), 0o600, locked=False, in_agent=False)
DESK = Desk(
    agent="not used",
    signing="/s",
    signing_error="",
    secrets=[Place("turn", "file /t", 0o600)],
    keys=[KEY],
    known_hosts=Path("/kh"),
    known_hosts_error="",
    hosts=3,
    unknown=[],
    unresolved={},
)
MACHINE = Machine({"python": "3.11.7"}, {"ssh": "/ssh"}, Path("/state"), True, 50 << 30, Glance(KNOWN))
GONE = KeyFile(Path("/k"), None, False, False, "No such file or directory")


def bad(findings: object) -> list[tuple[str, str, str | None]]:
    assert not isinstance(findings, doctor.Finding)
    return [(f.check, f.verdict, f.next) for f in findings if f.verdict != "ok"]  # type: ignore[attr-defined]


def test_a_good_desk_has_nothing_to_do() -> None:
    assert bad(doctor.of_desk(DESK)) == [] == bad(doctor.of_machine(MACHINE, 0.0))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"agent": "no SSH agent"}, [("agent", "warn", "eval $(ssh-agent); ssh-add")]),
        ({"agent": "no SSH agent", "keys": []}, [("agent", "fail", "eval $(ssh-agent); ssh-add")]),
        ({"agent": 0}, [("agent", "warn", "ssh-add")]),
        ({"keys": [replace(KEY, locked=True)]}, [("identity", "fail", "ssh-add /k")]),
        ({"keys": [replace(KEY, locked=True, in_agent=True)]}, []),
        ({"keys": [replace(KEY, mode=0o640)]}, [("identity", "warn", "chmod 600 /k")]),
        ({"keys": [GONE]}, [("identity", "fail", None)]),
        ({"secrets": [Place("turn", "file /t", 0o644)]}, [("secret", "warn", "chmod 600 /t")]),
        (
            {"secrets": [Place("turn", "env T", error="secret turn: T is not set")]},
            [("secret", "fail", None)],
        ),
        ({"unknown": ["sg-1"]}, [("known_hosts", "fail", "commcli fleet trust all")]),
        ({"unresolved": {"h": "no answer"}}, [("dns", "fail", None)]),
    ],
)
def test_what_is_wrong_at_the_desk(
    change: dict[str, object], expected: list[tuple[str, str, str | None]]
) -> None:
    assert bad(doctor.of_desk(replace(DESK, **change))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "check", "verdict"),
    [
        ({"versions": {"asyncssh": "missing"}}, "versions", "fail"),
        ({"programs": {"ssh": None}}, "openssh", "warn"),
        ({"writable": False}, "state", "fail"),
        ({"free_bytes": 1 << 29}, "state", "warn"),
        ({"free_bytes": 1 << 20}, "state", "fail"),
        ({"store": Glance(KNOWN + 1)}, "state", "fail"),
        ({"store": Glance(error="file is not a database")}, "state", "fail"),
        ({"store": Glance(KNOWN, (Change("play run x", 1.0, None, "started", 1),))}, "runs", "warn"),
    ],
)
def test_what_is_wrong_with_the_machine(change: dict[str, object], check: str, verdict: str) -> None:
    found = bad(doctor.of_machine(replace(MACHINE, **change), 0.0))  # type: ignore[arg-type]
    assert [row[:2] for row in found] == [(check, verdict)]


def test_when_commands_were_run_last() -> None:
    changes = (Change("route apply", 1000.0, 1010.0, "done", 1), Change("relay drain", 0.0, 5.0, "exit 4", 1))
    [*_, runs] = doctor.of_machine(replace(MACHINE, store=Glance(KNOWN, changes)), 8200.0)
    assert runs.what == "route apply 2 h ago (done); relay drain 2 h ago (exit 4)"


def met(offset_s: float, uncertainty_s: float = 0.1, login_s: float = 0.5) -> Outcome[Met]:
    return Outcome("n", "done", Met(login_s, Clock(offset_s, uncertainty_s)), "", login_s)


AWAY: Outcome[Met] = Outcome("n", "unreachable", None, "connection refused", 0.1, 4)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({"a": met(0.3), "b": met(-0.2)}, []),
        ({"a": met(0.6, 0.2), "b": met(0)}, []),  # it may be 0.4 s
        ({"a": met(0.9), "b": met(0)}, [("clock", "warn", "commcli ssh a -- timedatectl")]),
        ({"a": met(-90), "b": met(0), "c": met(0)}, [("clock", "fail", "commcli ssh a -- timedatectl")]),
        ({"a": met(5.1), "b": met(5), "c": met(4.9)}, [("clock", "warn", "timedatectl")]),
        ({"a": AWAY, "b": met(0)}, [("nodes", "warn", "commcli health check")]),
        ({"a": AWAY}, [("nodes", "fail", "commcli health check")]),
    ],
)
def test_what_the_nodes_say(
    nodes: dict[str, Outcome[Met]], expected: list[tuple[str, str, str | None]]
) -> None:
    assert bad(doctor.of_reach({}, nodes, Limits())) == expected


def test_a_bastion_that_is_away_is_our_trouble() -> None:
    findings = list(doctor.of_reach({"b": AWAY}, {"a": met(0)}, Limits()))
    assert bad(findings) == [("bastion", "fail", None)]
    assert doctor.document(findings, 1.0)["exit_code"] == 1
    assert doctor.document(doctor.of_reach({"b": met(0)}, {"a": met(0)}, Limits()), 1.0)["exit_code"] == 0


def test_the_inventory_is_told_with_its_first_error() -> None:
    finding = doctor.of_inventory(BadInput(["nodes.yaml:3: no", "x"]))
    assert (finding.verdict, finding.what) == ("fail", "nodes.yaml:3: no (and 1 more)")


@pytest.mark.parametrize(
    ("said", "clock"),
    [
        (b"commcli-clock 1001.5\n", Clock(1.0, 0.5)),
        (b"commcli-clock 1001.N\n", Clock(1.0, 1.0)),
        (b"welcome 77\ncommcli-clock 1001\n", Clock(1.0, 1.0)),
    ],
)
def test_a_clock_is_known_within_the_round_trip(said: bytes, clock: Clock) -> None:
    assert clock_of(said, 1000.0, 1001.0) == clock
    with pytest.raises(Failed):
        clock_of(b"sh: date: not found", 0.0, 1.0)


def test_one_node_a_region_and_rather_none_that_drains() -> None:
    nodes = list(FLEET.nodes.values())
    regions = {node.region for node in nodes}
    assert {node.region for node in sample(FLEET, every=False)} == regions
    first = nodes[0]
    twin = replace(first, id="twin")
    fleet = replace(FLEET, nodes={first.id: replace(first, state="drain"), "twin": twin})
    assert sample(fleet, every=False) == [twin] and len(sample(fleet, every=True)) == 2
