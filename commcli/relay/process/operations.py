"""How an operator steers and watches a running relay: control socket, metrics, signals, drain, reload, readiness.

Nothing here knows TURN or the fleet; `Served` is all that it needs of a relay, so a plain TURN server has it too.
"""

from __future__ import annotations

import signal
import socket
import time
from types import FrameType
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple

from commcli.relay.config import ConfigError, RelayConfig, changes
from commcli.relay.log import Log
from commcli.relay.loop import Loop
from commcli.relay.process import control, metrics
from commcli.relay.process.drain import Drain
from commcli.relay.process.readiness import Readiness
from commcli.relay.process.sockets import Sockets

LOOK_EVERY_S = 0.5
# Any local user may ask for the metrics, and ten thousand allocations are not counted up in no time.
PAGE_FOR_S = 1.0

Command = Callable[[Dict[str, Any]], control.Reply]


class Served(Protocol):
    """What a relay must offer to be steered."""

    config: RelayConfig  # in force
    log: Log
    loop: Loop

    def sessions(self) -> int:
        """Live allocations of all workers together; asked for twice a second."""

    def figures(self) -> Dict[str, Any]:
        """The document of `metrics`, of all workers together."""

    def status(self) -> Dict[str, Any]:
        """The figures and whatever else people want to know."""

    def reconfigure(self, config: RelayConfig) -> List[str]:
        """Apply what can change under running calls; the names of the keys that wait for a restart.

        Raises ConfigError for what can not be applied; the text says if the rest was.
        """

    def drain_to(self, sessions: int, stop: bool) -> None:
        """Take no new client. What `sessions` and `stop` ask for, Operations sees to."""

    def undrain(self) -> None:
        """Take new clients again."""


