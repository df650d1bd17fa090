"""Probes of the path MTU on real sockets: DF on them and on nothing else, over paths that are too narrow."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from commcli.relay.clients.udp import MTU_DISCOVER, PMTUDISC_PROBE, UDP_SEGMENT, BatchSocket, open_udp

ROOT = Path(__file__).parents[2]
LEVEL, OPTION, CUT = MTU_DISCOVER[socket.AF_INET]


def _namespaces() -> bool:
    command = ["unshare", "-rn", "ip", "link", "set", "lo", "up"]
    if not all(map(shutil.which, ("unshare", "ip"))):
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def in_namespace(script: str) -> None:
    """Run the script in a network namespace of its own, with loopback only."""
    if not _namespaces():
        pytest.skip("no network namespaces here: apt install iproute2 util-linux, and permission to use them")
    command = ["unshare", "-rn", sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


class Wire:
    """As much of a socket as probing needs; writes down what leaves and under which options."""

    family = socket.AF_INET

    def __init__(self, refuses: OSError | None = None, kernel_knows: tuple[int, ...] = (0, 3, 5)) -> None:
        self.sent: list[tuple[int, int, int]] = []  # size, MTU_DISCOVER, UDP_SEGMENT
        self.refuses, self.knows = refuses, kernel_knows
        self.discover, self.segment = 1, 0

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if (level, option) == (LEVEL, OPTION):
            if value not in self.knows:
                raise OSError(errno.EINVAL, "unknown")
            self.discover = value
        elif option == UDP_SEGMENT:
            self.segment = value

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (LEVEL, OPTION)
        return self.discover

    def recvmsg(self, _most: int, _ancillary: int) -> None: ...

    def sendto(self, data: bytes, _to: object) -> None:
        if self.refuses is not None and self.discover == PMTUDISC_PROBE:
            raise self.refuses
        self.sent.append((len(data), self.discover, self.segment))


def batches(wire: Wire) -> BatchSocket:
    return BatchSocket(wire, Counter())  # type: ignore[arg-type]  # as much of a socket as it needs


def test_only_a_probe_must_arrive_whole_and_it_leaves_in_one_piece() -> None:
    wire = Wire()
    out = batches(wire)
    out.may_be_cut()
    out.send_all([b"x" * 100] * 3, ("", 1))
    assert out.probe(b"p" * 1472, ("", 1))
    out.send_all([b"x" * 100] * 3, ("", 1))
    out.send(b"y", ("", 1))
    assert wire.sent == [(300, CUT, 100), (1472, PMTUDISC_PROBE, 0), (300, CUT, 100), (1, CUT, 100)]


def test_an_old_kernel_leaves_df_out_in_the_old_way() -> None:
    wire = Wire(kernel_knows=(0, 3))
    out = batches(wire)
    out.may_be_cut()
    out.send(b"y", ("", 1))
    assert wire.sent == [(1, 0, 0)]


REFUSALS = [
    (OSError(errno.EMSGSIZE, ""), False, {"probe_too_big": 1}),
    (OSError(errno.ENETUNREACH, ""), True, {"send_error": 1}),
    (BlockingIOError(), True, {"send_buffer_full": 1}),
]


@pytest.mark.parametrize(("refusal", "answer", "drops"), REFUSALS)
def test_a_probe_that_can_not_leave_is_counted_and_changes_nothing(
    refusal: OSError, answer: bool, drops: dict[str, int]
) -> None:
    wire = Wire(refusal)
    out = batches(wire)
    out.may_be_cut()
    assert out.probe(b"p" * 1472, ("", 1)) is answer
    assert out.drops == drops
    assert wire.discover == CUT


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_on_a_real_socket_the_options_are_as_before(address: str) -> None:
    try:
        sock = open_udp(address, 0)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    level, option, value = MTU_DISCOVER[sock.family]
    out = BatchSocket(sock, Counter())
    try:
        out.may_be_cut()
        assert sock.getsockopt(level, option) == value
        assert out.probe(b"x" * 1472, sock.getsockname()[:2])
        assert not out.probe(b"x" * 65_530, sock.getsockname()[:2])
        assert sock.getsockopt(level, option) == value
        assert len(sock.recv(2000)) == 1472
        assert out.drops == {"probe_too_big": 1}
    finally:
        sock.close()


DF = """
import socket, subprocess
from collections import Counter
from commcli.relay.clients.udp import BatchSocket, open_udp
subprocess.run("ip link set lo up", shell=True, check=True)
wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
wire.settimeout(5)
inbox, out = open_udp("127.0.0.1", 0), BatchSocket(open_udp("127.0.0.1", 0), Counter())
def fragmentable(count):
    return [not wire.recv(70000)[6] & 0x40 for _ in range(count)]
