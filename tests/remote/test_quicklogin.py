"""A quick login: when authentication begins, and what is not sent."""

from __future__ import annotations

from typing import Any

import pytest
from asyncssh.packet import SSHPacket, String

from commcli.remote.quicklogin import begin_without_leave, without_chaff

IGNORE, SERVICE_ACCEPT, EXT_INFO, CHANNEL_DATA = 2, 6, 7, 94
LEAVE = String(b"ssh-userauth")


class Connection:
    """What is asked of asyncssh's: handlers by kind, and the service that was asked for and not given yet."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._next_service: bytes | None = b"ssh-userauth"
        self._packet_handlers: dict[int, Any] = {
            EXT_INFO: lambda self, kind, number, packet: self.heard.append("extensions"),
            SERVICE_ACCEPT: lambda self, kind, number, packet: self.accepted(packet.get_string()),
        }

    def accepted(self, service: bytes) -> None:
        if service != self._next_service:
            raise ValueError("unexpected")
        self._next_service = None
        self.heard.append("begun")

    def hear(self, kind: int, body: bytes) -> None:
        self._packet_handlers[kind](self, kind, 1, SSHPacket(body))


@pytest.fixture
def connection() -> Connection:
    made = Connection()
    begin_without_leave(made)
    return made


def test_it_begins_with_the_servers_extensions_and_not_once_more(connection: Connection) -> None:
    connection.hear(EXT_INFO, b"")
    connection.hear(SERVICE_ACCEPT, LEAVE)
    connection.hear(EXT_INFO, b"")  # as OpenSSH does once more, when somebody is logged in
    assert connection.heard == ["extensions", "begun", "extensions"]


def test_a_server_that_tells_none_is_waited_for(connection: Connection) -> None:
    assert connection.heard == []
    connection.hear(SERVICE_ACCEPT, LEAVE)
    assert connection.heard == ["begun"]


@pytest.mark.parametrize("unasked", [[String(b"ssh-connection")], [LEAVE, LEAVE]])
def test_leave_that_was_not_asked_for_is_an_error(connection: Connection, unasked: list[bytes]) -> None:
    connection.hear(EXT_INFO, b"")
    *before, last = unasked
    for body in before:
        connection.hear(SERVICE_ACCEPT, body)
    with pytest.raises(ValueError, match="unexpected"):
        connection.hear(SERVICE_ACCEPT, last)


def test_where_asyncssh_keeps_its_handlers_elsewhere_all_is_as_it_was() -> None:
    class Other:
        pass

    begin_without_leave(Other())


class Sender:
    """What is asked of asyncssh's connection by what it sends."""

    def __init__(self, **about: str) -> None:
        self.sent: list[tuple[int, tuple[bytes, ...]]] = []
        self._about = about

    def get_extra_info(self, name: str, default: str) -> str:
        return self._about.get(name, default)

    def send_packet(self, kind: int, *parts: bytes, handler: object = None) -> None:
        if self._about and kind > EXT_INFO:
            self.send_packet(IGNORE, b"")
        self.sent.append((kind, parts))


@pytest.mark.parametrize(
    ("cipher", "kinds"),
    [
        ("aes128-gcm@openssh.com", [CHANNEL_DATA]),
        ("chacha20-poly1305@openssh.com", [CHANNEL_DATA]),
        ("aes256-ctr", [CHANNEL_DATA]),
        ("aes256-cbc", [IGNORE, CHANNEL_DATA]),
    ],
)
def test_chaff_is_for_ciphers_that_chain_blocks(cipher: str, kinds: list[int]) -> None:
    sender = Sender(send_cipher=cipher)
    without_chaff(sender)
    sender.send_packet(CHANNEL_DATA, b"x", handler=sender)
    assert [kind for kind, _ in sender.sent] == kinds
    assert sender.sent[-1] == (CHANNEL_DATA, (b"x",))
