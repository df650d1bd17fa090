"""A network of namespaces for a test: see the package's text."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest

from tests.relay.serving import dies_with_us, need
from tests.wan import namespace
from tests.wan.switch import Pair
from tests.wan.weather import Counts, Weather
from tests.wan.witness import Seen

_ROOT = Path(__file__).parents[2]
_MESSAGE_BYTES = 1 << 20
_ANSWERS_WITHIN_S = 20.0
_RECEIVE_BUFFER_BYTES = 4 << 20


class Broken(RuntimeError):
    """The network itself failed; nothing that was measured on it counts."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the network did so far, and how exactly.

    links: by (from, to). unroutable: packets to nobody. late_ms: how much later than due packets came out, at most, of
    half of them, 99 % and all (keys 0.5, 0.99, 1.0; None without a packet), since the figures before these. overflow:
    packets lost because the forwarder was too slow, by node; anything but 0 spoils what was measured.
    """

    links: Mapping[Pair, Counts]
    unroutable: int
    late_ms: Mapping[float, float | None]
    overflow: Mapping[str, int]


class Wan:
    """Nodes with an address each, in a namespace each, and the links between them. A context manager."""

    def __init__(
        self,
        nodes: Mapping[str, str],
        links: Mapping[Pair, Weather] | None = None,
        *,
        seed: int = 1,
        mtu: int = 1500,
        ports: Mapping[int, str] | None = None,
    ) -> None:
        """nodes: id -> IPv4 address. links: (one, other) -> weather, of both directions unless (other, one) stands
        there too; all others are perfect wires. The same seed and packets have the same losses. mtu: the interfaces'.
        ports: remember what became of every packet, for `seen`; those of these UDP ports have such names there.
        """
        self._ports = None if ports is None else dict(ports)
        self.nodes = dict(nodes)
        self._weather = {pair[::-1]: weather for pair, weather in (links or {}).items()} | dict(links or {})
        unknown = {node for pair in self._weather for node in pair} - set(nodes)
        if unknown:
            raise ValueError(f"links of unknown nodes: {', '.join(sorted(unknown))}")
        self._seed, self._mtu = seed, mtu
        self._namespaces: dict[str, namespace.Namespace] = {}
        self._processes: list[subprocess.Popen[Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises OSError where the kernel does not permit namespaces."""
        with ExitStack() as stack:
            for node, address in self.nodes.items():
                made = self._namespaces[node] = namespace.make(address, self._mtu)
                stack.callback(os.close, made.fd)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(ours)
            with theirs:
                self._forwarder = self._start(theirs)
            stack.callback(self._end_forwarder, ours)
            ours.settimeout(_ANSWERS_WITHIN_S)
            self._control = ours
            self._answer()
            stack.callback(self._end_processes)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends what was started here, in the namespaces too. Raises Broken if the network failed before."""
        died = self._forwarder.poll()
        self._stack.close()
        if died is not None:
            raise Broken(f"the forwarder ended by itself with {died}")

    # The network

    def link(self, one: str, other: str, *, one_way: bool = False, **changes: float | None) -> None:
        """Change the weather between two nodes from now on, in both directions unless `one_way` (from one to other).

        changes: the fields of Weather that are replaced. Raises ValueError, KeyError and TypeError for what is not.
        """
        for src, dst in ((one, other),) if one_way else ((one, other), (other, one)):
            if src not in self.nodes or dst not in self.nodes or src == dst:
                raise KeyError(f"no link from {src} to {dst}")
            weather = replace(self._weather.get((src, dst), Weather()), **changes)  # type: ignore[arg-type]
            self._ask({"do": "link", "from": src, "to": dst, "weather": asdict(weather)})
            self._weather[src, dst] = weather

    def figures(self) -> Figures:
        """What the network did so far."""
        told = self._ask({"do": "figures"})
        return Figures(
            {(src, dst): Counts(**counts) for src, dst, counts in told["links"]},
            told["unroutable"],
            {float(share): late for share, late in told["late_ms"].items()},
            {node: namespace.overflow(made.fd) for node, made in self._namespaces.items()},
        )

    def seen(self, since_unix: float, until_unix: float) -> list[Seen]:
        """What each link did to each kind of packet that was to come out of it in this time (`ports` of __init__)."""
        told = self._ask({"do": "seen", "since_unix": since_unix, "until_unix": until_unix})
        return [Seen(**row) for row in told["seen"]]

    # Who lives there

    def argv(self, node: str, command: Sequence[str | Path]) -> list[str]:
        """`command` so that it runs in the node's namespace, and ends when the thread that starts it ends."""
        path = f"/proc/{os.getpid()}/fd/{self._namespaces[node].fd}"
        return dies_with_us([need("nsenter", "util-linux"), f"--net={path}", "--", *map(str, command)])

    def popen(self, node: str, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in the node's namespace; it is ended with the network at the latest."""
        process = subprocess.Popen(self.argv(node, command), **options)
        self._processes.append(process)
        return process

    def inhabitants(self, node: str) -> list[int]:
        """Ids of the processes that live in the node's namespace."""
        return namespace.inhabitants(frozenset([self._namespaces[node].inode]))

    def inside(self, node: str) -> AbstractContextManager[None]:
        """This thread in the node's namespace: sockets made meanwhile stay there. Nothing to await in."""
        return namespace.inside(self._namespaces[node].fd)

    def udp(self, node: str, port: int = 0) -> socket.socket:
        """A UDP socket of the node, bound to its address, with room for a burst. The caller closes it."""
        with self.inside(node):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            sock.bind((self.nodes[node], port))
        return sock

    # The forwarder

    @property
    def forwarder_pid(self) -> int:
        """The process that is the network."""
        return self._forwarder.pid

    def _start(self, control: socket.socket) -> subprocess.Popen[bytes]:
        tuns = {node: made.tun_fd for node, made in self._namespaces.items()}
        argument = {
            "nodes": {
                node: {"address": self.nodes[node], "tun_fd": made.tun_fd, "namespace_fd": made.fd}
                for node, made in self._namespaces.items()
            },
            "links": [[*pair, asdict(weather)] for pair, weather in self._weather.items()],
            "seed": self._seed, "mtu": self._mtu, "ports": self._ports,
        }  # fmt: skip
        fds = [control.fileno(), *tuns.values(), *(made.fd for made in self._namespaces.values())]
        command = [sys.executable, "-m", "tests.wan.forwarder", str(control.fileno()), json.dumps(argument)]
        try:
            return subprocess.Popen(command, cwd=_ROOT, pass_fds=fds)
        finally:
            # The TUNs are the forwarder's alone: they go when it goes.
            for fd in tuns.values():
                os.close(fd)

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._control.send(json.dumps(command).encode())
        except OSError as error:
            raise Broken(f"the forwarder is gone: {error}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            message = self._control.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise Broken(f"the forwarder does not answer: {error}") from None
        if not message:
            raise Broken("the forwarder is gone")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _end_forwarder(self, control: socket.socket) -> None:
        control.close()
        try:
            self._forwarder.wait(_ANSWERS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._forwarder.kill()
            self._forwarder.wait()
            raise Broken("the forwarder did not end") from None

    def _end_processes(self) -> None:
        running = [process for process in self._processes if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()
        for process in self._processes:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@contextlib.contextmanager
def wan_or_skip(
    nodes: Mapping[str, str],
    links: Mapping[Pair, Weather] | None = None,
    *,
    seed: int = 1,
    mtu: int = 1500,
    ports: Mapping[int, str] | None = None,
) -> Iterator[Wan]:
    """A Wan for a test: where namespaces are not permitted, a skip that says so (tests/conftest.py lists them)."""
    if reason := namespace.refusal():
        pytest.skip(reason)
    with Wan(nodes, links, seed=seed, mtu=mtu, ports=ports) as wan:
        yield wan
