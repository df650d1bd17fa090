"""aioice's TURN client, which the probe calls use, against the relay."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aioice import turn

from tests.relay.serving import ADDRESS, Served, plain_relay


@pytest.fixture(scope="module")
def relay() -> Iterator[Served]:
    with plain_relay("--allow-peer", "127.0.0.0/8") as served:
        yield served


class _Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))


async def _allocate(relay: Served, user: str = "user", password: str = "pass") -> tuple[Any, _Inbox]:
    transport, protocol = await turn.create_turn_endpoint(
        _Inbox, server_addr=(ADDRESS, relay.port), username=user, password=password
    )
    assert isinstance(protocol, _Inbox)
    return transport, protocol


async def test_two_clients_talk_through_their_allocations(relay: Served) -> None:
    one, one_inbox = await _allocate(relay)
    other, other_inbox = await _allocate(relay)
    here, there = one.get_extra_info("sockname"), other.get_extra_info("sockname")
    assert here != there
    # Permissions come with each side's first packet; the very first may meet a closed door.
    for number in range(20):
        one.sendto(b"ping %d" % number, there)
        other.sendto(b"pong %d" % number, here)
        if not one_inbox.received.empty() and not other_inbox.received.empty():
            break
        await asyncio.sleep(0.05)
    data, source = await asyncio.wait_for(other_inbox.received.get(), 5)
    assert data.startswith(b"ping")
    assert source == here
    assert (await asyncio.wait_for(one_inbox.received.get(), 5))[1] == there
    one.close()
    other.close()


async def test_a_time_limited_user(tmp_path: Any) -> None:
    secret_file = tmp_path / "turn.secret"
    secret_file.write_text("new secret\nold secret\n")
    user = f"{int(time.time()) + 600}:probe"
    digest = hmac.new(b"old secret", user.encode(), hashlib.sha1).digest()
    with plain_relay("--allow-peer", "127.0.0.0/8", "--secret-file", str(secret_file)) as relay:
        transport, _ = await _allocate(relay, user, base64.b64encode(digest).decode())
        assert transport.get_extra_info("sockname")[0] == ADDRESS
        transport.close()


async def test_a_wrong_password_is_refused(relay: Served) -> None:
    with pytest.raises(Exception, match="401"):
        await _allocate(relay, password="wrong")
