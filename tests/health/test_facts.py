"""From a node's answer to facts, and what looks at a node finds there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet.model import Capacity, Node, SshTarget
from commcli.health import onnode
from commcli.health.facts import Answer, Disk, Load, Reading, Relay, clock, read
from commcli.relay.process import control
from commcli.remote.outcome import Outcome

NODE = Node("ae-1", "dxb", "ae", "192.0.2.1", SshTarget("192.0.2.1", "ops"), capacity=Capacity(sessions=50))
STATUS = {
    "ok": True,
    "version": "1.0",
    "uptime_s": 12.5,
    "drain": False,
    "allocations": 2,
    "table": {"serial": 4, "expires": "2030-01-01T00:00:00Z", "expired": False, "refused": None},
    "loop_lag_ms": {"p50": 0.1, "p99": 0.5},
    "peers": {"hk-1": {"rtt_ms": 34.5}, "sg-1": {"rtt_ms": None}},
}
BODY: dict[str, Any] = {
    "python": {"value": "3.9.2", "error": None},
    "disk": {
        "value": {"free_bytes": 1, "total_bytes": 2, "free_inodes": None, "read_only": False},
        "error": None,
    },
    "load": {"value": {"one_minute": 0.5, "cpus": 4}, "error": None},
    "relay": {"value": STATUS, "error": None},
}


def answered(body: dict[str, Any]) -> Outcome[Answer]:
    return Outcome("ae-1", "done", Answer(body, 100.0, Reading(99.0, 130.0, 101.0)), "", 1.2)


def test_facts_of_an_answer() -> None:
    facts = read(NODE, answered(BODY))
    assert (facts.node, facts.state, facts.sessions, facts.seconds) == ("ae-1", "done", 50, 1.2)
    assert (facts.python, facts.python_text) == ((3, 9), "3.9.2")
    assert facts.disk == Disk(1, 2, None, False)
    assert facts.load == Load(0.5, 4)
    assert facts.relay == Relay(
        "1.0", 12.5, False, 2, 4, 1893456000.0, None, 0.5, {"hk-1": 34.5, "sg-1": None}
    )
    assert facts.errors == {}


@pytest.mark.parametrize(
    ("told", "tls", "until_unix"),
    [(None, False, None), ({"not_after_unix": None}, True, None), ({"not_after_unix": 9.5}, True, 9.5)],
)
def test_facts_of_a_relay_with_tls(told: object, tls: bool, until_unix: float | None) -> None:
    body = {**BODY, "relay": {"value": {**STATUS, "tls": told}, "error": None}}
    relay = read(NODE, answered(body)).relay
    assert relay is not None
    assert (relay.tls, relay.tls_until_unix) == (tls, until_unix)


def test_facts_of_a_relay_that_refuses_what_is_on_its_disk() -> None:
    told = {
        "tls": {"not_after_unix": 9.5, "refused": "key"},
        "reload": {"last_ok": False, "error": "no 'realm'"},
        "upgrade": {"taken_over": None, "last_failed": {"reason": "exit code 1", "unix": 9.5}},
    }
    relay = read(NODE, answered({**BODY, "relay": {"value": {**STATUS, **told}, "error": None}})).relay
    assert relay is not None
    assert (relay.tls_refused, relay.reload_refused, relay.upgrade_failed) == (
        "key",
        "no 'realm'",
        "exit code 1",
    )


def test_facts_of_the_overlay() -> None:
    way = {"active": "backup", "straight": False, "state": "up"}
    told = {
        "carries": True,
        "segments": {"hk-1": {"out": {"loss": 0.03}, "in": {}}, "sg-1": {"out": {"loss": None}}, "jp-1": {}},
        "paths": {
            "hk-1": way,
            "sg-1": {**way, "state": "dead"},
            "jp-1": {**way, "straight": True, "state": "dead"},
            "de-1": {**way, "state": "untried", "active": "last_resort"},
        },
    }
    keys = {"value": {"hk-1": "01ab"}, "error": None}
    relay = read(
        NODE, answered({**BODY, "relay": {"value": {**STATUS, "overlay": told}, "error": None}, "keys": keys})
    ).relay
    assert relay is not None
    assert relay.ways == {"hk-1": "backup", "sg-1": "dead", "jp-1": "straight", "de-1": "last_resort"}
    assert (relay.loss, relay.send_keys, relay.carries) == ({"hk-1": 0.03}, {"hk-1": "01ab"}, True)
    alone = read(
        NODE, answered({**BODY, "relay": {"value": {**STATUS, "overlay": None}, "error": None}})
    ).relay
    assert alone is not None
    assert (alone.ways, alone.loss, alone.send_keys, alone.carries) == ({}, {}, {}, None)


def test_what_the_node_could_not_tell_is_unknown_with_its_reason() -> None:
    body = {
        **BODY,
        "relay": {"value": None, "error": "not running"},
        "disk": {"value": None, "error": "I/O error"},
    }
    facts = read(NODE, answered(body))
    assert (facts.relay, facts.disk) == (None, None)
    assert facts.errors == {"relay": "not running", "disk": "I/O error"}


def test_a_node_out_of_reach_is_a_value() -> None:
    facts = read(NODE, Outcome("ae-1", "unreachable", None, "no route", 10.0, 4))
    assert (facts.state, facts.reason, facts.code, facts.relay) == ("unreachable", "no route", 4, None)


CLOCKS = [
    # sent, read by the node, received, offset, uncertainty: seconds
    ("equal clocks, 200 ms there and back", 10.0, 10.1, 10.2, 0.0, 0.1),
    ("equal clocks, all the delay on the way back", 10.0, 10.0, 10.2, -0.1, 0.1),
    ("30 s ahead", 10.0, 40.1, 10.2, 30.0, 0.1),
    ("2 s behind", 10.0, 8.1, 10.2, -2.0, 0.1),
    ("a slow answer only widens it", 10.0, 10.1, 11.2, -0.5, 0.6),
    ("our own clock was set back meanwhile", 10.0, 10.0, 9.0, 0.5, 0.0),
]


@pytest.mark.parametrize(
    ("sent", "read_at", "received", "offset_s", "uncertainty_s"),
    [case[1:] for case in CLOCKS],
    ids=[case[0] for case in CLOCKS],
)
def test_clock(sent: float, read_at: float, received: float, offset_s: float, uncertainty_s: float) -> None:
    measured = clock(Reading(sent, read_at, received))
    assert measured.offset_s == pytest.approx(offset_s)
    assert measured.uncertainty_s == pytest.approx(uncertainty_s)


def test_a_node_that_did_not_tell_the_time_has_no_clock() -> None:
    assert read(NODE, Outcome("ae-1", "done", Answer(BODY, 100.0, None), "", 1.2)).clock is None


class Relayish:
    """A control socket that gives one fixed answer to everybody."""

    def __init__(self, base: Path, reply: bytes) -> None:
        self.listener = control.bind_unix(base / "run" / "control.sock")
        self.listener.listen()
        self._reply = reply
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                self.requests.append(peer.recv(4096))
                peer.sendall(self._reply)

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()


@pytest.fixture
def relayish(tmp_path: Path) -> Iterator[Relayish]:
    relay = Relayish(tmp_path, json.dumps(STATUS).encode() + b"\n")
    yield relay
    relay.stop()


def test_the_look_asks_the_relay(relayish: Relayish, tmp_path: Path) -> None:
    found = onnode.look(tmp_path)
    assert found["relay"] == {"value": STATUS, "error": None}
    assert [json.loads(asked)["cmd"] for asked in relayish.requests] == ["status", "keys"]
    assert [name for name, told in found.items() if told["error"]] == ["log"]
    assert found["disk"]["value"]["total_bytes"] >= found["disk"]["value"]["free_bytes"] > 0


def test_the_look_asks_for_the_keys_that_are_sent_with(tmp_path: Path) -> None:
    told = {"ok": True, "keys": {"hk-1": ["01ab", "02cd"], "sg-1": []}, "digest": "77aa"}
    relay = Relayish(tmp_path, json.dumps(told).encode() + b"\n")
    try:
        assert onnode.send_keys(tmp_path) == {"hk-1": "01ab"}
        assert json.loads(relay.requests[0]) == {"cmd": "keys"}
    finally:
        relay.stop()


def test_a_relay_that_answers_nonsense_is_an_error(tmp_path: Path) -> None:
    relay = Relayish(tmp_path, b"nonsense\n")
    try:
        assert onnode.look(tmp_path)["relay"]["value"] is None
    finally:
        relay.stop()


def test_a_relay_that_says_no_is_an_error(tmp_path: Path) -> None:
    relay = Relayish(tmp_path, b'{"ok": false, "error": "too busy"}\n')
    try:
        assert onnode.look(tmp_path)["relay"]["error"] == "answers with an error: too busy"
    finally:
        relay.stop()


def test_a_node_that_was_never_provisioned(tmp_path: Path) -> None:
    found = onnode.look(tmp_path / "opt" / "commcli")
    assert found["relay"]["error"] == f"not provisioned ({tmp_path}/opt/commcli does not exist)"
    assert found["disk"]["error"] is None, "room is that of the nearest folder that exists"


def test_a_relay_that_stopped(tmp_path: Path) -> None:
    assert onnode.look(tmp_path)["relay"]["error"] == "not running (no control socket)"


def test_a_relay_that_was_killed(tmp_path: Path) -> None:
    control.bind_unix(tmp_path / "run" / "control.sock").close()
    told = onnode.look(tmp_path)["relay"]["error"]
    assert told == "not running (nobody answers its control socket)"


LOGS = {
    "": "",
    "one\n": "one",
    "one\ntwo\n\n": "two",
    "no newline": "no newline",
    "x" * 9000 + "\nlast\n": "last",
    "y" * 9000: "y" * onnode.LOG_LINE,
}


@pytest.mark.parametrize(("text", "last"), LOGS.items(), ids=range(len(LOGS)))
def test_the_last_line_of_the_log(tmp_path: Path, text: str, last: str) -> None:
    (tmp_path / "relay.log").write_text(text)
    assert onnode.last_words(tmp_path / "relay.log") == last


class Channel:
    """The controller's end, as a list of what was sent and the answers it gives."""

    def __init__(self, *answers: object) -> None:
        self.sent: list[dict[str, Any]] = []
        self._answers = list(answers)

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(json.loads(json.dumps(message)))

    def receive(self, timeout: float) -> object:
        return self._answers.pop(0) if self._answers else None


def test_the_entry_tells_facts_and_then_the_time(tmp_path: Path) -> None:
    channel = Channel("clock")
    onnode.main({"base": str(tmp_path)}, channel)
    [found, told] = channel.sent
    assert set(found) == {"python", "disk", "load", "relay", "keys", "log"}
    assert isinstance(told["unix"], float)


def test_the_entry_does_not_wait_for_ever_for_a_controller_that_went(tmp_path: Path) -> None:
    channel = Channel()
    onnode.main({"base": str(tmp_path)}, channel)
    assert len(channel.sent) == 1
