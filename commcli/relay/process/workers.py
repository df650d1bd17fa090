"""One process a core: a parent that only watches, and workers that share the ports of one relay (SO_REUSEPORT).

The parent opens every client listener, a set for each worker, and keeps them: the kernel picks a listener by a hash of
the client's address among those that are open, so while their number stays, each client stays with its worker, also
with one that died and was started again (what came meanwhile waits in its sockets). Worker 0 is the hub
(daemon.Relay), the others serve clients and nothing else. Each relays from its own slice of the relay ports.

A worker's death costs the calls that it had. The relay ends when the parent is told to, or when the hub ends well.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import Counter
from typing import Callable, Dict, List, Optional, Set, Tuple

from commcli.relay.clients.udp import Addr
from commcli.relay.config import ConfigError, RelayConfig, live
from commcli.relay.log import Log
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.process import sisters
from commcli.relay.process.daemon import Group, Relay
from commcli.relay.process.front import TOLD, Front, Listeners, open_listeners
from commcli.relay.process.readiness import Readiness, sender
from commcli.relay.process.register import Register
from commcli.relay.process.sisters import FIGURES, HELLO, PACKETS, Link
from commcli.relay.process.supervise import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, die_with_parent
from commcli.relay.table import shard as shards
from commcli.relay.table.shard import Shard
from commcli.relay.turn.road import Road

LOOK_EVERY_S = 0.2
STUCK_S = 30.0  # a worker whose loop stands still for so long is ended, and so started again
END_WITHIN_S = 5.0
FIGURES_EVERY_S = 0.25
FIGURES_SHARE = 0.02  # of a worker's time: ten thousand allocations take 40 ms to count up
BAD_CONFIG = 3


class HubCarrier:
    """The hub as what takes an edge's packets to other nodes."""

    def __init__(self, link: Link, node: str, drops: "Counter[str]") -> None:
        self._link, self._drops = link, drops
        # Without a peer's key it sends nothing; it knows whose addresses are whose, and what the zones permit.
        self.overlay = Overlay(node, os.urandom)
        self.egress_of = self.overlay.egress_of
        self.straight: Set[str] = set()  # nodes that the hub's packets go straight to

    def carry(
        self, egress: str, src: Addr, dst: Addr, payloads: List[bytes], road: Road, now: float, unix: float
    ) -> bool:
        """Hand them to the hub, or drop them (counted); False if they are to go straight."""
        is_straight = road.direct or (road.via is None and egress in self.straight)
        if is_straight and self.overlay.permits_straight(egress):
            return False
        if road.direct:
            self._drops["direct_forbidden"] += len(payloads)
        else:
            self._link.gather(src, dst, payloads, road)
        return True


