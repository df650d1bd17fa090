"""Which peers a client may reach through the relay: an open relay is a door into our own network.

Deny by default. Ranges come from the IANA special-purpose registries (RFC 6890, RFC 8190) as our own list, because
what `ipaddress` calls global has changed between Python releases. An IPv6 address that only wraps an IPv4 one
(translation, tunnels) is as dangerous as what it wraps.
"""

from __future__ import annotations

import ipaddress
from typing import Dict, FrozenSet, Iterable, List, Mapping, Optional, Tuple, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
PortRange = Tuple[int, int]

_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this host": Linux sends it to loopback
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; holds a cloud's metadata service (100.100.100.200) too
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's metadata and agent service on an otherwise public address
        "169.254.0.0/16",  # link-local: the metadata service of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocol assignments; a cloud's metadata service (192.0.0.192)
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",  # 255.255.255.255 too
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out as global unicast
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")
# Answers are remembered for the data path; a client that walks ports only makes us forget, never grow.
_MEMORY = 4096


class PeerPolicy:
    """Immutable: make a new one when the fleet changes.

    `allow` are networks that the operator opens although they are not public. `relays` are this node's relay
    addresses, `neighbours` those of the fleet's other nodes: there, exactly the relay ports may be reached, also when
    the address is private, so that clients of the same and of other nodes can talk. On a neighbour's address that is
    so whatever `allow` says, for its other ports are its own services, wherever it has put them.

    `service_ports` (TURN, overlay, STAMP, metrics of this node) are refused on the fleet's and on this machine's
    addresses, `services` (other nodes', known by address) on theirs, whatever `allow` says.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        relays: Optional[Mapping[str, PortRange]] = None,
        own_addresses: Iterable[str] = (),
        service_ports: Iterable[int] = (),
        neighbours: Iterable[Tuple[str, PortRange]] = (),
        services: Iterable[Tuple[str, int]] = (),
    ) -> None:
        self._allow: List[Network] = [ipaddress.ip_network(text) for text in allow]
        self._relays: Dict[Address, List[PortRange]] = {}
        others = list(neighbours)
        for ip, ports in [*(relays or {}).items(), *others]:
            self._relays.setdefault(_parse(ip), []).append(ports)
        self._neighbours = frozenset(_parse(ip) for ip, _ in others)
        self._services = frozenset((_parse(ip), port) for ip, port in services)
        self._own: FrozenSet[Address] = frozenset(_parse(ip) for ip in own_addresses)
        self._service_ports = frozenset(service_ports)
        self._memory: Dict[Tuple[str, Optional[int]], bool] = {}

    def __eq__(self, other: object) -> bool:
        """Is every answer the same?"""
        return isinstance(other, PeerPolicy) and self._terms() == other._terms()

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def _terms(self) -> Tuple[object, ...]:
        relays = {address: sorted(ranges) for address, ranges in self._relays.items()}
        return self._allow, relays, self._neighbours, self._services, self._own, self._service_ports

    def permits(self, ip: str, port: Optional[int] = None) -> bool:
        """May a client's packets go to this peer? Without a port: to any port of it (the permission of RFC 8656
        section 9 is for an address; each packet is then asked about with its port)."""
        asked = (ip, port)
        answer = self._memory.get(asked)
        if answer is None:
            if len(self._memory) >= _MEMORY:
                self._memory.clear()
            answer = self._memory[asked] = self._judge(ip, port)
        return answer

    def _judge(self, ip: str, port: Optional[int]) -> bool:
        if port is not None and not 0 < port < 65536:
            return False
        try:
            address = _parse(ip)
        except ValueError:
            return False
        return all(self._reachable(face, port) for face in [address, *_wrapped(address)])

    def _reachable(self, address: Address, port: Optional[int]) -> bool:
        if (address, port) in self._services or (port in self._service_ports and self._is_ours(address)):
            return False
        if address not in self._neighbours and any(address in network for network in self._allow):
            return True
        ranges = self._relays.get(address)
        if ranges is not None:
            return port is None or any(low <= port <= high for low, high in ranges)
        return _is_public(address) and address not in self._own

    def _is_ours(self, address: Address) -> bool:
        """Does a packet to this address end on a node of the fleet? Loopback and 0.0.0.0 end on this one."""
        local = address.is_loopback or address.is_unspecified
        return local or address in self._own or address in self._relays


def _parse(ip: str) -> Address:
    """The address; an IPv4-mapped one is the IPv4 one, for so the kernel sends it. Raises ValueError."""
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _wrapped(address: Address) -> List[Address]:
    """IPv4 addresses at which a packet to this IPv6 address may come out, if it is of a translating or tunnelling kind.

    Such an address is not public by itself, but an operator may allow its network (an IPv6-only site with NAT64): then
    what it wraps must be allowed as well.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return []
    if address.teredo is not None:
        return list(address.teredo)
    if address.sixtofour is not None:
        return [address.sixtofour]
    if any(address in network for network in _NAT64) or (address in _V4_COMPATIBLE and int(address) > 1):
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
