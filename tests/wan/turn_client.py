"""A TURN client on one plain socket: cheap enough that the load does not starve what it measures."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable

from commcli.relay.turn import stun

Addr = tuple[str, int]

CHANNEL = 0x4000
_UDP = bytes([17, 0, 0, 0])
_ANSWERS_WITHIN_S, _TRIES = 0.5, 20
_CHANNEL_DATA = struct.Struct("!HH")
# Linux: struct timespec of two 64-bit numbers.
_TIMESTAMP = struct.Struct("=qq")
_SO_TIMESTAMPNS = 35


class Refused(RuntimeError):
    """The relay said no to what it should grant, or nothing."""


class TurnClient:
    """One allocation with one channel. The socket is the client's from now on."""

    def __init__(self, sock: socket.socket, server: Addr, user: str, password: str) -> None:
        """Raises Refused. sock: an unconnected UDP socket."""
        self.sock = sock
        self._user, self._password = user, password
        self._credentials: list[stun.Attribute] = []
        self._key: bytes | None = None
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        sock.connect(server)
        granted = self._ask(stun.ALLOCATE, lambda _: [(stun.REQUESTED_TRANSPORT, _UDP)])
        relayed = granted.first(stun.XOR_RELAYED_ADDRESS)
        assert relayed is not None
        self.relayed = stun.unpack_address(relayed, granted.transaction)

    def bind(self, peer: Addr) -> None:
        """Send to and hear of `peer` from now on (a channel is a permission too). Raises Refused."""
        number = struct.pack("!HH", CHANNEL, 0)
        self._ask(
            stun.CHANNEL_BIND,
            lambda transaction: [
                (stun.CHANNEL_NUMBER, number),
                (stun.XOR_PEER_ADDRESS, stun.pack_address(peer, transaction)),
            ],
        )

    def send(self, payload: bytes) -> None:
        """One datagram to the bound peer (RFC 8656 s. 12.4)."""
        self.sock.send(_CHANNEL_DATA.pack(CHANNEL, len(payload)) + payload)

    def receive(self) -> list[tuple[bytes, float]]:
        """What has come from the peer: (payload, unix seconds when the kernel had it)."""
        found: list[tuple[bytes, float]] = []
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(2048, 64)
            except BlockingIOError:
                return found
            if len(data) >= 4 and data[0] & 0xC0 == 0x40:
                seconds, nanoseconds = _TIMESTAMP.unpack(ancillary[0][2])
                length = _CHANNEL_DATA.unpack_from(data)[1]
                found.append((data[4 : 4 + length], seconds + nanoseconds / 1e9))

    def close(self) -> None:
        """Give the allocation back and close the socket. Does not wait for the answer."""
        self.sock.send(self._signed(stun.REFRESH, os.urandom(12), [(stun.LIFETIME, bytes(4))]))
        self.sock.close()

    def _ask(self, method: int, attributes: Callable[[bytes], list[stun.Attribute]]) -> stun.Message:
        for _ in range(_TRIES):
            transaction = os.urandom(stun.TRANSACTION_SIZE)
            self.sock.send(self._signed(method, transaction, attributes(transaction)))
            answer = self._answer(transaction)
            if answer is not None and answer.kind == stun.SUCCESS:
                return answer
            if answer is not None:
                self._challenged(answer)
        raise Refused("no answer")

    def _answer(self, transaction: bytes) -> stun.Message | None:
        end = time.monotonic() + _ANSWERS_WITHIN_S
        while (left := end - time.monotonic()) > 0 and select.select([self.sock], (), (), left)[0]:
            data = self.sock.recv(2048)
            if data[0] & 0xC0 == 0 and data[8:20] == transaction:
                return stun.parse(data)
        return None

    def _challenged(self, message: stun.Message) -> None:
        code, reason = stun.unpack_error(message.first(stun.ERROR_CODE) or bytes(4))
        realm, nonce = message.first(stun.REALM), message.first(stun.NONCE)
        if realm is None or nonce is None or (code == 401 and self._key is not None):
            raise Refused(f"{code} {reason}")
        self._credentials = [(stun.USERNAME, self._user.encode()), (stun.REALM, realm), (stun.NONCE, nonce)]
        self._key = stun.long_term_key(self._user, realm.decode(), self._password)

    def _signed(self, method: int, transaction: bytes, attributes: list[stun.Attribute]) -> bytes:
        return stun.build(method, stun.REQUEST, transaction, [*attributes, *self._credentials], key=self._key)
