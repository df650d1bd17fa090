"""What an authenticated request asks for, read from its attributes; a wish that can not be granted is `Rejected`."""

from __future__ import annotations

from typing import Literal, NamedTuple, Optional, Sequence

from commcli.relay.turn import stun
from commcli.relay.turn.auth import Client, Login
from commcli.relay.turn.stun import Attribute, Message

UDP = 17
TOKEN_BYTES = 8  # RFC 8656 section 18.10
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
        stun.USERHASH,
        stun.PASSWORD_ALGORITHM,
        # Known, with nothing to say in a request: to be passed over (RFC 8489 section 6.3).
        stun.MAPPED_ADDRESS,
        stun.XOR_MAPPED_ADDRESS,
        stun.XOR_RELAYED_ADDRESS,
        stun.ERROR_CODE,
        stun.UNKNOWN_ATTRIBUTES,
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
    client: Client
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


class Wish(NamedTuple):
    """What an Allocate wants of its relayed address.

    `kind`: any port, an even one, or an even one with the next reserved. `additional`: a second family, 0 for none.
    `token`: of a reserved port, which is then all that is wanted.
    """

    family: int
    kind: Literal["any", "even", "pair"] = "any"
    additional: int = 0
    token: Optional[bytes] = None


def relayed_address(message: Message, families: Sequence[int]) -> Wish:
    """REQUESTED- and ADDITIONAL-ADDRESS-FAMILY, EVEN-PORT and RESERVATION-TOKEN, in the order of RFC 8656 section 7.2.

    `families` are those that we can relay in; of none of them is 440. Without a wish it is IPv4, where we have it.
    """
    even_port = message.first(stun.EVEN_PORT)
    token = message.first(stun.RESERVATION_TOKEN)
    if token is not None:
        return _reserved(message, token)
    wanted = family(message, stun.REQUESTED_ADDRESS_FAMILY)
    if (wanted or stun.IPV4) not in families:
        raise Rejected(440)
    additional = family(message, stun.ADDITIONAL_ADDRESS_FAMILY) or family(
        message, stun.DRAFT_ADDITIONAL_ADDRESS_FAMILY
    )
    if (wanted and additional) or additional == stun.IPV4:
        raise Rejected(400)
    if even_port is not None and len(even_port) != 1:
        raise Rejected(400)
    kind: Literal["any", "even", "pair"] = "any"
    if even_port is not None:
        kind = "pair" if even_port[0] & 0x80 else "even"
    if kind == "pair" and additional:
        raise Rejected(400)
    return Wish(wanted or stun.IPV4, kind, additional)


def _reserved(message: Message, token: bytes) -> Wish:
    """A token says all that there is to say about the address."""
    others = (
        stun.EVEN_PORT,
        stun.REQUESTED_ADDRESS_FAMILY,
        stun.ADDITIONAL_ADDRESS_FAMILY,
        stun.DRAFT_ADDITIONAL_ADDRESS_FAMILY,
    )
    if len(token) != TOKEN_BYTES or any(message.first(kind) is not None for kind in others):
        raise Rejected(400)
    return Wish(0, token=token)
