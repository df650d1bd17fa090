"""Clients that nobody here wrote against the relay: coturn's turnutils_uclient and turnutils_stunclient."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.relay.serving import ADDRESS, Served, free_port, need, plain_relay

# More than these use takes 4 to 7 s; a hang must not stop the suite.
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def relay() -> Iterator[Served]:
    with plain_relay("--allow-peer", "127.0.0.0/8") as served:
        yield served


@pytest.fixture(scope="module")
def echo_port() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen([need("turnutils_peer", "coturn"), "-L", ADDRESS, "-p", str(port)])
    yield port
    process.terminate()
    process.wait(10)


def _uclient(relay: Served, *options: str, password: str = "pass") -> subprocess.CompletedProcess[str]:
    command = [need("turnutils_uclient", "coturn"), "-p", str(relay.port), "-u", "user", "-w", password]
    return subprocess.run(
        [*command, *options, ADDRESS], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


def _sent_and_received(output: str) -> tuple[int, int]:
    found = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", output)
    assert found, output[-2000:]
    return int(found[-1][0]), int(found[-1][1])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="channels"),
        pytest.param(["-s"], id="send-indications"),
        pytest.param(["-D", "-l", "171"], id="padding"),
        pytest.param(["-G"], id="extra-address-family-attributes"),
    ],
)
def test_echo_through_the_relay(relay: Served, echo_port: int, options: list[str]) -> None:
    through = ["-e", ADDRESS, "-r", str(echo_port), "-X", "-g", "-c", "-n", "50", "-m", "1"]
    done = _uclient(relay, *through, *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert _sent_and_received(done.stdout) == (50, 50)


def test_two_clients_of_one_relay_reach_each_other(relay: Served) -> None:
    done = _uclient(relay, "-y", "-c", "-m", "2", "-n", "50", "-X", "-g")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    sent, received = _sent_and_received(done.stdout)
    assert sent == received > 0


def test_a_wrong_password_gets_nowhere(relay: Served, echo_port: int) -> None:
    done = _uclient(relay, "-e", ADDRESS, "-r", str(echo_port), "-X", "-n", "5", password="wrong")
    assert done.returncode == 255
    assert "tot_recv_msgs=5" not in done.stdout


def test_loopback_peers_are_denied_by_default(echo_port: int) -> None:
    with plain_relay() as relay:
        done = _uclient(relay, "-e", ADDRESS, "-r", str(echo_port), "-X", "-g", "-c", "-n", "5")
    assert done.returncode == 255
    assert "403" in done.stdout + done.stderr


def test_stunclient_learns_its_address(relay: Served) -> None:
    command = [need("turnutils_stunclient", "coturn"), "-p", str(relay.port), ADDRESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0
    assert f"UDP reflexive addr: {ADDRESS}:" in done.stdout
