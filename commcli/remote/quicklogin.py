"""A login in the fewest round trips, and with no packet that says nothing. Part of the door to asyncssh.

asyncssh takes three round trips more, each as long as the way to the node. What is done about it is behind names that
are not public. Where those are no longer so nothing breaks, and the round trips are back: tests/remote/test_distance.py
counts them.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.packet import SSHPacket, String

_SIGNED, _UNSIGNED = b"\1", b"\0"
_IGNORE, _SERVICE_ACCEPT, _EXT_INFO = 2, 6, 7
_USERAUTH = b"ssh-userauth"


def without_chaff(connection: Any) -> None:
    """To be called when TCP stands, with an SSHClientConnection.

    It would send an IGNORE before every packet, which no cipher needs but those that chain blocks (RFC 4251, section
    9.3.1): encrypted, sent, and what wakes the server up, it costs as much as what it goes before.
    """
    send = connection.send_packet

    def send_packet(kind: int, *parts: bytes, **how: Any) -> None:
        if kind != _IGNORE or "cbc" in connection.get_extra_info("send_cipher", ""):
            send(kind, *parts, **how)

    connection.send_packet = send_packet


def begin_without_leave(connection: Any) -> None:
    """To be called when TCP stands, with an SSHClientConnection.

    It would wait to be told that authentication may begin (SERVICE_ACCEPT), which no server denies. Here that is taken
    as said once the server has told what signatures it takes (EXT_INFO, RFC 8308): it does so as the key exchange
    ends, and what follows our SERVICE_REQUEST waits there in its turn. One that tells no such thing is waited for.
    """
    known = getattr(connection, "_packet_handlers", {})
    if not {_SERVICE_ACCEPT, _EXT_INFO} <= known.keys():
        return
    foreseen = False

    def extended(self: Any, kind: int, number: int, packet: SSHPacket) -> None:
        nonlocal foreseen
        known[_EXT_INFO](self, kind, number, packet)
        if getattr(self, "_next_service", None) == _USERAUTH:
            foreseen = True
            known[_SERVICE_ACCEPT](self, _SERVICE_ACCEPT, number, SSHPacket(String(_USERAUTH)))

    def accepted(self: Any, kind: int, number: int, packet: SSHPacket) -> None:
        nonlocal foreseen
        if foreseen and packet.get_remaining_payload() == String(_USERAUTH):
            foreseen = False
        else:
            known[_SERVICE_ACCEPT](self, kind, number, packet)

    connection._packet_handlers = {**known, _EXT_INFO: extended, _SERVICE_ACCEPT: accepted}


def begin_with_a_signature(connection: Any) -> None:
    """To be called as authentication begins, with an SSHClientConnection.

    It would ask which methods there are first, by one that never works, and then whether a key would do, before
    it signs with it. It asks which after all if we have no key. A signature at once is allowed (RFC 4252, section 7);
    of a key of the agent's, or in a piece of hardware, it is asked for first, since each may want a person's hand.
    """
    if getattr(connection, "_auth_methods", None) == [b"none"]:
        connection._auth_methods = [b"publickey", b"none"]
    send = getattr(connection, "send_userauth_request", None)
    if send is None:
        return

    async def send_signed(method: bytes, *words: bytes, key: Any = None, trivial: bool = True) -> None:
        pair = getattr(getattr(connection, "_auth", None), "_keypair", None)
        if method == b"publickey" and words[:1] == (_UNSIGNED,) and _is_at_hand(pair):
            words, key, trivial = (_SIGNED, *words[1:]), pair, False
        await send(method, *words, key=key, trivial=trivial)

    connection.send_userauth_request = send_signed


def _is_at_hand(pair: Any) -> bool:
    is_ours: bool = isinstance(pair, asyncssh.SSHKeyPair) and not isinstance(pair, asyncssh.SSHAgentKeyPair)
    return is_ours and not pair.algorithm.startswith(b"sk-")
