"""The node's end of a streamed program: JSON lines to the controller and back, over the command's own stdio.

    stdin:  {"entry", "argument", "blobs"} line · argument, packed · raw blobs · JSON lines, empty ones as heartbeats;
            {"blob", "length"} and a blob behind it for each that was wanted
    stdout: {"hello"} · {"m": message}, {"piece": base64} or {"want": sha256} ... · {"beat"} at times · {"crash"} if it
            failed · {"end"} + digest

End of file on stdin means that the controller is gone, by Ctrl-C, SIGKILL or a cut cable: this process and
everything it started (its process group) then ends too. Daemons that shall survive take their own session.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from commcli.remote.onnode import masks

# asyncio, traceback and others like them are imported where they are needed: on many nodes at once the imports are most
# of what a play costs there.
BEAT_S = 5.0
# sshd may not notice a dead controller for hours; the controller's own heartbeats come every 10 s.
SILENCE_S = 60.0
KILL_AFTER_S = 0.2
# A supervisor takes up to 10 s to stop a stubborn relay; after this much the end is not put off any longer.
INDIVISIBLE_S = 20.0
CHUNK = 1 << 16

_ending = threading.Event()
_sessions: set[int] = set()
_whole = threading.Lock()


class Blobs(dict[str, bytes]):
    """Blobs by their sha256. One that is not here yet is asked for; KeyError when the controller has none such."""

    def __init__(self, ask: Callable[[str], bytes]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, digest: str) -> bytes:
        self[digest] = data = self._ask(digest)
        return data


class Channel:
    """What a program's entry gets: send, receive, blobs by their sha256, and the secrets to be masked."""

    def __init__(self, stdin: BinaryIO, out: int, nonce: str) -> None:
        self.blobs = Blobs(self._want)
        self._stdin = stdin
        self._out = out
        self._nonce = nonce
        self._words: list[str] = []
        self._digest = hashlib.sha256()
        self._lines = 0
        self._lock = threading.Lock()
        self._inbox: queue.Queue[Any] = queue.Queue()
        self._arrived: queue.Queue[bytes | None] = queue.Queue()
        self._heard = time.monotonic()
        self.asked_unix = 0.0  # when the argument was here, by this node's clock

    def keep_secret(self, secrets: list[str]) -> None:
        """Mask these values in everything that is sent from now on."""
        self._words = masks.expand(secrets)

    def mask(self, value: Any) -> Any:
        """`value` (JSON-able) without the secrets."""
        return masks.mask(value, self._words)

    def send(self, message: Any) -> None:
        """Send one JSON-able message."""
        self._write({"m": self.mask(message)})

    def send_piece(self, data: bytes) -> None:
        """Send a piece of a file, as it is: a mask in it would only damage it.

        From a thread of its own, so that a step's alarm, which is raised in this one, leaves no line half written; it
        is heard when the piece is gone.
        """
        sent = threading.Event()

        def send() -> None:
            self._write({"piece": base64.b64encode(data).decode()})
            sent.set()

        threading.Thread(target=send, daemon=True).start()
        try:
            sent.wait()
        finally:
            sent.wait()

    def receive(self, timeout: float | None = None) -> Any:
        """The controller's next message; None when `timeout` seconds passed without one."""
        try:
            return self._inbox.get(timeout=timeout)
        except queue.Empty:
            return None

    def _want(self, digest: str) -> bytes:
        # How long that takes says nothing about the step that needs it: its alarm waits.
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        self._write({"want": digest})
        data = self._arrived.get()
        signal.setitimer(signal.ITIMER_REAL, left_s)
        if data is None:
            raise KeyError(digest)
        return data

    async def receive_async(self) -> Any:
        """`receive` for programs with an event loop."""
        import asyncio

        return await asyncio.get_running_loop().run_in_executor(None, self.receive)

    def _write(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._put(line)

    def _put(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._digest.update(data)
        self._lines += 1
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            end_group()  # nobody reads any more

    def _hello(self) -> None:
        self._write(
            {"hello": self._nonce, "python": ".".join(map(str, sys.version_info[:3])), "pid": os.getpid()}
        )

    def _crash(self) -> None:
        """The innermost error as one line, and where; masked like everything else. No values of variables."""
        kind, error, trace = sys.exc_info()
        import traceback

        frames = traceback.extract_tb(trace)[-3:]
        where = " < ".join(f"{frame.filename.strip('<>')}:{frame.lineno}" for frame in reversed(frames))
        text = f"{kind.__name__ if kind else '?'}: {error} ({where})"
        self._write({"crash": masks.mask(text, self._words)})

    def _end(self) -> None:
        with self._lock:
            self._put({"end": self._digest.hexdigest(), "lines": self._lines})

    def _take(self, length: int) -> bytes:
        """Exactly `length` bytes of stdin; the end of the process if there are fewer."""
        chunks = []
        while length > 0:
            chunk = self._stdin.read(min(length, CHUNK))
            if not chunk:
                end_group()
            self._heard = time.monotonic()
            length -= len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def _read_program(self) -> tuple[str, Any]:
        header = json.loads(self._stdin.readline() or b"null")
        if header is None:
            end_group()
        argument = json.loads(zlib.decompress(self._take(header["argument"])))
        self.asked_unix = time.time()
        for digest, length in header["blobs"]:
            self.blobs[digest] = self._take_blob(digest, length)
        return header["entry"], argument

    def _take_blob(self, digest: str, length: int) -> bytes:
        blob = self._take(length)
        if hashlib.sha256(blob).hexdigest() != digest:
            raise ValueError(f"blob {digest[:12]} arrived damaged")
        return blob

    def _listen(self) -> None:
        try:
            while line := self._stdin.readline():
                self._heard = time.monotonic()
                message = json.loads(line) if line.strip() else None
                if isinstance(message, dict) and "blob" in message:
                    digest, length = message["blob"], message["length"]
                    self._arrived.put(None if length is None else self._take_blob(digest, length))
                elif message is not None:
                    self._inbox.put(message)
        finally:
            end_group()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            if time.monotonic() - self._heard > SILENCE_S:
                end_group()
            # Not waiting for the lock: its holder may be stuck in a write that nobody reads.
            if self._lock.acquire(timeout=0.5):
                try:
                    self._put({"beat": 1})
                finally:
                    self._lock.release()


def end_group() -> None:
    """End this process and every child that did not take a session of its own."""
    _ending.set()  # our own SIGTERM must not end us before the SIGKILL for those that ignore theirs
    _whole.acquire(timeout=INDIVISIBLE_S)
    _kill_all(signal.SIGTERM)
    time.sleep(KILL_AFTER_S)
    _kill_all(signal.SIGKILL)


def _kill_all(number: int) -> None:
    for group in (*_sessions, 0):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


@contextlib.contextmanager
def guarded(pid: int) -> Iterator[None]:
    """While the body runs, the session that `pid` leads ends with us."""
    _sessions.add(pid)
    try:
        yield
    finally:
        _sessions.discard(pid)


@contextlib.contextmanager
def indivisible() -> Iterator[None]:
    """We do not end in the middle of the body because the controller has gone, so that a restart is not only a
    stop. For short work on the main thread.
    """
    with _whole:
        yield


def _on_sigterm(*_: Any) -> None:
    if not _ending.is_set():
        # Not here: the main thread may be in something indivisible, and has to go on with it.
        threading.Thread(target=end_group, daemon=True).start()


def _own_group() -> None:
    # A session leader cannot and need not: its group is its own already.
    if os.getpgrp() != os.getpid():
        os.setsid()


def _quiet_stdio() -> int:
    """A private copy of stdout for the protocol; what programs and children print goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return out


def main(stdin: BinaryIO, nonce: str) -> None:
    """Run the program that stdin describes, then end the process."""
    _own_group()
    signal.signal(signal.SIGTERM, _on_sigterm)
    channel = Channel(stdin, _quiet_stdio(), nonce)
    status = 0
    try:
        channel._hello()
        threading.Thread(target=channel._beat, daemon=True).start()
        entry, argument = channel._read_program()
        threading.Thread(target=channel._listen, daemon=True).start()
        module, _, function = entry.partition(":")
        getattr(importlib.import_module(module), function)(argument, channel)
    except BaseException:
        status = 1
        channel._crash()
    channel._end()
    sys.stderr.flush()
    os._exit(status)
