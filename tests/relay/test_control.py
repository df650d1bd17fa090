from __future__ import annotations

import json
import os
import resource
import select
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.loop import Loop
from commcli.relay.process import control


class _Served:
    """A loop in a thread with one control listener that echoes requests, and one HTTP listener."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.loop = Loop(lambda _now: None)
        unix = control.bind_unix(self.path)
        tcp = socket.socket()
        tcp.bind(("127.0.0.1", 0))
        self.port: int = tcp.getsockname()[1]
        self.listeners = [
            control.Listener(self.loop, unix, control.json_answers(self._answer)),
            control.Listener(self.loop, tcp, control.http_answers(lambda: "up 1\n")),
        ]
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    @staticmethod
    def _answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["cmd"] == "big":
            return {"ok": True, "data": "x" * 3_000_000}
        if request["cmd"] == "float":
            return {"ok": True, "since": float(request["since"])}
        return {"ok": True, "echo": request}

    def stop(self) -> None:
        self.loop.stop()
        self.thread.join()
        for listener in self.listeners:
            listener.close()
        self.loop.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[_Served]:
    # Deeper than a Unix address can hold, as test and lab folders are.
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    running = _Served(folder)
    yield running
    running.stop()


def _raw(path: Path, sent: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        folder = os.open(path.parent, os.O_RDONLY)
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
        sock.sendall(sent)
        received = b""
        try:
            while chunk := sock.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def test_question_and_answer_also_a_large_one(served: _Served) -> None:
    assert control.ask(served.path, {"cmd": "status"}) == {"ok": True, "echo": {"cmd": "status"}}
    assert len(control.ask(served.path, {"cmd": "big"})["data"]) == 3_000_000


def test_the_socket_is_for_its_owner_only(served: _Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[1]\n",
        b'{"no": "cmd"}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"cmd": "float", "since": 1' + b"0" * 400 + b"}\n",
    ],
    ids=["nonsense", "list", "no command", "no text", "deep", "huge number"],
)
def test_a_bad_request_is_answered_not_fatal(served: _Served, line: bytes) -> None:
    assert json.loads(_raw(served.path, line))["ok"] is False
    assert control.ask(served.path, {"cmd": "status"})["ok"] is True


def test_an_endless_request_is_cut_off(served: _Served) -> None:
    assert _raw(served.path, b"x" * (control.MAX_REQUEST + 1)) == b""
    assert control.ask(served.path, {"cmd": "status"})["ok"] is True


def test_hanging_clients_do_not_lock_the_operator_out(served: _Served) -> None:
    hanging = []
    for _ in range(control.MAX_CONNECTIONS * 2):
        sock = socket.create_connection(("127.0.0.1", served.port))
        sock.sendall(b"GET /met")
        hanging.append(sock)
    assert _http(served.port, "/metrics").endswith(b"up 1\n")
    for sock in hanging:
        sock.close()


def _http(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
        return received


def test_metrics_and_nothing_else(served: _Served) -> None:
    assert b"200 OK" in _http(served.port, "/metrics")
    assert b"404" in _http(served.port, "/etc/passwd")


def test_what_stands_in_the_sockets_place_is_not_removed(tmp_path: Path) -> None:
    precious = tmp_path / "users"
    precious.write_text("a:b")
    with pytest.raises(OSError, match="no socket"):
        control.bind_unix(precious)
    assert precious.read_text() == "a:b"


def test_a_live_relays_socket_is_not_taken_and_a_stale_one_is(served: _Served, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another relay answers there"):
        control.bind_unix(served.path)
    assert control.ask(served.path, {"cmd": "status"})["ok"] is True
    control.bind_unix(tmp_path / "stale").close()
    control.bind_unix(tmp_path / "stale").close()


def test_without_descriptors_nobody_waits_and_nobody_spins(tmp_path: Path) -> None:
    loop = Loop(lambda _now: None)
    listener = control.Listener(
        loop, control.bind_unix(tmp_path / "control.sock"), control.json_answers(dict)
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = socket.socket(socket.AF_UNIX)
    control._at_folder(tmp_path / "control.sock", waiting.connect)
    waiting.settimeout(5)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        listener._accept(select.EPOLLIN)
        assert waiting.recv(1) == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.close()
    assert listener._spare is not None
    assert select.select([listener._sock], [], [], 0)[0] == []
    listener.close()
    loop.close()


def test_a_bug_in_an_answer_leaves_nobody_waiting(tmp_path: Path) -> None:
    def answer(_request: dict[str, Any]) -> dict[str, Any]:
        raise AttributeError("nobody thought of this")

    told: list[Exception] = []
    loop = Loop(lambda _now: None, told.append)
    listener = control.Listener(
        loop, control.bind_unix(tmp_path / "control.sock"), control.json_answers(answer)
    )
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        assert _raw(tmp_path / "control.sock", b'{"cmd": "status"}\n') == b""
    finally:
        loop.stop()
        thread.join()
        listener.close()
        loop.close()
    assert [str(error) for error in told] == ["nobody thought of this"]


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        control.ask(tmp_path / "control.sock", {"cmd": "status"})
