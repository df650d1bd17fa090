"""up, down, kill, start: what is there afterwards, and above all what is not."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.errors import BadInput, LockHeld, OutOfReach, Usage
from commcli.lab import control, faults, ports, processes, wan
from commcli.lab.down import down
from commcli.lab.folder import LabFolder, Record, alone, locate
from commcli.lab.keys import Missing
from commcli.lab.status import links, status
from commcli.lab.up import PortTaken, Wish, check_network, up
from commcli.relay.shaping import Link as LinkOfRelay
from tests.lab import eight

Lab = tuple[LabFolder, Record]


def quiet(_: str) -> None:
    return None


def assert_gone(folder: LabFolder, network: str) -> None:
    assert processes.find(folder.path) == []
    assert ports.in_use(f"{network}.{number}" for number in range(1, 17)) == []
    assert not folder.path.exists()


def test_up_answers_on_every_node(lab: Lab) -> None:
    folder, record = lab
    found = status(folder, record)
    assert found["hosts"] and [row["node"] for row in found["nodes"] if row["ssh"]] == [
        "ae-1",
        "kr-1",
        "sg-1",
    ]
    assert found["degraded"] == []
    assert {port.port for port in ports.in_use(record.addresses.values())} == {2222}


def test_up_again_does_nothing(lab: Lab, network: str) -> None:
    folder, record = lab
    before = status(folder, record)["hosts"]
    assert up(folder, eight.fleet(), Wish(3, network), quiet) == (record, False)
    assert status(folder, record)["hosts"] == before


def test_up_with_other_figures_is_refused_and_changes_nothing(lab: Lab, network: str) -> None:
    folder, record = lab
    with pytest.raises(Usage, match="has 3 nodes"):
        up(folder, eight.fleet(), Wish(4, network), quiet)
    assert folder.read() == record


def test_down_leaves_nothing(lab: Lab, network: str) -> None:
    folder, _ = lab
    remains = down(folder)
    assert remains.clean and remains.ended == 1
    assert_gone(folder, network)


def test_down_of_nothing_is_clean(empty: LabFolder) -> None:
    assert down(empty).clean and not empty.path.exists()


def test_down_keeps_and_names_what_is_not_the_labs(lab: Lab) -> None:
    folder, _ = lab
    note = folder.path / "my notes.txt"
    note.write_text("mine")
    remains = down(folder)
    assert remains.files == ("my notes.txt",) and not remains.clean
    assert note.read_text() == "mine" and [entry.name for entry in folder.path.iterdir()] == ["my notes.txt"]


def test_hosts_that_were_killed_are_started_again(lab: Lab, network: str) -> None:
    folder, record = lab
    os.kill(status(folder, record)["hosts"], signal.SIGKILL)
    processes.end(folder.path)
    assert status(folder, record)["hosts"] is None
    assert up(folder, eight.fleet(), Wish(3, network), quiet) == (record, True)
    assert all(row["ssh"] for row in status(folder, record)["nodes"])


def test_down_after_the_hosts_were_killed(lab: Lab, network: str) -> None:
    folder, record = lab
    os.kill(status(folder, record)["hosts"], signal.SIGKILL)
    assert down(folder).clean
    assert_gone(folder, network)


def test_down_with_a_damaged_record(lab: Lab, network: str) -> None:
    folder, _ = lab
    folder.record.write_text('{"schema": 1, "netw')
    assert down(folder).clean
    assert_gone(folder, network)


@pytest.mark.parametrize("stage", ["keys", "SSH servers"])
def test_an_interrupted_up_leaves_nothing(empty: LabFolder, network: str, stage: str) -> None:
    def interrupt(text: str) -> None:
        if stage in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        up(empty, eight.fleet(), Wish(3, network), interrupt)
    assert_gone(empty, network)


def test_a_port_in_use_is_named_and_nothing_is_left(empty: LabFolder, network: str) -> None:
    with socket.socket() as other:
        other.bind((f"{network}.2", 2222))
        other.listen()
        with pytest.raises(PortTaken, match=rf"{network}\.2:2222/tcp is in use"):
            up(empty, eight.fleet(), Wish(3, network), quiet)
    assert_gone(empty, network)


def test_the_hint_names_the_other_lab(lab: Lab, network: str) -> None:
    second = LabFolder(lab[0].path.parent / "second")
    with pytest.raises(PortTaken) as refused:
        up(second, eight.fleet(), Wish(3, network), quiet)
    assert refused.value.hint and "commcli lab down --folder" in refused.value.hint
    assert not second.path.exists()


def test_a_folder_with_other_things_is_refused(empty: LabFolder, network: str) -> None:
    empty.path.mkdir()
    (empty.path / "thesis.tex").write_text("42")
    with pytest.raises(Usage, match="not a lab's"):
        up(empty, eight.fleet(), Wish(3, network), quiet)
    assert (empty.path / "thesis.tex").read_text() == "42"


def test_a_city_without_figures_is_named_and_nothing_is_left(empty: LabFolder, network: str) -> None:
    fleet = eight.fleet()
    regions = {**fleet.regions, "kr-region": replace(fleet.regions["kr-region"], city="Atlantis")}
    with pytest.raises(BadInput, match="Atlantis"):
        up(empty, replace(fleet, regions=regions), Wish(2, network), quiet)
    assert_gone(empty, network)


def test_without_ssh_keygen_the_line_says_what_to_install(
    empty: LabFolder, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Missing, match="ssh-keygen is missing") as refused:
        up(empty, eight.fleet(), Wish(2, network), quiet)
    assert refused.value.hint and "install" in refused.value.hint
    assert not empty.path.exists()


def test_a_deep_folder_is_no_trouble(empty: LabFolder, network: str) -> None:
    # Far beyond the 108 bytes of a Unix socket's address.
    deep = LabFolder(empty.path / ("d" * 60) / ("e" * 60) / "lab")
    record, _ = up(deep, eight.fleet(), Wish(2, network), quiet)
    try:
        assert all(row["ssh"] for row in status(deep, record)["nodes"])
    finally:
        assert down(deep).clean


def test_two_changing_commands_at_once_are_refused(lab: Lab) -> None:
    with alone(lab[0]), pytest.raises(LockHeld):
        down(lab[0])


@pytest.mark.parametrize("network", ["10.0.0", "127.0.0", "127.77", "127.77.0.1", "127.300.1", "x"])
def test_only_a_loopback_network_will_do(network: str) -> None:
    with pytest.raises(Usage, match="--network"):
        check_network(network)


def test_a_killed_node_is_gone_and_comes_back(lab: Lab) -> None:
    folder, record = lab
    address = (record.addresses["sg-1"], record.ssh_port)
    assert control.ask(folder, "kill", node="sg-1")["ok"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    by_node = {row["node"]: row["ssh"] for row in status(folder, record)["nodes"]}
    assert by_node == {"ae-1": True, "kr-1": True, "sg-1": False}
    assert control.ask(folder, "start", node="sg-1")["did"] == "no relay installed"
    with socket.create_connection(address, timeout=5) as channel:
        assert channel.recv(4) == b"SSH-"


def test_up_starts_a_killed_node(lab: Lab, network: str) -> None:
    folder, record = lab
    control.ask(folder, "kill", node="kr-1")
    assert up(folder, eight.fleet(), Wish(3, network), quiet)[1] is True
    assert all(row["ssh"] for row in status(folder, record)["nodes"])


def test_the_control_socket_says_what_is_wrong(lab: Lab) -> None:
    with pytest.raises(OutOfReach, match="unknown command"):
        control.ask(lab[0], "explode", node="sg-1")
    with pytest.raises(OutOfReach, match="bad request"):
        control.ask(lab[0], "kill", node="xx-9")
    assert (lab[0].path / lab[0].socket).stat().st_mode & 0o077 == 0


def test_degrade_changes_both_ends_and_restore_undoes_it(lab: Lab) -> None:
    folder, record = lab
    before, after = faults.degrade(folder, record, "sg-1", "ae-1", loss=0.25, rtt_ms=500)
    assert (before.rtt_ms, after.rtt_ms, after.loss) == (83, 500, 0.25)
    for node, peer in (("ae-1", "sg-1"), ("sg-1", "ae-1")):
        entry = json.loads(folder.faults(node).read_text())["links"][record.addresses[peer]]
        assert (entry["delay_ms"], entry["loss"]) == (250, 0.25)
    (row,) = status(folder, record)["degraded"]
    assert row["pair"] == ["ae-1", "sg-1"] and row["rtt_ms"] == 500
    assert faults.restore(folder, record, "ae-1", "sg-1") == [frozenset({"ae-1", "sg-1"})]
    assert status(folder, record)["degraded"] == [] and len(links(folder, record)) == 3
    assert faults.restore(folder, record, None, None) == []


def test_a_last_mile_is_one_edges_and_outlives_a_change_of_a_link(lab: Lab) -> None:
    folder, record = lab
    mile = wan.LastMile(rate_kbit=80, delay_ms=150, loss=0.05, burst=3)
    assert faults.set_last_mile(folder, record, "kr-1", mile)
    assert not faults.set_last_mile(folder, record, "kr-1", mile), "nothing changed"
    faults.degrade(folder, record, "ae-1", "kr-1", loss=0.5)
    assert faults.last_miles(folder, record) == {"kr-1": mile}
    LinkOfRelay(mile.entry(), random.Random(1))  # the relay takes such a rule
    assert faults.restore_last_miles(folder, record, "ae-1") == []
    assert faults.restore_last_miles(folder, record, None) == ["kr-1"]
    assert faults.last_miles(folder, record) == {}
    assert faults.current(folder, record)[frozenset({"ae-1", "kr-1"})].loss == 0.5
    with pytest.raises(Usage, match='unknown node "xx-1"'):
        faults.set_last_mile(folder, record, "xx-1", mile)


def test_restore_repairs_a_broken_faults_file(lab: Lab) -> None:
    folder, record = lab
    folder.faults("sg-1").write_text("{")
    faults.restore(folder, record, None, None)
    assert status(folder, record)["degraded"] == [] and len(links(folder, record)) == 3


def test_degrading_an_unknown_node_is_wrong_use(lab: Lab) -> None:
    with pytest.raises(Usage, match='unknown node "xx-1"'):
        faults.degrade(*lab, "xx-1", "sg-1", loss=0.1)


def test_the_lab_is_found_from_its_own_state_folder(lab: Lab, tmp_path: Path) -> None:
    folder, _ = lab
    assert locate(folder.state, None) == folder
    assert locate(tmp_path, None).path == (tmp_path / "lab").resolve()
    assert locate(folder.state, tmp_path).path == tmp_path.resolve()
