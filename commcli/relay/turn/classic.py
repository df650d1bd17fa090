"""Binding as RFC 3489 had it, before the magic cookie: old clients still ask so for their address.

Backward compatibility of RFC 5389 section 12.2. An answer is as long as that to any other Binding request: 32 bytes to
an IPv4 client. What only a server of two addresses can do (CHANGE-REQUEST) is not answered, since an answer from the
wrong address would tell the client a lie about its NAT.
"""

from __future__ import annotations

import struct
from typing import Optional

from commcli.relay.turn import stun
from commcli.relay.turn.auth import Client

# CHANGE-REQUEST with neither of its flags: stay as you are.
_NO_CHANGE = b"\0\3\0\4\0\0\0\0"
_REQUEST, _RESPONSE = 0x0001, 0x0101
_TRANSACTION_AT = 4  # 16 bytes: the cookie has its place in it


def answer(data: bytes, client: Client) -> Optional[bytes]:
    """The reply to a Binding request without the magic cookie; None if `data` is no such thing."""
    if len(data) < stun.HEADER_SIZE or data[stun.HEADER_SIZE :] not in (b"", _NO_CHANGE):
        return None
    kind, length = struct.unpack_from("!HH", data)
    if kind != _REQUEST or length != len(data) - stun.HEADER_SIZE:
        return None
    address = stun.pack_address(client[:2])
    transaction = data[_TRANSACTION_AT : stun.HEADER_SIZE]
    return (
        struct.pack("!HH", _RESPONSE, 4 + len(address))
        + transaction
        + struct.pack("!HH", stun.MAPPED_ADDRESS, len(address))
        + address
    )
