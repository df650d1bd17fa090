"""The messages between two processes of one relay, and the answers of the control socket that come later."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from commcli.relay.process.control import Later, Listener, json_answers, patience_s
from commcli.relay.process.handover import MOST_DESCRIPTORS, PIECE_BYTES, Channel, HandoverFailed
from tests.relay.stream_world import Poll


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = (Channel(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    one.within(10)
    other.within(10)
    yield one, other
    one.close()
    other.close()


def test_a_message_with_descriptors(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    reading, writing = os.pipe()
    one.send("offer", [writing], schema=1, names=["stderr"])
    os.close(writing)
    told = other.receive("offer", "rest")
    assert (told.word, told.body) == ("offer", {"schema": 1, "names": ["stderr"]})
    [theirs] = told.descriptors
    assert not os.get_inheritable(theirs)
    os.write(theirs, b"said")
    assert os.read(reading, 10) == b"said"
    os.close(theirs)
    os.close(reading)


def test_more_than_one_datagram_can_hold(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(MOST_DESCRIPTORS + 7)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    text = "x" * (PIECE_BYTES * 3 + 1)
    teller = threading.Thread(target=lambda: one.send("state", [sock.fileno() for sock in socks], text=text))
    teller.start()
    told = other.receive("state")
    teller.join()
    found = [socket.socket(fileno=descriptor) for descriptor in told.descriptors]
    assert told.body["text"] == text
    assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in socks]
    for sock in (*socks, *found):
        sock.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b".nonsense", "no word of ready"),
        (b".[1]", "no word of ready"),
        (b'.{"no": "word"}', "no word of ready"),
        (b'.{"word": "go"}', "'go' came"),
        (b'.{"word": "refused", "reason": "out of paper"}', "^out of paper$"),
    ],
)
def test_what_makes_no_sense(ends: tuple[Channel, Channel], said: bytes, why: str) -> None:
    one, other = ends
    reading, writing = os.pipe()
    socket.send_fds(one.sock, [said], [writing])
    os.close(writing)
    with pytest.raises(HandoverFailed, match=why):
        other.receive("ready")
    assert os.read(reading, 1) == b""  # its descriptors are closed
    os.close(reading)


def test_who_is_gone_or_silent(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.within(0.0)
    with pytest.raises(HandoverFailed, match="took too long"):
        other.receive("ready")
    other.within(10)
    one.close()
    with pytest.raises(HandoverFailed, match="has ended"):
        other.receive("ready")
    with pytest.raises(HandoverFailed, match="could not be sent"):
        other.send("go")


# --- answers that come later ---------------------------------------------------------------------------------------


class _Desk:
    """A control socket whose answers a test gives when it likes."""

    def __init__(self) -> None:
        self.poll, self.later = Poll(), Later()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind("")  # a name of the kernel's choice
        self.listener = Listener(self.poll, self.sock, json_answers(lambda _: self.later))  # type: ignore[arg-type]
        self.asker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.asker.connect(self.sock.getsockname())
        self.asker.settimeout(10)

    def turns(self) -> None:
        while self.poll.turn():
            pass

    def close(self) -> None:
        self.listener.close()
        self.asker.close()


@pytest.fixture
def desk() -> Iterator[_Desk]:
    made = _Desk()
    yield made
    made.close()


def test_an_answer_that_comes_later(desk: _Desk) -> None:
    desk.asker.sendall(b'{"cmd": "upgrade"}\n')
    desk.turns()
    assert select.select([desk.asker], [], [], 0)[0] == [] and not desk.later.left
    desk.later.settle({"ok": True})
    assert desk.asker.recv(100) == b'{"ok": true}\n' and desk.asker.recv(100) == b""


def test_an_answer_that_is_there_at_once(desk: _Desk) -> None:
    desk.later.settle({"ok": True})
    desk.asker.sendall(b"{}\n")
    desk.turns()
    assert desk.asker.recv(100) == b'{"ok": true}\n'


def test_who_waits_no_more_is_told_of(desk: _Desk) -> None:
    desk.asker.sendall(b"{}\n")
    desk.turns()
    desk.asker.close()
    desk.turns()
    assert desk.later.left
    desk.later.settle({"ok": True})  # to nobody


def test_only_whose_request_is_not_complete_goes_over(desk: _Desk) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(desk.sock.getsockname())
        other.sendall(b'{"cmd"')
        desk.asker.sendall(b"{}\n")
        desk.turns()
        [(_, received)] = desk.listener.kept()
    assert received == b'{"cmd"'


def test_patience() -> None:
    assert patience_s({"cmd": "status"}) == 10
    assert patience_s({"cmd": "upgrade"}) == patience_s({"cmd": "upgrade", "wait_s": 5}) == 90
    assert patience_s({"cmd": "upgrade", "tls": "wait"}) == 690
    assert patience_s({"cmd": "upgrade", "tls": "wait", "wait_s": 5}) == 95
