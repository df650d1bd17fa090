"""What a real systemd, number 1 of its machine, makes of the unit that relay.yml writes. With root, and with sudo."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import zipfile

import pytest

from commcli.relay.turn.auth import time_limited_password
from tests.wan.globe import ADDRESSES, BASE, DESK, LOW_PORT, WITH_SYSTEMD, Place, other_row, wait_for
from tests.wan.machines import without_systemd
from tests.wan.ownership import Running, must_be_its_users, of_the_relay, running
from tests.wan.turn_client import TurnClient

ROOT, SUDO = WITH_SYSTEMD  # the relay of the first has a port below 1024
UNIT = "commcli-relay"


@pytest.fixture(scope="module", autouse=True)
def serving(place: Place) -> None:
    """Both machines have a relay. A skip where systemd can not run."""
    if reason := without_systemd():
        pytest.skip(reason)
    assert all(
        row["changed"] for row in place.play("playbooks/relay.yml", f"{ROOT},{SUDO}", "--yes").values()
    )


def shown(place: Place, node: str) -> dict[str, str]:
    """What systemd says of the unit."""
    told = place.machines.run(
        node, "systemctl", "show", UNIT, "--property=ActiveState,StatusText,Result,NRestarts"
    )
    return dict(line.split("=", 1) for line in told.stdout.splitlines())


def must_serve(place: Place, node: str, but: Running | None = None) -> Running:
    """Wait until the relay serves, another one than `but`; as its own user, and as far as systemd knows."""

    def serves() -> bool:
        told = shown(place, node)
        is_up = (told["ActiveState"], told["StatusText"]) == ("active", "serving")
        return is_up and bool(relays(place, node) - {but and but.pid})

    wait_for(serves)
    return must_be_its_users(place.machines.root(node))


def relays(place: Place, node: str) -> set[int]:
    """The processes of the unit."""
    unit = place.machines.root(node) / f"sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs"
    return set(map(int, unit.read_text().split())) if unit.exists() else set()


@pytest.mark.parametrize("node", [ROOT, SUDO])
def test_a_relay_that_dies_is_started_again_and_one_after_an_upgrade_too(place: Place, node: str) -> None:
    first = must_serve(place, node)
    os.kill(first.pid, signal.SIGKILL)
    second = must_serve(place, node, first)
    another_program(place, node)
    assert place.play("playbooks/upgrade.yml", node, "--yes")[node]["changed"] == 2
    third = must_serve(place, node, second)
    # Handed over: systemd has started nothing.
    assert shown(place, node)["NRestarts"] == "1"
    os.kill(third.pid, signal.SIGKILL)
    must_serve(place, node, third)
    assert place.play("playbooks/relay.yml", node, "--yes")[node]["changed"] == 0


def test_an_upgrade_loses_no_packet_of_a_call(place: Place) -> None:
    before, user = must_serve(place, ROOT), f"{int(time.time()) + 3600}:caller"
    password = time_limited_password(place.desk.inventory.with_name("turn").read_text().strip(), user)
    with place.wan.udp("sg-1") as peer:
        caller = TurnClient(place.wan.udp(DESK), (ADDRESSES[ROOT], LOW_PORT[ROOT]), user, password)
        caller.bind(peer.getsockname())
        peer.setblocking(False)
        another_program(place, ROOT)
        upgrade = place.desk.popen("play", "run", "playbooks/upgrade.yml", ROOT, "--yes")
        sent, heard = 0, list[bytes]()

        def all_heard() -> bool:
            heard.extend(received(peer))
            return len(heard) >= sent

        while upgrade.poll() is None:
            caller.send(b"%d" % sent)
            sent += 1
            all_heard()
            time.sleep(0.02)  # as of a voice
        said = upgrade.communicate()
        assert upgrade.returncode == 0, said
        wait_for(all_heard)
        caller.close()
    assert must_serve(place, ROOT, before) != before
    assert heard == [b"%d" % number for number in range(sent)] and sent > 50


def received(sock: socket.socket) -> list[bytes]:
    """The datagrams that are there."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(2048))
    return found