class Worker(Front):
    """A process that serves clients, and for the rest asks the hub."""

    def __init__(
        self,
        config: RelayConfig,
        version: str,
        log: Log,
        place: Tuple[int, int],
        sock: socket.socket,
        listeners: Listeners,
        register: Register,
    ) -> None:
        """`place`: which of how many we are. `sock` goes to the hub."""
        super().__init__(config, version, log, *place, register)
        self._link = Link(sock, self.drops)
        self._listeners: Optional[Listeners] = listeners
        self._carrier: Optional[HubCarrier] = None
        self._unheard = {sisters.CONFIG}  # without these we would not know what is forbidden
        if config.base is not None:
            self._carrier = self.edge.carrier = HubCarrier(self._link, config.node, self.drops)
            self._unheard |= {sisters.TABLE, sisters.SERVICES, sisters.WAYS}
        self._shard: Optional[Shard] = None
        self._newest = b""  # document of a table, which may still be on its way to be loaded
        self._tables: "queue.SimpleQueue[Tuple[bytes, Optional[Shard]]]" = queue.SimpleQueue()
        self._services: List[Addr] = []
        self._rtt_ms: Dict[str, Optional[float]] = {}
        self._greeted = False
        self._next_figures = 0.0
        self.loop.add(sock, self._hear)
        self.loop.settle = lambda _now: self._link.flush()

    def close(self) -> None:
        """Close every socket."""
        self.loop.remove(self._link.sock)
        self._link.sock.close()
        super().close()

    def _hear(self, _events: int) -> None:
        for kind, data in self._link.receive():
            if kind == PACKETS:
                for src, dst, payloads, _ in self._link.packets(data):
                    self.edge.deliver(src, dst, payloads, self.loop.now)
            else:
                self._told(kind, data)

    def _told(self, topic: int, document: bytes) -> None:
        if topic == sisters.CONFIG:
            config, self.turn.drain = sisters.unpacked_config(document, self.config)
            self.log.hide([*config.secrets, *(password for _, password in config.users)])
            self.apply(config)
        elif topic == sisters.TABLE:
            # Beside the loop: a big prefix map takes a second.
            self._newest = document
            threading.Thread(target=self._load, args=(document,), daemon=True).start()
            return
        elif topic == sisters.SERVICES:
            self._services = [(ip, port) for ip, port in json.loads(document)]
        elif topic == sisters.WAYS and self._carrier is not None:
            self._carrier.straight = set(json.loads(document))
        elif topic == sisters.RTT:
            self._rtt_ms = json.loads(document)
        if topic in (sisters.CONFIG, sisters.SERVICES):
            self.obey(self._shard, self._services)
        self._heard(topic)

    def _heard(self, topic: int) -> None:
        if self.turn.alternates is not None:
            self.turn.alternates.measured(self._rtt_ms)
        self._unheard.discard(topic)
        if not self._unheard and self._listeners is not None:
            listeners, self._listeners = self._listeners, None
            self.listen(listeners)

    def _load(self, document: bytes) -> None:
        """In a thread: the table in force, which the hub has verified."""
        found = None
        if document:
            manifest, shared, body = document.split(b"\0")
            found = shards.load(
                manifest, body, shared=shared, node=self.config.node, unix=0.0, highest_serial=0
            )
        self._tables.put((document, found))

    def _take_tables(self) -> None:
        while not self._tables.empty():
            document, found = self._tables.get()
            if document is self._newest and self._carrier is not None:
                self._shard = found
                self._carrier.overlay.set_shard(found)
                self.obey(found, self._services)
                self._heard(sisters.TABLE)

    def _every_tick(self, now: float) -> None:
        super()._every_tick(now)
        self._take_tables()
        if not self._greeted:
            self._greeted = self._link.send(HELLO)
        if now >= self._next_figures:
            self._link.send(FIGURES, sisters.document(self.figures()))
            took_s = time.monotonic() - now
            self._next_figures = now + max(FIGURES_EVERY_S, took_s / FIGURES_SHARE)
            self.log.tick(now)


class _Child:
    """One worker as its parent sees it: alive, or due to be started."""

    def __init__(self) -> None:
        self.pid = 0
        self.began = self.due = self.pause_s = 0.0
        self.beat, self.unchanged = 0, 0  # its last heartbeat, and for how many looks


