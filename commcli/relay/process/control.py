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
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from commcli.relay.loop import Loop

MAX_REQUEST = 64 << 10
MAX_CONNECTIONS = 32
ANSWER_S = 10.0
# A new program reads its table and all else before it asks for the calls (upgrade.py). What it waits for those over
# TLS to end, if it is to wait for them, comes on top.
UPGRADE_S, WAIT_S = 90.0, 600.0


class Later:
    """An answer that is not known yet: whoever asked waits until somebody `settle`s it.

    `left`: he waits no more.
    """

    def __init__(self) -> None:
        self.left = False
        self._answer: Optional[bytes] = None
        self._told: Optional[Callable[[bytes], None]] = None

    def settle(self, answer: Dict[str, Any]) -> None:
        """This is the answer."""
        self._answer = _packed(answer)
        if self._told is not None:
            self._told(self._answer)

    def then(self, told: Callable[[bytes], None]) -> None:
        """Call `told(answer)` when there is one, which may be now."""
        self._told = told
        if self._answer is not None:
            told(self._answer)


class Text(NamedTuple):
    """An answer that is JSON already: of what is long, so that the loop is not held up by writing it again."""

    json: str


Reply = Union[Dict[str, Any], Text, Later]
Answer = Callable[[bytes], Union[bytes, Later, None]]


class Listener:
    """Accepts stream connections and lets `answer` turn what was read into a reply.

    `answer(received)` gives None while the request is incomplete, and Later if the reply is not known yet. Each
    connection carries one request: the clients are local tools, and the simplest exchange has the fewest states to
    abuse.
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
        self._open_one(sock, b"")

    def _open_one(self, sock: socket.socket, received: bytes) -> None:
        sock.setblocking(False)
        self._open[sock] = _Connection(self, sock, received)
        self._loop.add(sock, self._open[sock].ready)

    def kept(self) -> List[Tuple[socket.socket, bytes]]:
        """Connections whose request is not complete yet, with what came of it: for another process."""
        return [(row.sock, row.received) for row in self._open.values() if row.asks]

    def take(self, sock: socket.socket, received: bytes) -> None:
        """Go on with a connection that another process `kept`."""
        self._open_one(sock, received)

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
        self._open.pop(sock).leave()
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
    def __init__(self, listener: Listener, sock: socket.socket, received: bytes) -> None:
        self.sock, self.received = sock, received
        self._listener = listener
        self._reply: Union[memoryview, Later, None] = None

    @property
    def asks(self) -> bool:
        """Is its request still to come, or to be completed?"""
        return self._reply is None

    def ready(self, _events: int) -> None:
        keep = False
        try:
            keep = self._go_on()
        except BlockingIOError:
            keep = True
        except OSError:
            pass
        finally:
            # Also after a bug of ours, which the loop tells: who asked must not wait for an answer that never comes.
            if not keep:
                self._listener._forget(self.sock)

    def _go_on(self) -> bool:
        if isinstance(self._reply, Later):
            return False  # nothing but his end is waited for
        return self._write(self._reply) if self._reply is not None else self._read()

    def _read(self) -> bool:
        chunk = self.sock.recv(MAX_REQUEST)
        self.received += chunk
        if not chunk or len(self.received) > MAX_REQUEST:
            return False
        reply = self._listener._answer(self.received)
        if reply is None:
            return True
        if isinstance(reply, Later):
            self._reply = reply
            self._listener._loop.change(self.sock, 0)
            reply.then(self._answer)
        else:
            self._reply = memoryview(reply)
            self._listener._loop.change(self.sock, select.EPOLLOUT)
        return True

    def leave(self) -> None:
        """It is about to be closed."""
        if isinstance(self._reply, Later):
            self._reply.left = True

    def _answer(self, reply: bytes) -> None:
        if isinstance(self._reply, Later) and not self._reply.left:
            self._reply = memoryview(reply)
            self._listener._loop.change(self.sock, select.EPOLLOUT)
            self.ready(select.EPOLLOUT)  # at once: the loop may be at its end

    def _write(self, reply: memoryview) -> bool:
        self._reply = reply[self.sock.send(reply) :]
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


def ask(path: Path, request: Dict[str, Any], timeout_s: Optional[float] = None) -> Dict[str, Any]:
    """One request and its answer. Raises OSError (nobody listens, timeout) or ValueError (no JSON)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience_s(request) if timeout_s is None else timeout_s)
        _at_folder(path, sock.connect)
        sock.sendall(json.dumps(request).encode() + b"\n")
        received = []
        while chunk := sock.recv(1 << 16):
            received.append(chunk)
    answer = json.loads(b"".join(received))
    if not isinstance(answer, dict):
        raise ValueError("the relay's answer is no object")
    return answer


def patience_s(request: Dict[str, Any]) -> float:
    """How long the answer to this request may take."""
    if request.get("cmd") != "upgrade":
        return ANSWER_S
    wait_s = request.get("wait_s", WAIT_S) if request.get("tls") == "wait" else 0.0
    return UPGRADE_S + (wait_s if isinstance(wait_s, (int, float)) else 0.0)


def _at_folder(path: Path, act: Callable[[str], None]) -> None:
    # A Unix address holds 107 bytes, fewer than many folders' paths; /proc/self/fd shortens any path.
    folder = os.open(str(path.parent), os.O_RDONLY | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def json_answers(commands: Callable[[Dict[str, Any]], Reply]) -> Answer:
    """Answers to JSON lines; a bad request gets {"ok": false, "error": ...}."""

    def answer(received: bytes) -> Union[bytes, Later, None]:
        if b"\n" not in received:
            return None
        try:
            request = json.loads(received.split(b"\n", 1)[0])
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            reply: Reply = commands(request)
        except RecursionError:
            reply = {"ok": False, "error": "nested too deeply"}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            reply = {"ok": False, "error": str(error)}
        return reply if isinstance(reply, Later) else _packed(reply)

    return answer


def _packed(reply: Union[Dict[str, Any], Text]) -> bytes:
    return (reply.json if isinstance(reply, Text) else json.dumps(reply)).encode() + b"\n"


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
