"""The new process's side of an upgrade: build everything, then ask for the calls, and go on with them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Optional

from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.process import state
from commcli.relay.process.handover import SCHEMA, Channel, HandoverFailed
from commcli.relay.process.sockets import Sockets
from commcli.relay.process.supervise import die_with_parent

if TYPE_CHECKING:
    from commcli.relay.process.daemon import Relay

OFFER_S = 10.0
ANSWER_S = 60.0  # for what the running relay sends: it has its own, shorter patience with us
PREDECESSOR_ENDS_S = 10.0
STDERR = 2


class Takeover:
    """Asks the relay that started us for its place."""

    def __init__(self, descriptor: int, *, follow_parent: bool) -> None:
        """`descriptor`: our end of the pair. Raises ConfigError if it is none."""
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ConfigError(f"--takeover {descriptor}: {error.strerror}") from error
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            sock.detach()
            raise ConfigError(f"--takeover {descriptor}: a running relay uses this, when it is upgraded")
        sock.set_inheritable(False)
        self._channel = Channel(sock)
        self._follow_parent = follow_parent
        self._predecessor = os.getppid()
        die_with_parent(signal.SIGKILL)  # until we have its place

    def sockets(self, config: RelayConfig) -> Sockets:
        """What the running relay has bound. Raises HandoverFailed."""
        self._channel.within(OFFER_S)
        offer = self._channel.receive("offer")
        error, *descriptors = offer.descriptors
        os.dup2(error, STDERR)  # until now the running relay has read what we said
        os.close(error)
        socks = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        sockets = Sockets(dict(zip(offer.body["names"], socks)))
        if offer.body["schema"] != SCHEMA:
            raise HandoverFailed(f"the state has schema {offer.body['schema']!r}, not {SCHEMA}")
        if offer.body["node"] != config.node:
            raise HandoverFailed(f"the running relay is {offer.body['node']!r}, not {config.node!r}")
        return sockets

    def refuse(self, reason: str) -> None:
        """Tell why it can not be. The running relay goes on."""
        self._channel.within(OFFER_S)
        with contextlib.suppress(HandoverFailed):  # then our end tells it
            self._channel.send("refused", reason=reason)
        self._channel.close()

    def finish(self, relay: Relay) -> Predecessor:
        """Take the calls over: from here on they are ours. Raises HandoverFailed or StateUnusable."""
        relay.sockets.close_unused()
        self._channel.within(ANSWER_S)
        self._channel.send("ready", version=relay.version)
        taker = state.Taker(relay)
        told = self._channel.receive("portion", "rest")
        while told.word == "portion":
            taker.portion(told.body["state"], told.descriptors, time.monotonic())
            self._channel.send("restored")
            told = self._channel.receive("portion", "rest")
        taker.rest(told.body["state"], told.descriptors, time.monotonic())
        self._channel.send("restored")
        self._channel.receive("go")
        die_with_parent(0)
        gap_ms = round((time.monotonic() - told.body["stopped"]) * 1000, 3)
        relay.loop.between(lambda: self._serving(gap_ms))
        return Predecessor(self._predecessor, told.body, gap_ms, follow_parent=self._follow_parent)

    def _serving(self, gap_ms: float) -> None:
        """The loop has turned."""
        self._channel.within(OFFER_S)
        with contextlib.suppress(HandoverFailed):  # it has ended: all the same to us
            self._channel.send("serving", gap_ms=gap_ms)
        self._channel.close()


class Predecessor:
    """The process whose place we took, until it has ended: only then are we the one whom others know."""

    def __init__(self, pid: int, told: "dict[str, object]", gap_ms: float, *, follow_parent: bool) -> None:
        self._pid, self._follow_parent = pid, follow_parent
        self._grandparent = told["parent"]
        self._kill_at: Optional[float] = None
        self.document = {
            "unix": time.time(),
            "from_version": told["version"],
            "allocations": told["allocations"],
            "connections": told["connections"],
            "cut": told["cut"],
            "gap_ms": gap_ms,
        }

    def has_ended(self, now: float) -> bool:
        """Look; one that does not end by itself is ended."""
        if os.getppid() == self._pid:
            if self._kill_at is None:
                self._kill_at = now + PREDECESSOR_ENDS_S
            elif now >= self._kill_at:
                os.kill(self._pid, signal.SIGKILL)
            return False
        if self._follow_parent:
            # Only now: it would have fired at the end of the one who started us.
            die_with_parent(signal.SIGTERM)
            if os.getppid() != self._grandparent:
                os.kill(os.getpid(), signal.SIGTERM)  # the supervisor has ended meanwhile
        return True
