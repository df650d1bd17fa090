"""The running relay's side of an upgrade: start the new program, hand it our calls, and end (see handover.py).

Only the child that we started gets anything: it inherits the other end of a socket pair that has no name.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Union

from commcli.relay.process import state
from commcli.relay.process.control import WAIT_S, Later
from commcli.relay.process.handover import SCHEMA, Channel, HandoverFailed
from commcli.relay.process.supervise import HEIRS

if TYPE_CHECKING:
    from commcli.relay.process.daemon import Relay
    from commcli.relay.process.takeover import Predecessor

READY_WITHIN_S = 60.0
# Nobody is served while the state is handed over. A new program that hangs there must cost no more than this.
HAND_OVER_S, A_CALL_S = 1.0, 0.002
SEND_S = 1.0
LONGEST_WAIT_S = 86400.0
LONGEST_REASON = 300
STDERR = 2
LINGER_S = 2.0

Answer = Dict[str, Any]


def own_command() -> List[str]:
    """How this program was started, for another one of it; [] if that can not be known."""
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
    except OSError:
        return []
    command = [sys.executable, *map(os.fsdecode, words)]
    if "--takeover" in command:
        at = command.index("--takeover")
        del command[at : at + 2]
    return command


class _Child:
    """The new program, until it serves or fails."""

    def __init__(
        self, relay: Relay, command: Sequence[str], environ: Mapping[str, str], heirs: Sequence[int]
    ) -> None:
        """Starts it. Raises OSError."""
        self.giver = state.Giver(relay)
        self.reloads = relay.operations.reloads  # when it read the configuration
        self.version: Optional[str] = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        try:
            self.process = subprocess.Popen(
                [*command, "--takeover", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(theirs.fileno(), *heirs),
                env=environ,
            )
        except OSError:
            ours.close()
            os.close(self._errors)
            raise
        finally:
            theirs.close()
            os.close(errors)
        self.channel = Channel(ours)
        self.heard = False  # is the loop told of what it says?

    def end(self) -> str:
        """End it; the last line that it said, or how it ended."""
        self.channel.close()
        code = self.process.poll()
        self.process.kill()
        self.process.wait()
        try:
            said = os.read(self._errors, 1 << 16).decode("utf-8", "replace").strip()
        except BlockingIOError:
            said = ""
        os.close(self._errors)
        last = said.split("\n")[-1].strip() if said else ""
        return last[:LONGEST_REASON] or ("" if code is None else f"exit code {code}")

    def leave(self) -> None:
        """It goes on without us."""
        self.channel.close()
        os.close(self._errors)


class Upgrade:
    """Upgrades of one relay, one at a time. Call `tick` from its loop.

    `done`: another process has our place, so this one must end and close nothing by hand.
    """

    def __init__(self, relay: Relay, command: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
        """`command`: what starts the program again."""
        self._relay, self._command, self._environ = relay, command, environ
        self.done = False
        self.predecessor: Optional[Predecessor] = None
        self.taken_over: Optional[Dict[str, object]] = None  # how we came to our place
        self._last_failed: Optional[Dict[str, object]] = None  # one that succeeds ends us, and it
        self._later: Optional[Later] = None
        self._child: Optional[_Child] = None
        self._tls = "refuse"
        self._until = self._ready_by = 0.0

    # --- the operator --------------------------------------------------------------------------------------

    def command(self, request: Answer) -> Union[Answer, Later]:
        """{"cmd": "upgrade", "tls": "refuse"|"cut"|"wait", "wait_s": seconds}: what to do about calls over TLS."""
        unknown = sorted(set(request) - {"cmd", "tls", "wait_s"})
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; known: tls wait_s")
        tls, wait_s = request.get("tls", "refuse"), request.get("wait_s", WAIT_S)
        if tls not in ("refuse", "cut", "wait"):
            raise ValueError(f"tls {tls!r} is none of refuse, cut, wait")
        if type(wait_s) not in (int, float) or not 0 <= wait_s <= LONGEST_WAIT_S:
            raise ValueError(f"wait_s {wait_s!r} is no number of seconds up to a day")
        obstacle = self._obstacle()
        if obstacle is not None:
            return {"ok": False, "error": obstacle, "restart": True}
        if self._later is not None or self.predecessor is not None:
            return {"ok": False, "error": "an upgrade is under way"}
        if tls == "refuse" and state.unmovable(self._relay):
            return self._refusal()
        self._later, self._tls, self._until = Later(), tls, time.monotonic() + wait_s
        if tls == "wait" and state.unmovable(self._relay):
            self._relay.log("upgrade_waits", tls_allocations=state.unmovable(self._relay))
        else:
            self._start()
        return self._later

    def _refusal(self) -> Answer:
        count = state.unmovable(self._relay)
        error = f"allocations over TLS can not move to another process: {count} live (tls: cut ends them, wait waits)"
        return {"ok": False, "error": error, "tls_allocations": count}

    def _obstacle(self) -> Optional[str]:
        """Why this relay can only be restarted, None if it can be upgraded."""
        if self._relay.workers > 1:
            return f"a relay of {self._relay.workers} processes can not hand over its calls: drain it, then restart it"
        if not self._command:
            return "how this relay was started can not be known here (/proc)"
        if os.getpid() == 1:
            return "with this process, which is process 1, everything here ends"
        if "--follow-parent" in self._command and HEIRS not in self._environ:
            return "the supervisor that runs is too old to take the new process over"
        return None

    def status(self) -> Dict[str, Any]:
        """{"under_way", "taken_over": how this process came to its place, "last_failed": {"reason", "unix"}}."""
        return {
            "under_way": self._later is not None,
            "taken_over": self.taken_over,
            "last_failed": self._last_failed,
        }

    # --- the loop ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look after who comes, and who was before us."""
        if self.predecessor is not None and self.predecessor.has_ended(now):
            self._relay.log("relay_took_over", **self.predecessor.document)
            self.predecessor = None
            self._relay.operations.announce()
        if self._later is None:
            return
        if self._child is not None:
            if now >= self._ready_by:
                self._fail("the new program is not ready in time")
        elif self._later.left:
            self._answer({"ok": False, "error": "nobody waits for it any more"})
        elif not state.unmovable(self._relay):
            self._start()
        elif now >= self._until:
            self._answer(self._refusal())

    def close(self) -> None:
        """The relay ends, and with it whoever was to take its place."""
        if self._child is not None:
            self._fail("the relay was told to end")

    def _start(self) -> None:
        environ = {key: value for key, value in self._environ.items() if key != "WATCHDOG_PID"}
        self._ready_by = time.monotonic() + READY_WITHIN_S
        try:
            self._child = _Child(self._relay, self._command, environ, self._heirs())
        except OSError as error:
            self._failed(f"{self._command[0]}: {error.strerror}")
            return
        sockets = self._relay.sockets.opened
        descriptors = [STDERR, *(sock.fileno() for sock in sockets.values())]
        try:
            self._child.channel.within(SEND_S)
            self._child.channel.send(
                "offer", descriptors, schema=SCHEMA, node=self._relay.config.node, names=list(sockets)
            )
        except HandoverFailed as error:
            self._fail(str(error))
            return
        self._relay.log("upgrade_begun", pid=self._child.process.pid)
        self._relay.loop.add(self._child.channel.sock, self._hear)
        self._child.heard = True

    def _heirs(self) -> List[int]:
        found = self._environ.get(HEIRS, "")
        return [int(found)] if found.isdecimal() else []

    def _hear(self, _events: int) -> None:
        child = self._child
        if child is None:
            return
        try:
            child.channel.within(SEND_S)
            told = child.channel.receive("ready", "restored", "refused")
        except HandoverFailed as error:
            self._failed(self._drop_child() or str(error))
            return
        if told.word == "refused":
            self._fail(str(told.body.get("reason"))[:LONGEST_REASON])
            return
        if told.word == "ready":
            child.version = told.body.get("version")
        self._relay.loop.between(lambda: self._give(child))

    def _give(self, child: _Child) -> None:
        """The next step, between two turns of the loop."""
        if child is not self._child or self._relay.loop.stopped:
            return
        if self._tls != "cut" and state.unmovable(self._relay):  # somebody came over TLS meanwhile
            self._drop_child()
            if self._tls == "refuse":
                self._answer(self._refusal())
            return
        if self._relay.operations.reloads != child.reloads:  # it may have read what is no longer so
            self._drop_child()
            self._start()
            return
        try:
            portion = child.giver.portion(time.monotonic())
            if portion:
                child.channel.within(SEND_S)
                child.channel.send("portion", child.giver.descriptors, state=portion)
            else:
                self._over(child, self._hand_over(child))
        except Exception as error:  # whatever it is, the calls go on here
            self._fail(str(error) or type(error).__name__)

    def _hand_over(self, child: _Child) -> Dict[str, Any]:
        """Nobody is served from here until the new process serves, or has failed. Raises anything."""
        stopped = time.monotonic()
        rest = child.giver.rest(stopped)
        told = {
            "stopped": stopped,
            "version": self._relay.version,
            "parent": os.getppid(),
            "allocations": len(rest["turn"]["figures"]),
            "connections": len(rest["streams"]["connections"]),
            "cut": rest["cut"],
        }
        child.channel.within(HAND_OVER_S + A_CALL_S * (told["allocations"] + told["connections"]))
        child.channel.send("rest", child.giver.descriptors, state=rest, **told)
        child.channel.receive("restored")
        child.channel.send("go")
        return {**told, "gap_ms": child.channel.receive("serving").body.get("gap_ms")}

    def _over(self, child: _Child, told: Dict[str, Any]) -> None:
        pid = child.process.pid
        child.process.returncode = 0  # it is not ours to wait for
        self._relay.loop.remove(child.channel.sock)
        child.leave()
        self._child, self.done = None, True
        if self._relay.loop.stopped:  # we were told to end meanwhile
            os.kill(pid, signal.SIGTERM)
        for heirs in self._heirs():
            os.write(heirs, b"%d\n" % pid)
        self._relay.operations.succeeded_by(pid)
        answer = {
            "ok": True,
            "from": told["version"],
            "version": child.version,
            "pid": pid,
            **{key: told[key] for key in ("allocations", "connections", "cut", "gap_ms")},
        }
        self._relay.log("relay_handed_over", **{key: answer[key] for key in answer if key != "ok"})
        self._answer(answer)
        self._relay.loop.stop()

    def linger(self) -> None:
        """Send what the lab's delay still holds."""
        end = time.monotonic() + LINGER_S
        while True:
            now = time.monotonic()
            due = self._relay.egress.release(now)
            if due is None or now >= end:
                return
            time.sleep(max(0.0, min(due, end) - now))

    # --- failure -------------------------------------------------------------------------------------------

    def _drop_child(self) -> str:
        assert self._child is not None
        child, self._child = self._child, None
        if child.heard:
            self._relay.loop.remove(child.channel.sock)
        return child.end()

    def _fail(self, reason: str) -> None:
        self._drop_child()
        self._failed(reason)

    def _failed(self, reason: str) -> None:
        self._last_failed = {"reason": reason, "unix": time.time()}
        self._relay.log("upgrade_failed", reason=reason)
        self._answer({"ok": False, "error": f"the new program did not take over: {reason}"})

    def _answer(self, answer: Answer) -> None:
        later, self._later = self._later, None
        if later is not None:
            later.settle(answer)
