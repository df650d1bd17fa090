"""A TURN client as small as a load generator wants it: an allocation and one channel, then raw sockets do the rest."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from commcli.relay.turn import stun
from tests.bench import rivals
from tests.relay.serving import ADDRESS

Addr = tuple[str, int]

CHANNEL = 0x4000
_UDP = bytes([17, 0, 0, 0])
ANSWERS_WITHIN_S, TRIES = 0.5, 8


class Refused(RuntimeError):
    """The relay said no to what it should grant."""


class Setup:
    """Allocate and bind CHANNEL to `peer`, as a value machine: send `request`, hand in what comes, until `bound`."""

    def __init__(self, peer: Addr) -> None:
        self.relayed: Addr | None = None
        self.bound = False
        self._peer = peer
        self._credentials: list[stun.Attribute] = []
        self._key: bytes | None = None
        self._method, self._attributes = stun.ALLOCATE, [(stun.REQUESTED_TRANSPORT, _UDP)]
        self.request = self._signed()

    def answer(self, data: bytes) -> bool:
        """Take a datagram from the relay; True if there is another `request` to send. Raises Refused."""
        message = stun.parse(data)
        if message.transaction != self.request[8:20]:
            return False
        if message.kind == stun.ERROR:
            self._challenged(message)
        elif self._method == stun.ALLOCATE:
            value = message.first(stun.XOR_RELAYED_ADDRESS)
            assert value is not None
            self.relayed = stun.unpack_address(value, message.transaction)
            self._method = stun.CHANNEL_BIND
        else:
            self.bound = True
            return False
        self.request = self._signed()
        return True

    def _challenged(self, message: stun.Message) -> None:
        code, reason = stun.unpack_error(message.first(stun.ERROR_CODE) or b"\0\0\0\0")
        realm, nonce = message.first(stun.REALM), message.first(stun.NONCE)
        if realm is None or nonce is None or (code == 401 and self._key is not None):
            raise Refused(f"{code} {reason}")
        self._credentials = [
            (stun.USERNAME, rivals.USER.encode()),
            (stun.REALM, realm),
            (stun.NONCE, nonce),
        ]
        self._key = stun.long_term_key(rivals.USER, realm.decode(), rivals.PASSWORD)

    def _signed(self) -> bytes:
        transaction = os.urandom(stun.TRANSACTION_SIZE)
        attributes = self._attributes
        if self._method == stun.CHANNEL_BIND:
            attributes = [
                (stun.CHANNEL_NUMBER, struct.pack("!HH", CHANNEL, 0)),
                (stun.XOR_PEER_ADDRESS, stun.pack_address(self._peer, transaction)),
            ]
        return stun.build(
            self._method, stun.REQUEST, transaction, [*attributes, *self._credentials], key=self._key
        )


def udp(ip: str = ADDRESS, port: int = 0) -> socket.socket:
    """A bound UDP socket with room for a second of load."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((ip, port))
    return sock


def connect(client: socket.socket, server: Addr, peer: Addr) -> Addr:
    """Connect `client` to the relay, with an allocation and CHANNEL to `peer`; the relayed address."""
    client.connect(server)
    client.settimeout(ANSWERS_WITHIN_S)
    setup = Setup(peer)
    for _ in range(TRIES):
        client.send(setup.request)
        with contextlib.suppress(TimeoutError):
            setup.answer(client.recv(2048))
        if setup.bound and setup.relayed is not None:
            return setup.relayed
    raise Refused("no answer")


def channel_data(payload: bytes) -> bytes:
    """The payload as ChannelData on CHANNEL (RFC 8656 section 12.4); over UDP it needs no padding."""
    return struct.pack("!HH", CHANNEL, len(payload)) + payload
