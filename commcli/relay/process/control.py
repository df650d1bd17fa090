"""The control socket (Unix, JSON lines) and the metrics port (HTTP): small answers to local readers.

The client half, `ask`, is what `relay.pyz ctl` runs on the node at the far end of SSH.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from commcli.relay.loop import Loop

MAX_REQUEST = 64 << 10
MAX_CONNECTIONS = 32

Answer = Callable[[bytes], Optional[bytes]]


class Listener:
    """Accepts stream connections and lets `answer` turn what was read into a reply.

    `answer(received)` gives None while the request is incomplete. Each connection carries one request: the
    clients are local tools, and the simplest exchange has the fewest states to abuse.
    """

    def __init__(self, loop: Loop, sock: socket.socket, answer: Answer) -> None:
        self._loop, self._sock, self._answer = loop, sock, answer
        self._open: Dict[socket.socket, "_Connection"] = {}
        # Without a descriptor nobody can be accepted, and who waits would wake the loop for ever: this one is given up
        # to turn him away.
        self._spare: Optional[int] = None
        self._take_spare()
        sock.setblocking(False)
        sock.listen(16)
        loop.add(sock, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return
        if len(self._open) >= MAX_CONNECTIONS:
            # The oldest gives way: a client that hangs must not lock the operator out.
            self._forget(next(iter(self._open)))
        sock.setblocking(False)
        self._open[sock] = _Connection(self, sock)
        self._loop.add(sock, self._open[sock].ready)

    def _turn_away(self) -> None:
        self._give_spare()
        with contextlib.suppress(OSError):
            self._sock.accept()[0].close()
        self._take_spare()

    def _take_spare(self) -> None:
        with contextlib.suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _give_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _forget(self, sock: socket.socket) -> None:
        del self._open[sock]
        self._loop.remove(sock)
        sock.close()

    def close(self) -> None:
        """Close the listener and every connection."""
        for sock in list(self._open):
            self._forget(sock)
        self._loop.remove(self._sock)
        self._sock.close()
        self._give_spare()


class _Connection:
    def __init__(self, listener: Listener, sock: socket.socket) -> None:
        self._listener, self._sock = listener, sock
        self._received = b""
        self._reply: Optional[memoryview] = None

    def ready(self, _events: int) -> None:
        keep = False
        try:
            keep = self._write() if self._reply is not None else self._read()
        except BlockingIOError:
            keep = True
        except OSError:
            pass
        finally:
            # Also after a bug of ours, which the loop tells: who asked must not wait for an answer that never comes.
            if not keep:
                self._listener._forget(self._sock)

    def _read(self) -> bool:
        chunk = self._sock.recv(MAX_REQUEST)
        self._received += chunk
        if not chunk or len(self._received) > MAX_REQUEST:
            return False
        reply = self._listener._answer(self._received)
        if reply is None:
            return True
        self._reply = memoryview(reply)
        self._listener._loop.change(self._sock, select.EPOLLOUT)
        return True

    def _write(self) -> bool:
        assert self._reply is not None
        self._reply = self._reply[self._sock.send(self._reply) :]
        return bool(self._reply)


def bind_unix(path: Path) -> socket.socket:
    """A bound Unix socket, 0600; a stale one is replaced, anything else is not. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _at_folder(path, sock.bind)
    finally:
        os.umask(before)
    return sock


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens at. Raises OSError when it is something else, or in use."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            _at_folder(path, sock.connect)
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full, so somebody has it
    raise OSError(errno.EADDRINUSE, "another relay answers there")


def ask(path: Path, request: Dict[str, Any], timeout_s: float = 10.0) -> Dict[str, Any]:
    """One request and its answer. Raises OSError (nobody listens, timeout) or ValueError (no JSON)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        _at_folder(path, sock.connect)
        sock.sendall(json.dumps(request).encode() + b"\n")
        received = b""
        while chunk := sock.recv(1 << 16):
            received += chunk
    answer = json.loads(received)
    if not isinstance(answer, dict):
        raise ValueError("the relay's answer is no object")
    return answer


def _at_folder(path: Path, act: Callable[[str], None]) -> None:
    # A Unix address holds 107 bytes, fewer than many folders' paths; /proc/self/fd shortens any path.
    folder = os.open(str(path.parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def json_answers(commands: Callable[[Dict[str, Any]], Dict[str, Any]]) -> Answer:
    """Answers to JSON lines; a bad request gets {"ok": false, "error": ...}."""

    def answer(received: bytes) -> Optional[bytes]:
        if b"\n" not in received:
            return None
        try:
            request = json.loads(received.split(b"\n", 1)[0])
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            reply = commands(request)
        except RecursionError:
            reply = {"ok": False, "error": "nested too deeply"}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reply = {"ok": False, "error": str(error)}
        return json.dumps(reply).encode() + b"\n"

    return answer


def http_answers(page: Callable[[], str]) -> Answer:
    """`GET /metrics` and nothing else (HTTP/1.0: one exchange a connection)."""

    def answer(received: bytes) -> Optional[bytes]:
        if b"\r\n\r\n" not in received:
            return None
        if received.startswith(b"GET /metrics "):
            status, body = b"200 OK", page().encode()
        else:
            status, body = b"404 Not Found", b"only GET /metrics\n"
        head = b"HTTP/1.0 %s\r\nContent-Type: text/plain; version=0.0.4\r\n" % status
        return head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body

    return answer
