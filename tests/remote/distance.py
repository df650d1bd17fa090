"""A way to an SSH server that is as long as one across the globe: a TCP proxy that delays, and charges the handshake.

A connection through it behaves as over a path with this round-trip time: TCP's own handshake costs the client one round
trip before anything else, and the server hears of it half a round trip later than that. Bandwidth is not limited.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Travelled:
    """What one connection cost. `round_trips`: how often the client said something after it had heard something new,
    the handshake included; `up`, `down`: bytes; `heard_s`: when it last heard something, by the loop's clock.
    """

    round_trips: int = 1
    up: int = 0
    down: int = 0
    heard_s: float = 0.0
    _has_heard: bool = field(default=False, repr=False)

    def says(self, size: int) -> None:
        """The client sends this much."""
        if not size:
            return
        self.round_trips += self._has_heard or self.up == 0
        self._has_heard = False
        self.up += size

    def hears(self, size: int) -> None:
        """The client gets this much."""
        self._has_heard = True
        self.down += size
        self.heard_s = time.monotonic()


@dataclass
class Way:
    """An open proxy: connect to 127.0.0.1 at `port`. One Travelled a connection, in their order."""

    port: int
    connections: list[Travelled] = field(default_factory=list)


@asynccontextmanager
async def distant(target_port: int, rtt_s: float) -> AsyncIterator[Way]:
    """A proxy to this port of 127.0.0.1 until the body ends."""
    way = Way(0)
    tasks: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_connection(reader, writer, target_port, rtt_s, way))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    way.port = server.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _connection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, rtt_s: float, way: Way
) -> None:
    travelled = Travelled()
    way.connections.append(travelled)
    # The client's kernel says "connected" a round trip after its SYN: nothing that it sends was sent before.
    connected = asyncio.get_running_loop().time() + rtt_s
    await asyncio.sleep(rtt_s * 1.5)
    there, back = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.TaskGroup() as legs:
            up: asyncio.Queue[_Parcel] = asyncio.Queue()
            down: asyncio.Queue[_Parcel] = asyncio.Queue()
            legs.create_task(_send(reader, up, rtt_s / 2, connected, travelled.says))
            legs.create_task(_deliver(up, back, lambda _size: None))
            legs.create_task(_send(there, down, rtt_s / 2, 0.0, lambda _size: None))
            legs.create_task(_deliver(down, writer, travelled.hears))
    except* OSError:
        pass
    finally:
        writer.close()
        back.close()


_Parcel = tuple[float, bytes]  # when it is due, and what it is; b"" is the end


async def _send(
    source: asyncio.StreamReader,
    queue: asyncio.Queue[_Parcel],
    delay_s: float,
    not_before: float,
    told: Callable[[int], None],
) -> None:
    loop, data = asyncio.get_running_loop(), b"."
    while data:
        data = await source.read(1 << 16)
        told(len(data))
        queue.put_nowait((max(loop.time(), not_before) + delay_s, data))


async def _deliver(
    queue: asyncio.Queue[_Parcel], target: asyncio.StreamWriter, told: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due, data = await queue.get()
        await asyncio.sleep(due - loop.time())
        if not data:
            target.write_eof()
            return
        target.write(data)
        told(len(data))
        await target.drain()