def another_program(place: Place, node: str) -> None:
    """The node's program is not the one of the inventory any more."""
    with zipfile.ZipFile(place.machines.root(node) / BASE[1:] / "lib/relay.pyz", "a") as program:
        program.comment = b"one of before"


def test_a_relay_that_stands_still_is_ended_and_started_again(place: Place) -> None:
    more = place.machines.root(SUDO) / f"etc/systemd/system/{UNIT}.service.d/soon.conf"
    more.parent.mkdir()
    more.write_text("[Service]\nWatchdogSec=3\n")
    place.machines.run(SUDO, "systemctl", "daemon-reload")
    place.machines.run(SUDO, "systemctl", "restart", UNIT)
    stopped = must_serve(place, SUDO)
    os.kill(stopped.pid, signal.SIGSTOP)
    must_serve(place, SUDO, stopped)
    more.unlink()
    more.parent.rmdir()
    place.machines.run(SUDO, "systemctl", "daemon-reload")


def test_a_reload_that_the_relay_refuses_fails_and_it_serves_on(place: Place) -> None:
    config = place.machines.root(ROOT) / BASE[1:] / "etc/relay.json"
    before, good = running(place.machines.root(ROOT)), config.read_text()
    config.write_text("{")
    refused = place.machines.run(ROOT, "systemctl", "reload", UNIT)
    config.write_text(good)
    assert refused.returncode != 0
    assert place.machines.run(ROOT, "systemctl", "reload", UNIT).returncode == 0
    assert must_serve(place, ROOT) == before


def test_a_machine_that_starts_again_serves_again(place: Place) -> None:
    for node in (ROOT, SUDO):
        place.machines.power_off(node)
        place.machines.power_on(node)
    for node in (ROOT, SUDO):
        place.wait(node)
        must_serve(place, node)
    health = place.desk.document("health", "check", f"{ROOT},{SUDO}")
    assert (health["exit_code"], {row["node"] for row in health["nodes"]}) == (0, {ROOT, SUDO})


def test_a_relay_that_does_not_come_up_is_told_in_its_own_words(place: Place) -> None:
    with other_row(place, ROOT, "ports", turn=23):
        taken = place.machines.root(ROOT) / "etc/systemd/system/taken.service"
        taken.write_text("[Service]\nExecStart=python3 -m http.server 23\n")
        assert place.machines.run(ROOT, "systemctl", "stop", UNIT).returncode == 0
        assert place.machines.run(ROOT, "systemctl", "start", "taken").returncode == 0
        document = place.desk.document("play", "run", "playbooks/relay.yml", ROOT, "--yes")
        place.machines.run(ROOT, "systemctl", "stop", "taken")
    [told] = document["nodes"]
    assert told["state"] == "failed"
    begins = 'step "relay runs": systemctl enable --now commcli-relay: exit status 1; the journal ends with: '
    assert told["reason"].startswith(begins)
    assert "cannot bind TCP 10.77.0.2:23: Address already in use" in told["reason"]


def test_a_relay_that_was_told_to_end_stays_down(place: Place) -> None:
    drained = place.desk.commcli("relay", "drain", SUDO, "--stop", "--yes")
    assert drained.returncode == 0, drained
    wait_for(lambda: shown(place, SUDO)["ActiveState"] == "inactive")
    assert (shown(place, SUDO)["Result"], relays(place, SUDO)) == ("success", set())


def test_a_relay_that_is_removed_leaves_no_unit(place: Place) -> None:
    root = place.machines.root(ROOT)
    place.play("playbooks/remove.yml", ROOT, "--yes")
    assert relays(place, ROOT) == set() and of_the_relay(root) is None
    assert list((root / "etc/systemd/system").rglob(f"{UNIT}*")) == []
    assert place.machines.run(ROOT, "systemctl", "cat", UNIT).returncode != 0
    assert {path.name for path in (root / BASE[1:]).iterdir()} == {"runs", "plays"}