class Operations:
    """The operator's side of one relay. Call `tick` from its loop, `close` at its end."""

    def __init__(
        self,
        relay: Served,
        read: Callable[[], RelayConfig],
        commands: Optional[Mapping[str, Command]] = None,
        readiness: Optional[Readiness] = None,
        sockets: Optional[Sockets] = None,
    ) -> None:
        """Opens what `relay.config` names and `sockets` has not. `read()` reads the configuration again (ConfigError
        when it is wrong); `commands` are further words for the control socket.

        Raises ConfigError when something can not be bound.
        """
        self._relay, self._read = relay, read
        self._readiness = Readiness() if readiness is None else readiness
        config = relay.config
        self.drain = Drain(None if config.base is None else config.path("state/drain"))
        self._reloads: Dict[str, Any] = {"ok": 0, "refused": 0, "last_ok": None, "error": None, "restart": []}
        self._signals: List[int] = []
        self._told_drained = self._told_ready = False
        self._now = self._next_look = 0.0
        self._page: Optional[str] = None
        self._page_until = 0.0
        self._commands: Dict[str, Command] = {
            "status": lambda _: self.status(),
            "metrics": lambda _: {"ok": True, "text": metrics.render(self.figures())},
            "drain": self._drain_command,
            "undrain": lambda _: self.undrain(),
            "reload": lambda _: self.reload(),
            **(commands or {}),
        }
        self._hide(config)
        self._listeners = self._listen(config, Sockets() if sockets is None else sockets)
        if self.drain.restore(config.drain_sessions):
            relay.drain_to(self.drain.sessions, False)
            relay.log("drain", restored=True, sessions=self.drain.sessions)

    def close(self) -> None:
        """Close the listeners, and say that we stop."""
        self._readiness.stopping()
        for listener in self._listeners.values():
            listener.close()
        path = self._relay.config.control_socket
        if self._listeners and path is not None:
            path.unlink(missing_ok=True)

    # --- from one process to the next ------------------------------------------------------------------------

    def kept(self, put: Callable[[socket.socket], int]) -> Dict[str, Any]:
        """What the next process goes on with (JSON); `put(sock)` hands a socket over and gives its number there."""
        return {
            "drain": self.drain.document(),
            "reloads": self._reloads,
            "asking": [
                (name, received.hex(), put(sock))
                for name, listener in self._listeners.items()
                for sock, received in listener.kept()
            ],
        }

    def take(self, kept: Mapping[str, Any], sock_of: Callable[[int], socket.socket]) -> None:
        """Go on with what another process `kept`. Raises ValueError, KeyError or TypeError."""
        if kept["drain"] is None:
            if self.drain.on:
                self.drain.on = False
                self._relay.undrain()
        else:
            self.drain.take(kept["drain"])
            self._relay.drain_to(self.drain.sessions, self.drain.stop)
        self._reloads = dict(kept["reloads"])
        for name, received, number in kept["asking"]:
            listener, sock = self._listeners.get(name), sock_of(number)
            if listener is None:
                sock.close()
            else:
                listener.take(sock, bytes.fromhex(received))

    @property
    def reloads(self) -> int:
        """How often the configuration was read again and was good."""
        return int(self._reloads["ok"])

    def hush(self) -> None:
        """Say nothing to the service manager until `announce`: another process is the one it listens to."""
        self._readiness.quiet = True

    def announce(self) -> None:
        """We are the one whom the service manager listens to now."""
        self._readiness.quiet = self._told_ready = False
        self._next_look = 0.0

    def succeeded_by(self, pid: int) -> None:
        """This process has our place."""
        self._readiness.main_pid(pid)
        self._readiness.quiet = True

    # --- the loop ------------------------------------------------------------------------------------------

    def listen_to_signals(self) -> None:
        """SIGHUP reloads, SIGUSR1 drains to the configured threshold, SIGUSR2 undoes that. Main thread only."""
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: Optional[FrameType]) -> None:
        # Only noted: a handler runs between any two steps of the data path.
        if number not in self._signals:
            self._signals.append(number)

    def tick(self, now: float) -> None:
        """Obey the signals that came; twice a second look how the drain goes. `now`: monotonic seconds."""
        self._now = now
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self.reload()
            elif number == signal.SIGUSR1:
                self.drain_to(self._relay.config.drain_sessions, False)
            else:
                self.undrain()
        self._readiness.tick(now)
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY_S
            self._look(now)

    def _look(self, now: float) -> None:
        if not self._told_ready:
            # Only now: the loop runs, so whoever waited for us is answered.
            self._told_ready = True
            self._readiness.ready(self._word())
        self._relay.log.tick(now)
        if not self.drain.on:
            return
        left = self._relay.sessions()
        if self.drain.done(left) != self._told_drained:
            self._told_drained = not self._told_drained
            self._readiness.status(self._word())
            if self._told_drained:
                self._relay.log(
                    "drained", allocations=left, sessions=self.drain.sessions, stop=self.drain.stop
                )
        if self._told_drained and self.drain.stop:
            self._relay.loop.stop()

    def _word(self) -> str:
        if not self.drain.on:
            return "serving"
        return "drained" if self._told_drained else f"draining to {self.drain.sessions} allocations"

    # --- commands ------------------------------------------------------------------------------------------

    def answer(self, request: Dict[str, Any]) -> control.Reply:
        """Carry out one request of the control socket: {"cmd": word, ...}; the answer says "ok"."""
        name = request.get("cmd")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            known = " ".join(sorted(self._commands))
            return {"ok": False, "error": f"unknown command {name!r}; known: {known}"}
        return command(request)

    def status(self) -> Dict[str, Any]:
        """The relay's status and ours: "drained", "draining", "reload", "log_held_back"."""
        return self._with_ours(self._relay.status())

    def figures(self) -> Dict[str, Any]:
        """The document of `metrics` with our part in it."""
        return self._with_ours(self._relay.figures())

    def _metrics_page(self) -> str:
        if self._page is None or self._now >= self._page_until:
            self._page, self._page_until = metrics.render(self.figures()), self._now + PAGE_FOR_S
        return self._page

    def _with_ours(self, document: Dict[str, Any]) -> Dict[str, Any]:
        return {
            "log_held_back": self._relay.log.held_back,
            **document,
            "drain": self.drain.on,
            "drained": self.drain.done(int(document["allocations"])),
            "draining": self.drain.document(),
            "reload": dict(self._reloads),
        }

    def _drain_command(self, request: Dict[str, Any]) -> Dict[str, Any]:
        unknown = sorted(set(request) - {"cmd", "sessions", "stop"})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; known: sessions stop")
        sessions, stop = request.get("sessions"), request.get("stop", False)
        if sessions is None:
            sessions = self._relay.config.drain_sessions
        if type(sessions) is not int or sessions < 0:
            raise ValueError(f"sessions {sessions!r} is not a whole number from 0")
        if not isinstance(stop, bool):
            raise ValueError(f"stop {stop!r} is neither true nor false")
        return self.drain_to(sessions, stop)

    def drain_to(self, sessions: int, stop: bool) -> Dict[str, Any]:
        """Take no new client; "drained" at `sessions` allocations, and with `stop` the relay ends there."""
        self._relay.drain_to(sessions, stop)
        forgotten = self.drain.begin(sessions, stop, time.time())
        return self._drain_changed("drain", forgotten, sessions=sessions, stop=stop)

    def undrain(self) -> Dict[str, Any]:
        """Take new clients again."""
        self._relay.undrain()
        return self._drain_changed("undrain", self.drain.end())

    def _drain_changed(self, event: str, forgotten: Optional[str], **fields: Any) -> Dict[str, Any]:
        left = self._relay.sessions()
        self._told_drained = False
        self._next_look = 0.0
        self._readiness.status(self._word())
        self._relay.log(event, allocations=left, **fields)
        if forgotten is not None:
            self._relay.log("drain_not_kept", reason=forgotten)
        return {
            "ok": True,
            "drain": self.drain.on,
            "drained": self.drain.done(left),
            "draining": self.drain.document(),
            "allocations": left,
            "not_kept": forgotten,
        }

    def reload(self) -> Dict[str, Any]:
        """Read the configuration again. A wrong one changes nothing: {"ok": false, "error": ...} and one log line."""
        self._readiness.reloading(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
        try:
            new = self._read()
            self._hide(new)
            changed = changes(self._relay.config, new)
            restart = self._relay.reconfigure(new)
        except ConfigError as error:
            self._reloads.update(refused=self._reloads["refused"] + 1, last_ok=False, error=str(error))
            self._relay.log("reload_refused", reason=str(error))
            return {"ok": False, "error": str(error)}
        finally:
            self._readiness.ready(self._word())
        self._reloads.update(ok=self._reloads["ok"] + 1, last_ok=True, error=None, restart=restart)
        self._relay.log("reloaded", changed=",".join(changed), restart=",".join(restart))
        return {"ok": True, "changed": changed, "restart": restart}

    def _hide(self, config: RelayConfig) -> None:
        self._relay.log.hide([*config.secrets, *(password for _, password in config.users)])

    # --- listeners -----------------------------------------------------------------------------------------

    def _listen(self, config: RelayConfig, sockets: Sockets) -> Dict[str, control.Listener]:
        """By the socket's name."""
        doors: Dict[str, Tuple[socket.socket, control.Answer]] = {}
        if config.control_socket is not None:
            name = f"control {config.control_socket}"
            doors[name] = sockets.get(name, lambda: _unix(config)), control.json_answers(self.answer)
        if config.metrics_port is not None:
            address, port, page = _metrics_address(config), config.metrics_port, self._metrics_page
            name = f"metrics {address} {port}"
            try:
                doors[name] = sockets.get(name, lambda: _tcp(address, port)), control.http_answers(page)
            except ConfigError:
                for sock, _ in doors.values():
                    sock.close()
                raise
        return {
            name: control.Listener(self._relay.loop, sock, answers) for name, (sock, answers) in doors.items()
        }


def _unix(config: RelayConfig) -> socket.socket:
    path = config.control_socket
    assert path is not None
    try:
        return control.bind_unix(path)
    except OSError as error:
        raise ConfigError(f"cannot bind {path}: {error.strerror}") from error


def _metrics_address(config: RelayConfig) -> str:
    # Unless asked for, metrics are never on a public address: a scraper comes through SSH or from a local agent.
    bound = config.bind_to(config.address)
    own = bound if bound.startswith("127.") else "127.0.0.1"
    return config.metrics_address or own


def _tcp(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot bind TCP {address}:{port}: {error.strerror}") from error
    return sock
