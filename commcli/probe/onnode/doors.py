"""Knocks at the doors of edges: reach, the time to the 401 and to the allocation, the certificate, and giving it back.

A door is one transport at one address of an edge. Whatever is behind it costs at most its own time, and what is wrong
with it is a value. The answer of a door (all times in ms, None: it did not come to that):

    node transport address port server_name   as asked; server_name is what the certificate must be for
    connect_ms                    TCP's handshake; None over UDP, which has none
    tls_ms                        TLS's
    challenge_ms                  from the first request to the 401
    allocate_ms                   from the request with credentials to the allocation
    total_ms                      from the beginning to the allocation: what a client waits
    state                         allocated | redirected | refused | silent | unreachable | no route | no tls
    error code alternate          why not; the server's error code; where a 300 sends us
    resent                        requests that had to be sent again (UDP)
    mapped relayed given_back     ours as the edge sees it; what was allocated; whether the edge took it back
    tls                           {"version", "cipher", "verify_code", "verify_text"}: OpenSSL's code, 0 is trusted
    certificate                   the edge's own, DER in base64, whether it is trusted or not
"""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from commcli.probe.onnode.dialogue import Dialogue
from commcli.relay.turn import stun

# RFC 8489 section 6.2.1: over UDP a request is sent again after 500 ms, and then after twice as long each time.
FIRST_RETRY_S = 0.5
# The Refresh that gives the allocation back is waited for no longer than this: it is not what was asked.
GOODBYE_S = 2.0
LONGEST_MESSAGE = 4096
LAG_TICK_S = 0.02
# Doors are not begun together: what many handshakes cost here would stand in each other's times.
PACE_S = 0.01
ALPN = ["stun.turn"]  # RFC 7443
STATES = (
    *("allocated", "redirected", "refused", "silent"),
    *("unreachable", "no route", "no tls"),
)
NO_CA = "the CA that was sent along is no certificate (PEM)"
_NO_ROUTE = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

Door = dict[str, Any]
Row = dict[str, Any]


def run(argument: dict[str, Any], channel: Any) -> None:
    """The entry on a node: sends {"door": row} for each, as it is known, and {"lag_ms": ...} at the end.

    Or, of an argument that it can not take, {"refused": why}.
    """
    channel.keep_secret([argument["password"]])

    async def bounded(trust: Trust) -> None:
        lag_ms = await asyncio.wait_for(
            knock_all(argument, trust, lambda row: channel.send({"door": row})), argument["limit_s"]
        )
        channel.send({"lag_ms": lag_ms})

    try:
        trust = Trust(argument["ca_pem"])
    except ValueError as error:
        channel.send({"refused": str(error)})
    else:
        asyncio.run(bounded(trust))


async def knock_all(argument: dict[str, Any], trust: Trust, on_row: Callable[[Row], None]) -> list[float]:
    """Knock at all `doors`, at most `parallel` at a time; how late the event loop was meanwhile (ms, one a tick).

    argument: {"doors": [{"node", "transport", "address", "port", "server_name"}], "username", "password",
    "timeout_s": of one door, "parallel"}.
    """
    gate = asyncio.Semaphore(argument["parallel"])
    lag_ms: list[float] = []
    tasks: list[asyncio.Future[None]] = [asyncio.ensure_future(_tick(lag_ms))]

    async def one(door: Door) -> None:
        async with gate:
            on_row(await knock(door, argument, trust))

    try:
        for door in argument["doors"]:
            tasks.append(asyncio.ensure_future(one(door)))
            await asyncio.sleep(PACE_S)
        await asyncio.gather(*tasks[1:])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return lag_ms


async def _tick(lag_ms: list[float]) -> None:
    while True:
        due = time.monotonic() + LAG_TICK_S
        await asyncio.sleep(LAG_TICK_S)
        lag_ms.append(1000 * max(0.0, time.monotonic() - due))


