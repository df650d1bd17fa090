"""What an authenticated request asks for, read from its attributes; a wish that can not be granted is `Rejected`."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

from commcli.relay import stun
from commcli.relay.auth import Login
from commcli.relay.stun import Addr, Attribute, Message

UDP = 17
# Comprehension-required attributes that mean something to us; any other one is 420.
KNOWN = frozenset(
    {
        stun.USERNAME,
        stun.CHANNEL_NUMBER,
        stun.LIFETIME,
        stun.XOR_PEER_ADDRESS,
        stun.DATA,
        stun.DONT_FRAGMENT,
        stun.REALM,
        stun.NONCE,
        stun.REQUESTED_ADDRESS_FAMILY,
        stun.EVEN_PORT,
        stun.REQUESTED_TRANSPORT,
        stun.RESERVATION_TOKEN,
    }
)


class Rejected(Exception):
    """A request ends with this error code; further attributes go along with it."""

    def __init__(self, code: int, *attributes: Attribute) -> None:
        super().__init__(code)
        self.code = code
        self.attributes = attributes


class Request(NamedTuple):
    """All that the handler of an authenticated request needs. `now`: monotonic seconds."""

    message: Message
    client: Addr
    login: Login
    now: float


def refuse_unknown(message: Message) -> None:
    """420 with the list of comprehension-required attributes that we do not know (RFC 8489 section 6.3.1)."""
    unknown = message.unknown(KNOWN)
    if unknown:
        raise Rejected(420, (stun.UNKNOWN_ATTRIBUTES, stun.pack_unknown(unknown)))


def check_transport(message: Message) -> None:
    """REQUESTED-TRANSPORT must be there and UDP (RFC 8656 section 7.2)."""
    value = message.first(stun.REQUESTED_TRANSPORT)
    if value is None:
        raise Rejected(400)
    if stun.unpack_u32(value) >> 24 != UDP:
        raise Rejected(442)


def lifetime_s(message: Message, default_s: int, max_s: int) -> int:
    """The lifetime to grant: at least the default, at most our maximum (RFC 8656 section 7.2)."""
    value = message.first(stun.LIFETIME)
    wanted = 0 if value is None else stun.unpack_u32(value)
    return max(default_s, min(wanted, max_s))


def family(message: Message, kind: int) -> int:
    """The family in a REQUESTED- or ADDITIONAL-ADDRESS-FAMILY attribute; 0 if there is none. 440 if unknown."""
    value = message.first(kind)
    if value is None:
        return 0
    number = stun.unpack_u32(value) >> 24
    if number not in (stun.IPV4, stun.IPV6):
        raise Rejected(440)
    return number


def relayed_address(message: Message, relay_family: int) -> Tuple[bool, List[Attribute]]:
    """What an Allocate wants of its relayed address: (an even port?, attributes to add to the success).

    REQUESTED- and ADDITIONAL-ADDRESS-FAMILY, EVEN-PORT and RESERVATION-TOKEN, in the order of RFC 8656 section 7.2.
    """
    wanted = family(message, stun.REQUESTED_ADDRESS_FAMILY)
    additional = family(message, stun.ADDITIONAL_ADDRESS_FAMILY)
    even_port = message.first(stun.EVEN_PORT)
    token = message.first(stun.RESERVATION_TOKEN)
    if token is not None and (even_port is not None or wanted or additional):
        raise Rejected(400)
    if (wanted and additional) or additional == stun.IPV4:
        raise Rejected(400)
    if even_port is not None and len(even_port) != 1:
        raise Rejected(400)
    pair = even_port is not None and bool(even_port[0] & 0x80)
    if pair and additional:
        raise Rejected(400)
    if (wanted or stun.IPV4) != relay_family:
        raise Rejected(440)
    if pair or token is not None:
        raise Rejected(508)  # no next port is ever reserved: WebRTC bundles RTP and RTCP
    # One family is better than none: the client is told which one it did not get.
    failed = [(stun.ADDRESS_ERROR_CODE, bytes([additional, 0, 4, 40]))] if additional else []
    return even_port is not None, failed
