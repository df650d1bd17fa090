"""The process that is the network: reads every namespace's TUN, holds each packet as long as its link says, writes it.

    python -m tests.wan.forwarder CONTROL-FD JSON

JSON: {"nodes": {node: {"address", "tun_fd", "namespace_fd"}}, "links": [[from, to, weather]], "seed", "mtu",
"ports"}: the names of UDP ports have it remember every packet; null: none. On the control socket (SOCK_SEQPACKET) come
{"do": "link", "from", "to", "weather"}, {"do": "figures"} and {"do": "seen", "since_unix", "until_unix"}; each is
answered.
When that socket ends, this process ends what still runs in the namespaces, and itself: nothing outlives a killed test.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.wan import namespace
from tests.wan.switch import Switch
from tests.wan.weather import Weather
from tests.wan.witness import Witness

# Packets read from one TUN before the due ones are written.
BATCH = 64
_PR_SET_TIMERSLACK = 29
_MESSAGE_BYTES = 1 << 16
# Lateness is counted in steps of this.
_STEP_S = 50e-6


class Forwarder:
    """The switch between the TUNs."""

    def __init__(self, argument: Mapping[str, Any], control: socket.socket) -> None:
        nodes = argument["nodes"]
        links = {(src, dst): Weather(**weather) for src, dst, weather in argument["links"]}
        addresses = {node: row["address"] for node, row in nodes.items()}
        ports = argument["ports"]
        self._witness = None if ports is None else Witness({int(port): name for port, name in ports.items()})
        self._switch = Switch(addresses, links, argument["seed"], self._witness)
        self._tuns = {node: row["tun_fd"] for node, row in nodes.items()}
        self._node_of = {fd: node for node, fd in self._tuns.items()}
        # The kernel adds nothing to a packet (IFF_NO_PI), so one more byte would show a longer one.
        self._read_bytes = argument["mtu"] + 1
        self._control = control
        self._late: Counter[int] = Counter()
        self._refused = 0

    def run(self) -> None:
        """Until the other end of the control socket is closed."""
        watched = [*self._node_of, self._control.fileno()]
        while True:
            wish = self._switch.wish()
            # select and not epoll: its timeout is in microseconds.
            wait_s = None if wish is None else max(0.0, wish - time.monotonic())
            for fd in select.select(watched, (), (), wait_s)[0]:
                if fd in self._node_of:
                    self._read(fd)
                elif not self._command():
                    return
            self._write()

    def _read(self, fd: int) -> None:
        node, put = self._node_of[fd], self._switch.put
        with contextlib.suppress(BlockingIOError):
            for _ in range(BATCH):
                put(node, os.read(fd, self._read_bytes), time.monotonic())

    def _write(self) -> None:
        now = time.monotonic()
        for arrival, node, packet in self._switch.due(now):
            try:
                os.write(self._tuns[node], packet)
            except OSError:
                self._refused += 1
            self._late[int((now - arrival) / _STEP_S)] += 1

    def _command(self) -> bool:
        message = self._control.recv(_MESSAGE_BYTES)
        if not message:
            return False
        command = json.loads(message)
        answer: dict[str, Any] = {}
        if command["do"] == "link":
            self._switch.change(command["from"], command["to"], Weather(**command["weather"]))
        elif command["do"] == "seen":
            answer = self._seen(command["since_unix"], command["until_unix"])
        else:
            answer = self._figures()
        self._control.send(json.dumps(answer).encode())
        return True

    def _seen(self, since_unix: float, until_unix: float) -> dict[str, Any]:
        assert self._witness is not None
        ahead_s = time.time() - time.monotonic()
        return {
            "seen": [asdict(s) for s in self._witness.between(since_unix - ahead_s, until_unix - ahead_s)]
        }

    def _figures(self) -> dict[str, Any]:
        """Counters since the start, lateness since it was asked for last."""
        late_ms = {str(share): self._late_ms(share) for share in (0.5, 0.99, 1.0)}
        self._late.clear()
        return {
            "links": [[*pair, asdict(counts)] for pair, counts in self._switch.counts().items()],
            "unroutable": self._switch.unroutable,
            "refused": self._refused,
            "late_ms": late_ms,
        }

    def _late_ms(self, share: float) -> float | None:
        """By how much the given share of the packets was late at most; in steps, so a little too much."""
        left = share * self._late.total()
        for step in sorted(self._late):
            left -= self._late[step]
            if left <= 0:
                return 1000 * _STEP_S * (step + 1)
        return None


def end_inhabitants(fds: list[int]) -> None:
    """End what still runs in the namespaces: all of it was started through them."""
    inodes = frozenset(os.fstat(fd).st_ino for fd in fds)
    while pids := namespace.inhabitants(inodes):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                # Looked at again now that the descriptor pins it: the id may have got another owner.
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/ns/net").stat().st_ino in inodes:
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                        select.select([fd], (), (), 5.0)
                os.close(fd)


def _be_prompt() -> None:
    """A network does not wait for other programs: less timer slack, no collector, and first in the queue if allowed."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.nice(-15)


def main() -> None:
    # Ctrl-C goes to the whole group: the test ends first, and then this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    argument = json.loads(sys.argv[2])
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _be_prompt()
        forwarder = Forwarder(argument, control)
        control.send(b"{}")
        try:
            with contextlib.suppress(ConnectionResetError):
                forwarder.run()
        finally:
            end_inhabitants([row["namespace_fd"] for row in argument["nodes"].values()])


if __name__ == "__main__":
    main()
