"""The network with real namespaces. Counts are asserted, never times."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wan import namespace
from tests.wan.wan import Broken, Wan, wan_or_skip
from tests.wan.weather import Link, Weather

NODES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}
LOSSY = Weather(delay_ms=5, loss=0.2, burst=3)
# IP and UDP headers.
HEADERS_BYTES = 28


@pytest.fixture
def wan() -> Iterator[Wan]:
    with wan_or_skip(NODES, {("a", "b"): Weather(delay_ms=5), ("a", "c"): LOSSY}, seed=7) as made:
        yield made


def received(sock: socket.socket, *, quiet_s: float = 0.3) -> list[bytes]:
    """What has come, and what still comes until nothing came for a while."""
    found = []
    sock.settimeout(quiet_s)
    while True:
        try:
            found.append(sock.recv(65_536))
        except TimeoutError:
            return found


def sent(wan: Wan, src: str, dst: str, payloads: list[bytes]) -> list[bytes]:
    """Send datagrams from one node to the other; what arrived."""
    with wan.udp(src) as here, wan.udp(dst) as there:
        for payload in payloads:
            here.sendto(payload, there.getsockname())
        return received(there)


def test_a_clean_link_carries_everything_in_order(wan: Wan) -> None:
    payloads = [bytes([number % 256]) * 1200 for number in range(2000)]
    assert sent(wan, "a", "b", payloads) == payloads
    figures = wan.figures()
    counts = figures.links["a", "b"]
    assert (counts.packets, counts.delivered, counts.lost) == (2000, 2000, 0)
    assert counts.octets == 2000 * (1200 + HEADERS_BYTES)
    assert set(figures.overflow.values()) == {0} and figures.unroutable == 0
    late_ms = figures.late_ms[1.0]
    assert late_ms is not None and late_ms > 0


def test_a_lossy_link_loses_what_its_seed_says(wan: Wan) -> None:
    link = Link(LOSSY, "7/a/c")
    expected = [number for number in range(1000) if link.arrival(28, False, 0.0) is not None]
    payloads = [number.to_bytes(4, "big") for number in range(1000)]
    assert [int.from_bytes(data, "big") for data in sent(wan, "a", "c", payloads)] == expected
    counts = wan.figures().links["a", "c"]
    assert (counts.lost, counts.delivered) == (1000 - len(expected), len(expected))
    assert 100 < counts.lost < 300


def test_an_echo_passes_both_directions(wan: Wan) -> None:
    with wan.udp("a") as here, wan.udp("b") as there:
        for number in range(20):
            here.sendto(bytes([number]), there.getsockname())
        for _ in range(20):
            data, source = there.recvfrom(100)
            there.sendto(data, source)
        assert received(here) == [bytes([number]) for number in range(20)]
    links = wan.figures().links
    assert links["a", "b"].delivered == links["b", "a"].delivered == 20


def test_a_link_goes_and_comes_back_while_it_runs(wan: Wan) -> None:
    assert sent(wan, "a", "b", [b"before"]) == [b"before"]
    wan.link("a", "b", loss=1)
    assert sent(wan, "a", "b", [b"there"]) == sent(wan, "b", "a", [b"back"]) == []
    wan.link("b", "a", loss=0, one_way=True)
    assert sent(wan, "a", "b", [b"there"]) == []
    assert sent(wan, "b", "a", [b"back"]) == [b"back"]
    wan.link("a", "b", loss=0)
    assert sent(wan, "a", "b", [b"after"]) == [b"after"]


def test_wrong_words_of_a_change_change_nothing(wan: Wan) -> None:
    with pytest.raises(KeyError):
        wan.link("a", "z", loss=1)
    with pytest.raises(TypeError):
        wan.link("a", "b", lost=1)
    with pytest.raises(ValueError, match="loss"):
        wan.link("a", "b", loss=2)
    assert sent(wan, "a", "b", [b"still"]) == [b"still"]


def test_a_small_mtu_is_a_black_hole(wan: Wan) -> None:
    wan.link("a", "b", mtu=1300)
    payloads = [bytes(1300 - HEADERS_BYTES), bytes(1301 - HEADERS_BYTES)]
    assert sent(wan, "a", "b", payloads) == payloads[:1]
    assert wan.figures().links["a", "b"].too_big == 1


def test_a_program_lives_in_the_namespace_of_its_node(wan: Wan) -> None:
    code = "import socket; s = socket.create_server(('10.77.0.2', 99)); print('up', flush=True); s.accept()"
    process = wan.popen("b", [sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    assert Path(f"/proc/{process.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    with wan.inside("a"):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with client:
        client.connect(("10.77.0.2", 99))
    assert process.wait(10) == 0


def test_the_end_ends_the_programs_and_their_children() -> None:
    with wan_or_skip(NODES) as wan:
        process = wan.popen("a", ["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        child = os.pidfd_open(int(process.stdout.readline()))
    assert process.returncode == -signal.SIGTERM
    assert _has_ended(child)


def test_a_forwarder_that_dies_is_told() -> None:
    with pytest.raises(Broken), wan_or_skip(NODES) as wan:
        os.kill(wan.forwarder_pid, signal.SIGKILL)
        wan.figures()


def test_unknown_nodes_in_links_are_refused() -> None:
    with pytest.raises(ValueError, match="d"):
        Wan(NODES, {("a", "d"): Weather()})


_VICTIM = """
import json, subprocess, sys
from tests.wan.wan import Wan
with Wan({"a": "10.77.0.1", "b": "10.77.0.2"}) as wan:
    shell = wan.popen("a", ["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
    child = int(shell.stdout.readline())
    print(json.dumps([wan.forwarder_pid, shell.pid, child]), flush=True)
    sys.stdin.read()
"""


def test_nothing_outlives_a_killed_test() -> None:
    if reason := namespace.refusal():
        pytest.skip(reason)
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", _VICTIM], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as victim:
        assert victim.stdout is not None
        pids = json.loads(victim.stdout.readline())
        ends = [os.pidfd_open(pid) for pid in pids]
        victim.kill()
        assert [_has_ended(end) for end in ends] == [True, True, True]


def _has_ended(pidfd: int) -> bool:
    """Whether the process comes to its end; closes the descriptor."""
    try:
        return bool(select.select([pidfd], (), (), 20)[0])
    finally:
        os.close(pidfd)