class Parent:
    """Starts the workers and starts them again. Makes no thread, and nothing of TURN."""

    def __init__(
        self, config: RelayConfig, version: str, log: Log, read: Callable[[], RelayConfig], workers: int
    ) -> None:
        """Opens the listeners of all workers. Raises ConfigError."""
        low, high = config.relay_ports
        if (high - low + 1) // 2 < workers:
            raise ConfigError(f"relay_ports {low}-{high} are too few for {workers} workers")
        self._config, self._version, self._log, self._read = config, version, log, read
        # Shared ports could be bound by a second relay as well: then each would get half of the clients.
        open_listeners(config).close()
        self._listeners = [open_listeners(config, shared=True) for _ in range(workers)]
        self._register = Register(config.addresses, config.relay_ports, workers)
        self._pairs = {
            worker: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for worker in range(1, workers)
        }
        # systemd hears us, its main process, and nobody else; but only the hub knows how we are.
        self._words = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in self._words:
            sock.setblocking(False)
        self._say = sender(os.environ.get("NOTIFY_SOCKET", ""))
        self._children = [_Child() for _ in range(workers)]
        self._pid = os.getpid()
        self._served = False  # the hub's loop has turned

    def run(self) -> int:
        """Until told to end: 0; 3 if the hub can not start."""
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # who started us may ignore it, and then we could not wait
        # Blocked, they are taken one by one below, and a child gets none before it can obey it.
        signal.pthread_sigmask(signal.SIG_BLOCK, TOLD)
        code = None
        while code is None:
            self._start_due(time.monotonic())
            told = signal.sigtimedwait(TOLD, LOOK_EVERY_S)
            code = self._obey(told.si_signo) if told is not None else None
            self._pass_words_on()
            self._end_stuck()
            code = self._reap(time.monotonic()) if code is None else code
        self._end()
        self.close()
        return code

    def close(self) -> None:
        """Close every socket."""
        for listeners in self._listeners:
            listeners.close()
        for sock in (*self._words, *(sock for pair in self._pairs.values() for sock in pair)):
            sock.close()

    def _obey(self, number: int) -> Optional[int]:
        if number in (signal.SIGTERM, signal.SIGINT):
            return 0
        hub = self._children[0].pid
        if hub and number != signal.SIGCHLD:
            os.kill(hub, number)
        return None

    def _pass_words_on(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._say(self._words[0].recv(4096))

    # --- children come and go ------------------------------------------------------------------------------

    def _start_due(self, now: float) -> None:
        for worker, child in enumerate(self._children):
            if not child.pid and now >= child.due:
                child.began, child.beat, child.unchanged = now, 0, 0
                try:
                    child.pid = self._fork(worker)
                except OSError as error:
                    child.due = now + LONGEST_PAUSE_S
                    self._log("worker_not_started", worker=worker, reason=error.strerror)

    def _reap(self, now: float) -> Optional[int]:
        """See who is gone; the exit code if that ends the relay."""
        for worker, child in enumerate(self._children):
            pid, status = os.waitpid(child.pid, os.WNOHANG) if child.pid else (0, 0)
            if not pid:
                continue
            child.pid = 0
            code = os.waitstatus_to_exitcode(status)
            if worker == 0 and (code == 0 or (code == BAD_CONFIG and not self._served)):
                return code
            lost = self._register.live[worker]
            # Its sockets are closed, so nobody writes there now, and whoever comes next to these ports may.
            self._register.clear(worker, self._slice_of(worker))
            steady = now - child.began > STEADY_S
            child.pause_s = (
                FIRST_PAUSE_S if steady else min(max(child.pause_s, FIRST_PAUSE_S / 2) * 2, LONGEST_PAUSE_S)
            )
            child.due = now + child.pause_s
            self._log("worker_ended", worker=worker, code=code, allocations=lost, pause_s=child.pause_s)
        return None

    def _slice_of(self, worker: int) -> Callable[[int], bool]:
        return lambda port: (port >> 1) % len(self._children) == worker

    def _end_stuck(self) -> None:
        for worker, child in enumerate(self._children):
            beat = self._register.beats[worker]
            self._served = self._served or (worker == 0 and beat > 0)
            child.unchanged = child.unchanged + 1 if beat == child.beat else 0
            child.beat = beat
            # Counted in our own looks: a machine that slept must not look like a worker that hangs.
            if child.pid and beat and child.unchanged > STUCK_S / LOOK_EVERY_S:
                self._log("worker_stuck", worker=worker)
                child.unchanged = 0
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        """End everybody, in good order if they can."""
        end = time.monotonic() + END_WITHIN_S
        self._kill_all(signal.SIGTERM)
        while any(child.pid for child in self._children) and time.monotonic() < end:
            signal.sigtimedwait([signal.SIGCHLD], LOOK_EVERY_S)
            self._pass_words_on()
            for child in self._children:
                if child.pid and os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
        self._kill_all(signal.SIGKILL)

    def _kill_all(self, number: int) -> None:
        for child in self._children:
            if child.pid:
                os.kill(child.pid, number)

    # --- in the child --------------------------------------------------------------------------------------

    def _fork(self, worker: int) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            # Whatever becomes of the parent, it leaves nobody behind who holds the ports of the next relay.
            die_with_parent(signal.SIGKILL)
            if os.getppid() == self._pid:
                self._keep_only(worker)
                code = self._hub() if worker == 0 else self._worker(worker)
        except BaseException as error:
            self._log("worker_failed", worker=worker, error=f"{type(error).__name__}: {error}"[:200])
        finally:
            os._exit(code)  # never back into the parent's loop

    def _keep_only(self, worker: int) -> None:
        """Close what is another's. An accepted connection, or a dead worker's socket, must have one holder."""
        for other, listeners in enumerate(self._listeners):
            if other != worker:
                listeners.close()
        for other, (hubs, theirs) in self._pairs.items():
            if worker != 0:
                hubs.close()
            if worker != other:
                theirs.close()
        self._words[0].close()

    def _hub(self) -> int:
        try:
            # After a crash the configuration may have been reloaded since we began. A wrong one ends us here, and the
            # other workers go on by what they were told last.
            config = live(self._config, self._read()) if self._served else self._config
            readiness = Readiness(os.environ, self._pid, lambda text: self._words[1].sendall(text))
            socks = {worker: pair[0] for worker, pair in self._pairs.items()}
            group = Group(len(self._children), self._listeners[0], self._register, socks, readiness)
            relay = Relay(config, self._version, self._log, self._read, group)
        except ConfigError as error:
            print(f"commcli-relay: {error}", file=sys.stderr)
            return BAD_CONFIG
        relay.run()
        return 0

    def _worker(self, worker: int) -> int:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # the hub's business
        place, sock = (worker, len(self._children)), self._pairs[worker][1]
        front = Worker(
            self._config, self._version, self._log, place, sock, self._listeners[worker], self._register
        )
        front.serve()
        front.close()
        return 0