out.may_be_cut()
to = inbox.getsockname()
out.send(b"x", to)
out.probe(b"p" * 1400, to)
out.send_all([b"x" * 1200] * 3, to)
out.send(b"x", to)
seen = fragmentable(4)
assert seen[:2] == [True, False] and all(seen[2:]), seen
assert out.drops == {}, out.drops
"""


def test_on_the_wire_only_a_probe_has_df() -> None:
    in_namespace(DF)


# Two namespaces and a veth between them; the far end is narrower, and such a link drops what is longer without a word.
NARROW = """
import os, socket, subprocess, sys, time
from collections import Counter
from commcli.relay.clients.udp import BatchSocket, open_udp
from commcli.relay.overlay.mtu import PROBE_TIMEOUT_S, PathMtu

def sh(line):
    subprocess.run(line, shell=True, check=True)

ECHO = '''
import socket, subprocess, sys
sys.stdin.readline()
for line in sys.argv[1].split(";"):
    subprocess.run(line, shell=True, check=True)
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[2], 4000))
print("up", flush=True)
while True:
    data, source = sock.recvfrom(70000)
    sock.sendto(str(len(data)).encode(), source)
'''

def discover(family, near, far, near_mtu, far_mtu):
    nodad = " nodad" if family == 6 else ""
    prefix = 64 if family == 6 else 24
    theirs = f"ip link set far mtu {far_mtu} up;ip addr add {far}/{prefix} dev far{nodad}"
    command = ["unshare", "-n", sys.executable, "-c", ECHO, theirs, far]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        while os.readlink(f"/proc/{child.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        sh(f"ip link add near type veth peer name far && ip link set far netns {child.pid}")
        sh(f"ip link set near mtu {near_mtu} up && ip addr add {near}/{prefix} dev near{nodad}")
        child.stdin.write("\\n")
        child.stdin.flush()
        assert child.stdout.readline() == "up\\n"
        out, mtu = BatchSocket(open_udp(near, 0), Counter()), PathMtu(family)
        out.may_be_cut()
        sock, now = out.sock, 0.0
        sock.settimeout(0.2)
        while mtu.phase != "complete":
            size = mtu.due(now)
            if size is not None:
                if out.probe(bytes(size), (far, 4000)):
                    mtu.sent(size, now)
                else:
                    mtu.too_big(size, now)
                continue
            try:
                mtu.confirmed(int(sock.recv(100)), now)
            except socket.timeout:
                now += PROBE_TIMEOUT_S
        # What is longer than the whole path arrives all the same: cut by our own interface.
        if near_mtu <= far_mtu:
            out.send(bytes(4000), (far, 4000))
            while sock.recv(100) != b"4000":
                pass
        sock.close()
        return mtu.figures(), out.drops
    finally:
        subprocess.run("ip link del near", shell=True)  # with its namespace it would go some time later
        child.kill()
        child.wait()

for family, near, far in ((4, "192.0.2.1", "192.0.2.2"), (6, "fd00::1", "fd00::2")):
    for near_mtu, far_mtu, found in ((1500, 1500, 1500), (1500, 1400, 1400), (1420, 1500, 1420), (9000, 1500, 1500)):
        figures, drops = discover(family, near, far, near_mtu, far_mtu)
        assert figures["mtu"] == found, (family, near_mtu, far_mtu, figures)
        assert bool(drops["probe_too_big"]) == (near_mtu < 1500), drops
        assert drops["send_error"] == 0, drops
"""


def test_over_a_link_that_swallows_long_packets_the_size_is_found() -> None:
    in_namespace(NARROW)