async def knock(door: Door, argument: dict[str, Any], trust: Trust) -> Row:
    """One door; its row."""
    row: Row = {
        **{key: door[key] for key in ("node", "transport", "address", "port", "server_name")},
        **dict.fromkeys(("connect_ms", "tls_ms", "challenge_ms", "allocate_ms", "total_ms")),
        **dict.fromkeys(
            ("error", "code", "alternate", "mapped", "relayed", "given_back", "tls", "certificate")
        ),
        "state": "silent",
        "resent": 0,
    }
    visit = _Visit(door, row, argument, trust)
    try:
        await asyncio.wait_for(visit.pay(), argument["timeout_s"])
    except asyncio.TimeoutError:  # noqa: UP041  (in python 3.9 it is not the builtin one)
        row["error"] = f"no answer within {argument['timeout_s']:g} s{visit.waiting_for()}"
    except _NoTls as error:
        row["state"], row["error"] = "no tls", str(error)
    except OSError as error:
        unrouted = error.errno in _NO_ROUTE
        row["state"] = "no route" if unrouted else "unreachable"
        # Of the system's errors asyncio makes sentences of its own.
        row["error"] = os.strerror(error.errno) if error.errno else error.strerror or type(error).__name__
    finally:
        await visit.leave()
    return row


class _NoTls(Exception):
    """Something answers, but does not speak TLS that we do."""


class _Visit:
    """One door being knocked at. `leave` gives the allocation back whatever came before."""

    def __init__(self, door: Door, row: Row, argument: dict[str, Any], trust: Trust) -> None:
        self._door, self._row, self._trust = door, row, trust
        self._dialogue = Dialogue(argument["username"], argument["password"], os.urandom)
        self._wire: _Wire | None = None
        self._began = 0.0

    def waiting_for(self) -> str:
        """At what it was when the time was up."""
        if self._wire is None:
            return " (no connection)"
        return " to the request with credentials" if self._dialogue.state == "challenged" else ""

    async def pay(self) -> None:
        """The way in, and the allocation."""
        self._wire = await self._enter()
        sent = time.monotonic()
        if self._began == 0.0:
            self._began = sent
        following = await self._ask(self._dialogue.begin())
        while following is not None:
            if self._row["challenge_ms"] is None:
                self._row["challenge_ms"] = 1000 * (time.monotonic() - sent)
            sent = time.monotonic()
            following = await self._ask(following)
        now, dialogue, row = time.monotonic(), self._dialogue, self._row
        if dialogue.state == "allocated":
            row["state"], row["allocate_ms"] = "allocated", 1000 * (now - sent)
            row["total_ms"] = 1000 * (now - self._began)
            row["mapped"], row["relayed"] = _text(dialogue.mapped), _text(dialogue.relayed)
        else:
            row["state"] = "redirected" if dialogue.code == 300 else "refused"
            row["code"], row["alternate"] = dialogue.code, _text(dialogue.alternate)
            row["error"] = " ".join(filter(None, (str(dialogue.code or ""), dialogue.reason)))

    async def leave(self) -> None:
        """Give the allocation back and close."""
        if self._wire is None:
            return
        try:
            if self._dialogue.held:
                self._row["given_back"] = False
                await asyncio.wait_for(self._give_back(), GOODBYE_S)
        except (asyncio.TimeoutError, OSError):  # noqa: UP041
            pass  # it is told by given_back
        finally:
            self._wire.close()

    async def _give_back(self) -> None:
        following: bytes | None = self._dialogue.end()
        while following is not None:
            following = await self._ask(following)
        self._row["given_back"] = self._dialogue.state == "ended"

    async def _ask(self, request: bytes) -> bytes | None:
        """Send a request, over UDP again and again, until it is answered; what is to follow it."""
        assert self._wire is not None
        wire, retry_s = self._wire, FIRST_RETRY_S
        wire.send(request)
        while True:
            try:
                data = await asyncio.wait_for(wire.receive(), retry_s if wire.lossy else None)
            except asyncio.TimeoutError:  # noqa: UP041
                self._row["resent"] += 1
                retry_s *= 2
                wire.send(request)
                continue
            answered, following = self._dialogue.receive(data)
            if answered:
                return following

    async def _enter(self) -> _Wire:
        address = (self._door["address"], self._door["port"])
        self._began = time.monotonic()
        if self._door["transport"] == "udp":
            return await _open_udp(address)
        if self._door["transport"] == "tcp":
            return await _open_stream(await self._connect(address), None, None)
        return await self._enter_tls(address)

    async def _connect(self, address: stun.Addr) -> socket.socket:
        began = time.monotonic()
        sock = await _connected(address)
        self._row["connect_ms"] = 1000 * (time.monotonic() - began)
        return sock

    async def _enter_tls(self, address: stun.Addr) -> _Wire:
        """With a certificate that is not believed the door is visited all the same: reach is a question of its own."""
        name = self._door["server_name"]
        try:
            wire = await self._shake(address, self._trust.strict, name)
        except ssl.SSLCertVerificationError as error:
            self._began = time.monotonic()
            wire = await self._shake(address, self._trust.blind, name)
            self._row["tls"].update(verify_code=error.verify_code, verify_text=error.verify_message)
        return wire

    async def _shake(self, address: stun.Addr, context: ssl.SSLContext, name: str) -> _Wire:
        sock = await self._connect(address)
        began = time.monotonic()
        try:
            wire = await _open_stream(sock, context, name)
        except ssl.SSLCertVerificationError:
            raise
        except ssl.SSLError as error:
            reason = (error.reason or "not understood").replace("_", " ").lower()
            raise _NoTls(f"no TLS: {reason}") from None
        except (ConnectionError, EOFError) as error:
            raise _NoTls(f"the edge ended the TLS handshake ({type(error).__name__})") from None
        self._row["tls_ms"] = 1000 * (time.monotonic() - began)
        found = wire.tls
        der = None if found is None else found.getpeercert(True)
        self._row["certificate"] = None if der is None else base64.b64encode(der).decode("ascii")
        cipher = None if found is None else found.cipher()
        self._row["tls"] = {
            "version": None if found is None else found.version(),
            "cipher": None if cipher is None else cipher[0],
            "verify_code": 0,
            "verify_text": "",
        }
        return wire


