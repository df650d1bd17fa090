"""One allocation: its relayed address, its permissions and its channels (RFC 8656 sections 3, 9 and 12)."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from commcli.relay.turn.auth import STREAM_CLIENT, Client, road_of
from commcli.relay.turn.limits import Bucket
from commcli.relay.turn.road import Road
from commcli.relay.turn.stun import IPV4, IPV6, Addr

PERMISSION_LIFETIME_S = 300.0  # RFC 8656 section 9: fixed, not negotiable
CHANNEL_LIFETIME_S = 600.0  # RFC 8656 section 12
# RFC 8656 section 12 ends the range at 0x4FFF, its predecessor at 0x7FFF; clients of the older one, coturn's among
# them, pick from all of it. Every one of these numbers still tells ChannelData from STUN, so they may.
CHANNEL_LOW, CHANNEL_HIGH = 0x4000, 0x7FFF
# A client needs a permission for each candidate of its peers: tens. More would be a table that a client can grow.
MAX_PERMISSIONS = 256
MAX_CHANNELS = 256
# The last retransmission of an Allocate comes 39.5 s after the first (RFC 8489 section 6.2.1).
RETRANSMITTED_S = 60.0


class SessionRate(NamedTuple):
    """What one allocation may carry, each way."""

    from_client: Bucket
    to_client: Bucket


def transport_of(client: Client) -> str:
    """udp, tcp or tls."""
    return client[2] if len(client) == STREAM_CLIENT else "udp"


def family_of(ip: str) -> int:
    """The family of an address in text, as STUN numbers it."""
    return IPV6 if ":" in ip else IPV4


class Allocation:
    """State of one 5-tuple. The tables are plain dictionaries: the data path reads them directly.

    `relays`: its relayed transport addresses, one a family; `relay` is the first. `reserved`: the token of the
    next port, which is held for whoever shows it (RFC 8656 section 7.2). `rate`: what its packets are held to.

    `permissions`: peer IP -> expiry. `channels`: number -> (peer, expiry); `numbers`: peer -> number, its inverse.
    Expiries are monotonic seconds; an entry that is past its own counts as absent, whether it is still there or not.
    `in` is from the client towards peers, `out` is towards the client; bytes are payload, without headers.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "channels",
        "client",
        "expires",
        "made",
        "made_by",
        "numbers",
        "packets_in",
        "packets_out",
        "permissions",
        "rate",
        "relay",
        "relays",
        "reply",
        "reserved",
        "road",
        "streamed",
        "transport",
        "user",
        "username",
    )

    def __init__(
        self,
        client: Client,
        relays: Sequence[Addr],
        username: str,
        user: str,
        road: Road,
        made: float,
        made_by: bytes,
    ) -> None:
        self.client = client
        self.transport: str = transport_of(client)
        self.streamed = self.transport != "udp"
        self.relays = tuple(relays)
        self.relay = self.relays[0]
        self.reserved: Optional[bytes] = None
        self.rate: Optional[SessionRate] = None
        self.username = username
        self.user = user  # the name that quotas count
        self.road = road  # how its packets travel
        self.made = made
        self.made_by = made_by  # transaction id of the Allocate, for its retransmissions
        self.reply = b""  # what it was answered
        self.expires = made
        self.permissions: Dict[str, float] = {}
        self.channels: Dict[int, Tuple[Addr, float]] = {}
        self.numbers: Dict[Addr, int] = {}
        self.bytes_in = self.bytes_out = self.packets_in = self.packets_out = 0

    def kept(self, now: float) -> Dict[str, Any]:
        """All of it but its figures for another process (JSON); times are seconds that are left, or gone, at `now`."""
        young = now - self.made < RETRANSMITTED_S
        return {
            "client": self.client,
            "relays": self.relays,
            "username": self.username,
            "user": self.user,
            "direct": self.road.direct,
            "age_s": now - self.made,
            "left_s": self.expires - now,
            "made_by": self.made_by.hex() if young else "",
            "reply": self.reply.hex() if young else "",
            "reserved": None if self.reserved is None else self.reserved.hex(),
            "permissions": [(ip, expires - now) for ip, expires in self.permissions.items()],
            "channels": [(number, *peer, expires - now) for number, (peer, expires) in self.channels.items()],
        }

    def mark(self) -> object:
        """Equal to an earlier one as long as `kept` would say the same, but for the time that has passed."""
        return self.made, self.expires, self.relays, dict(self.permissions), dict(self.channels)

    def figures(self, now: float) -> List[Any]:
        """Its client, what it carried, and what its rate lets through at once: for `take_figures` (JSON)."""
        tokens = None if self.rate is None else [bucket.kept(now) for bucket in self.rate]
        carried = self.packets_in, self.bytes_in, self.packets_out, self.bytes_out
        return [self.client, *carried, tokens]

    def take_figures(self, figures: Sequence[Any], now: float) -> None:
        """Go on with the `figures` of another process. Raises ValueError or TypeError."""
        _, self.packets_in, self.bytes_in, self.packets_out, self.bytes_out, tokens = figures
        if self.rate is not None and tokens is not None:
            for bucket, left in zip(self.rate, tokens):
                bucket.refill(left, now)

    @classmethod
    def taken(cls, kept: Mapping[str, Any], now: float) -> Allocation:
        """The allocation that another process `kept`, but for its rate. Raises ValueError, KeyError or TypeError."""
        relays = [(str(ip), int(port)) for ip, port in kept["relays"]]
        found = cls(
            client=tuple(kept["client"]),
            relays=relays,
            username=kept["username"],
            user=kept["user"],
            road=road_of(kept["username"])._replace(direct=kept["direct"]),
            made=now - kept["age_s"],
            made_by=bytes.fromhex(kept["made_by"]),
        )
        found.expires = now + kept["left_s"]
        found.reply = bytes.fromhex(kept["reply"])
        found.reserved = None if kept["reserved"] is None else bytes.fromhex(kept["reserved"])
        found.permissions = {ip: now + left_s for ip, left_s in kept["permissions"]}
        for number, ip, port, left_s in kept["channels"]:
            found.channels[number] = (ip, port), now + left_s
            found.numbers[ip, port] = number
        return found

    @property
    def families(self) -> List[int]:
        """The address families of its relayed addresses."""
        return [family_of(relay[0]) for relay in self.relays]

    def towards(self, ip: str) -> Addr:
        """The relayed address that packets to this peer leave from; the caller knows that there is one."""
        relay = self.relay
        if len(self.relays) > 1 and (":" in relay[0]) != (":" in ip):
            return self.relays[1]
        return relay

    def keep(self, *relays: Addr) -> None:
        """Be left with these of its relayed addresses, and with no word to peers of another family."""
        self.relays = relays
        self.relay = relays[0]
        families = self.families
        self.revoke(lambda ip, _port: family_of(ip) in families)

    def carried(self) -> Dict[Tuple[str, str, str], int]:
        """Its traffic: ("packets" or "bytes", direction, transport) -> sum."""
        transport = self.transport
        return {
            ("packets", "from_client", transport): self.packets_in,
            ("bytes", "from_client", transport): self.bytes_in,
            ("packets", "to_client", transport): self.packets_out,
            ("bytes", "to_client", transport): self.bytes_out,
        }

    def permitted(self, ip: str, now: float) -> bool:
        """Is there a live permission for this peer address?"""
        return self.permissions.get(ip, now) > now

    def channel_to(self, peer: Addr, now: float) -> Optional[int]:
        """Number of the live channel that is bound to this peer."""
        number = self.numbers.get(peer)
        return None if number is None or self.channels[number][1] <= now else number

    def peer_of(self, number: int, now: float) -> Optional[Addr]:
        """The peer that this channel is bound to and still live."""
        bound = self.channels.get(number)
        return None if bound is None or bound[1] <= now else bound[0]

    def permit(self, ips: Iterable[str], now: float) -> bool:
        """Install or refresh permissions, all or none; False if they would be too many."""
        wanted = set(ips)
        if len(self.permissions.keys() | wanted) > MAX_PERMISSIONS:
            self.forget_expired(now)
            if len(self.permissions.keys() | wanted) > MAX_PERMISSIONS:
                return False
        for ip in wanted:
            self.permissions[ip] = now + PERMISSION_LIFETIME_S
        return True

    def bind(self, number: int, peer: Addr, now: float) -> bool:
        """Bind or refresh a channel, and the permission with it; False if they would be too many.

        The caller has made sure that neither the number nor the peer is live in another binding.
        """
        if number not in self.channels and len(self.channels) >= MAX_CHANNELS:
            self.forget_expired(now)
            if len(self.channels) >= MAX_CHANNELS:
                return False
        if not self.permit([peer[0]], now):
            return False
        self._unbind(number)  # its own older binding, or what expired on this number or of this peer
        self._unbind(self.numbers.get(peer))
        self.channels[number] = (peer, now + CHANNEL_LIFETIME_S)
        self.numbers[peer] = number
        return True

    def forget_expired(self, now: float) -> None:
        """Drop permissions and channels that are past their time."""
        for ip in [ip for ip, expires in self.permissions.items() if expires <= now]:
            del self.permissions[ip]
        for number in [number for number, (_, expires) in self.channels.items() if expires <= now]:
            self._unbind(number)

    def revoke(self, permits: Callable[[str, Optional[int]], bool]) -> None:
        """Drop permissions and channels that `permits(ip, port)` no longer grants."""
        for ip in [ip for ip in self.permissions if not permits(ip, None)]:
            del self.permissions[ip]
        for number in [number for number, (peer, _) in self.channels.items() if not permits(*peer)]:
            self._unbind(number)

    def _unbind(self, number: Optional[int]) -> None:
        bound = self.channels.pop(number, None) if number is not None else None
        if bound is not None:
            del self.numbers[bound[0]]
