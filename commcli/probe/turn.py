"""An endpoint's edge: its TURN server over UDP, TCP or TLS, a bare allocation, and the peer connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aioice.stun
import aioice.turn
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceServer, RTCPeerConnection
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from commcli.probe.ending import Ended

ALLOCATE_TIMEOUT_S = 5.0
_TRANSPORTS = ("udp", "tcp", "tls")


@dataclass(frozen=True, slots=True)
class Turn:
    """A TURN server and a user of it. `server_name`: what its certificate must be for, if not `host`; `ca_pem`: who
    may have signed it, if not one of the machine's CAs.
    """

    host: str
    port: int
    username: str = field(repr=False)
    password: str = field(repr=False)
    transport: str = "udp"
    server_name: str | None = None
    ca_pem: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Turn:
        """Raises KeyError, ValueError or TypeError for anything that it does not know."""
        transport = raw.get("transport", "udp")
        if transport not in _TRANSPORTS:
            raise ValueError(f"unknown transport {transport!r}")
        return cls(
            host=str(raw["host"]),
            port=int(raw["port"]),
            username=str(raw["username"]),
            password=str(raw["password"]),
            transport=transport,
            server_name=raw.get("server_name"),
            ca_pem=raw.get("ca_pem"),
        )

    def __str__(self) -> str:
        return f"TURN over {self.transport.upper()} at {self.host}:{self.port}"

    def url(self) -> str:
        """RFC 7065."""
        scheme, transport = ("turns", "tcp") if self.transport == "tls" else ("turn", self.transport)
        return f"{scheme}:{self.host}:{self.port}?transport={transport}"

    def tls(self) -> ssl.SSLContext | None:
        """What to trust, for the transport that needs it. Raises Ended when `ca_pem` holds no certificate."""
        if self.transport != "tls":
            return None
        context = _OneServer(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = self.server_name or self.host
        if self.ca_pem is None:
            context.load_default_certs()
            return context
        try:
            context.load_verify_locations(cadata=self.ca_pem)
        except (ssl.SSLError, ValueError, TypeError):
            raise Ended("the CA that was sent along is no certificate (PEM)", "node") from None
        return context


class _OneServer(ssl.SSLContext):
    """For one server, whose name is not what we connect to: aioice knows the address only, and would ask for that."""

    server_name: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name, session)


class _Released(asyncio.DatagramProtocol):
    """Knows when the allocation behind it has been given back."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def allocate_bare(turn: Turn, timeout_s: float = ALLOCATE_TIMEOUT_S) -> float:
    """Make one allocation and give it back; when it was granted (time.time()). Raises Ended with the server's reason.

    ICE gathering swallows a refusal (empty candidates, no reason), so the edge is asked plainly first.
    """
    making = aioice.turn.create_turn_endpoint(
        _Released,
        (turn.host, turn.port),
        turn.username,
        turn.password,
        lifetime=60,
        ssl=turn.tls(),
        transport="udp" if turn.transport == "udp" else "tcp",
    )
    try:
        transport, protocol = await asyncio.wait_for(making, timeout_s)
    except aioice.stun.TransactionFailed as refusal:
        code, reason = refusal.response.attributes.get("ERROR-CODE", (0, "no reason given"))
        raise Ended(f"{turn} refused the allocation: {code} {reason}") from None
    except (TimeoutError, aioice.stun.TransactionTimeout):
        raise Ended(f"{turn} did not answer within {timeout_s:g} s") from None
    except (OSError, ConnectionError) as error:
        raise Ended(f"{turn}: {_reason(error, turn)}") from None
    granted = time.time()
    transport.close()
    await asyncio.wait({asyncio.ensure_future(protocol.closed.wait())}, timeout=1.0)
    return granted


def _reason(error: OSError, turn: Turn) -> str:
    """One line without errno's number, Python's file names and OpenSSL's function names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        name = turn.server_name or turn.host
        return f"its certificate is not believed for {name}: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


def connection(turn: Turn) -> RTCPeerConnection:
    """A relay-only peer connection with exactly one TURN server and one transport for everything."""
    server = RTCIceServer(urls=turn.url(), username=turn.username, credential=turn.password)
    return RTCPeerConnection(
        RTCConfiguration(
            iceServers=[server],
            bundlePolicy=RTCBundlePolicy.MAX_BUNDLE,
            iceTransportPolicy=RTCIceTransportPolicy.RELAY,
        )
    )


def trust(peer: RTCPeerConnection, turn: Turn) -> None:
    """Have what `peer` will gather believe the edge's certificate as `turn` says. After media, before gathering."""
    context = turn.tls()
    if context is not None:
        for ice in _ice(peer):
            # aioice hands this to asyncio, which takes a context as well as the flag that aiortc has put there.
            ice.turn_ssl = context


def abandon(peer: RTCPeerConnection) -> None:
    """Give the allocations back at once, without a word to the other end."""
    for ice in _ice(peer):
        for protocol in ice._protocols:
            with contextlib.suppress(OSError):
                protocol.transport.close()


def _ice(peer: RTCPeerConnection) -> list[Any]:
    """aioice's connections below `peer`, each once."""
    transports = [transceiver.receiver.transport for transceiver in peer.getTransceivers()]
    if peer.sctp is not None:
        transports.append(peer.sctp.transport)
    return list({id(ice): ice for ice in (dtls.transport._connection for dtls in transports)}.values())