class Trust:
    """Whom a look believes. `strict`: these CAs (None: this machine's), and the name; `blind`: anybody, to look at a
    certificate and never to trust it. Made once: reading a machine's CAs takes tens of milliseconds.
    """

    def __init__(self, ca_pem: str | None) -> None:
        """Raises ValueError if `ca_pem` has no certificate: nobody is believed then, and never the machine's CAs."""
        if ca_pem == "":
            raise ValueError(NO_CA)
        try:
            self.strict = ssl.create_default_context(cadata=ca_pem)
        except (ssl.SSLError, TypeError, ValueError):
            raise ValueError(NO_CA) from None
        # Newer pythons are stricter than clients are; the answer must not depend on where the question was asked.
        self.strict.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self.blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.blind.check_hostname = False
        self.blind.verify_mode = ssl.CERT_NONE
        for context in (self.strict, self.blind):
            context.set_alpn_protocols(ALPN)


# --- wires ----------------------------------------------------------------------------------------------------------


class _Wire:
    """Whole messages to and from the edge. `lossy`: what is not answered must be sent again."""

    lossy = False
    tls: ssl.SSLObject | None = None

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def receive(self) -> bytes:
        """The next message. Raises OSError when there will be none."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _Udp(_Wire, asyncio.DatagramProtocol):
    lossy = True

    def __init__(self) -> None:
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._inbox.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self._inbox.put_nowait(exc)

    def send(self, data: bytes) -> None:
        self._transport.sendto(data)

    async def receive(self) -> bytes:
        found = await self._inbox.get()
        if isinstance(found, Exception):
            raise found
        return bytes(found)

    def close(self) -> None:
        self._transport.close()


class _Stream(_Wire):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.tls = writer.get_extra_info("ssl_object")

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> bytes:
        try:
            head = await self._reader.readexactly(stun.HEADER_SIZE)
            size = int.from_bytes(head[2:4], "big")
            if head[0] & 0xC0 or size > LONGEST_MESSAGE:
                raise ConnectionError(0, "answers, but not in STUN")
            return head + await self._reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise ConnectionError(0, "the edge closed the connection") from None
        except ssl.SSLError as error:
            raise ConnectionError(0, f"TLS broke: {error.reason}") from None

    def close(self) -> None:
        self._writer.transport.abort()


async def _open_udp(address: stun.Addr) -> _Wire:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_datagram_endpoint(_Udp, remote_addr=address)
    return protocol


async def _connected(address: stun.Addr) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_stream(sock: socket.socket, context: ssl.SSLContext | None, name: str | None) -> _Wire:
    try:
        reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise
    return _Stream(reader, writer)


def _text(address: tuple[str, int] | None) -> str | None:
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
