"""aioice's test server, swapped for our relay: what its `tests/turnserver.py` offers to its tests, and nothing else.

The relay runs as it is, in a thread, with its real sockets. Those tests also ask the server to refuse one request with
a given code: that answer is made here, in front of the protocol machine, since no real relay does such a thing.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from commcli.relay.config import standalone
from commcli.relay.log import Log
from commcli.relay.process.daemon import Relay
from commcli.relay.turn import stun
from commcli.relay.turn.auth import Client
from commcli.relay.turn.server import Action
from tests.relay.serving import ADDRESS, RELAY_PORTS, free_port

REALM = "test"
PAIR: list[Path] = []  # the files of the certificate and of its key, set before the tests begin


def get_tls_credentials() -> tuple[str, ssl.SSLContext]:
    """The certificate in PEM format, and a context to present it (which nobody here asks for)."""
    certificate, key = PAIR
    context = ssl.SSLContext(protocol=ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate.read_text(), context


class TurnServer:
    """One running relay, as those tests see it."""

    def __init__(self, users: dict[str, str]) -> None:
        certificate, key = PAIR
        config = standalone(
            listen=f"{ADDRESS}:{free_port()}",
            relay_ports=RELAY_PORTS,
            users=[f"{name}:{password}" for name, password in users.items()],
            realm=REALM,
            allow_peers=["127.0.0.0/8"],
            tls_port=free_port(),
            tls_certificate=str(certificate),
            tls_key=str(key),
        )
        self.udp_address = self.tcp_address = (ADDRESS, config.turn_port)
        self.tls_address = (ADDRESS, config.tls_port)
        self.simulated_failure: tuple[int, str] | None = None
        self._keys = [stun.long_term_key(name, REALM, password) for name, password in users.items()]
        self._relay = Relay(config, "test", Log())
        # They ask for seconds and wait for the refresh; RFC 8656 section 7.2 has no less than the default granted.
        self._relay.turn.config = replace(self._relay.turn.config, default_lifetime_s=1)
        self._handle = self._relay.turn.handle
        self._relay.turn.handle = self._answer  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._relay.loop.run)
        self._thread.start()

    @property
    def allocations(self) -> dict[Client, SimpleNamespace]:
        """Each with its `channel_to_peer`."""
        return {
            client: SimpleNamespace(
                channel_to_peer={number: peer for number, (peer, _) in allocation.channels.items()}
            )
            for client, allocation in self._relay.turn.allocations.items()
        }

    def close(self) -> None:
        """Stop it, and see that no bug of ours came to light."""
        self._relay.loop.stop()
        self._thread.join()
        bugs = self._relay.drops["bug"]
        self._relay.close()
        assert not bugs

    def _answer(self, data: bytes, client: Client, now: float, unix: float) -> list[Action]:
        refusal = None if self.simulated_failure is None else self._refusal(data, client, now)
        if refusal is None:
            return self._handle(data, client, now, unix)
        self.simulated_failure = None
        return [("client", client, refusal)]

    def _refusal(self, data: bytes, client: Client, now: float) -> bytes | None:
        """The simulated failure for an authenticated request, signed as RFC 8489 section 9.2.4 has it."""
        assert self.simulated_failure is not None
        code, phrase = self.simulated_failure
        try:
            request = stun.parse(data)
        except stun.StunError:
            return None
        key = next((key for key in self._keys if request.signed_by(key)), None)
        if request.kind != stun.REQUEST or key is None:
            return None
        attributes = [(stun.ERROR_CODE, stun.pack_error(code, phrase))]
        if code in (401, 438):
            attributes += self._relay.turn.auth.challenge(client, now, len(data))
            return stun.build(request.method, stun.ERROR, request.transaction, attributes)
        return stun.build(request.method, stun.ERROR, request.transaction, attributes, key=key)


@contextlib.asynccontextmanager
async def run_turn_server(users: dict[str, str]) -> AsyncGenerator[TurnServer]:
    """A relay with these users until the body ends."""
    server = TurnServer(users)
    try:
        yield server
    finally:
        server.close()
