"""What the processes of one relay tell each other: worker 0, the hub, and each of the others over a socket pair.

Messages keep their bounds (SOCK_SEQPACKET: a queue of datagrams would hold ten of them, net.unix.max_dgram_qlen). The
first byte says what it is:

    HELLO    worker -> hub     I am new: tell me everything
    FIGURES  worker -> hub     JSON of my figures document
    PACKETS  worker -> hub     packets for other nodes, all of one turn of the loop: for each pair of endpoints these
                               (wire.pack_endpoints), their road (u8 PLAIN | length of `via`, `via`), u16 how many,
                               a u16 length of each, the payloads
             hub -> worker     the same, from other nodes
    a topic  hub -> worker     a document in an anonymous file, whose descriptor comes with it: no size is too big, and
                               no secret lies on a disk

What the hub tells are states, not changes: a worker that could not be told is told later, the newest only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections import Counter
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from commcli.relay.clients.udp import DRAIN, SOCKET_BUFFER, Addr
from commcli.relay.config import LIVE, RelayConfig
from commcli.relay.loop import Loop
from commcli.relay.overlay.wire import endpoint_bytes, pack_endpoints, unpack_endpoints
from commcli.relay.process import metrics
from commcli.relay.process.register import Register
from commcli.relay.turn.road import OVERLAY, Road

HELLO, FIGURES, PACKETS = b"hfp"
# Topics: what can change of the configuration and whether to drain; the table; the ports of the other nodes' services;
# to which of them packets go straight; how far they are.
CONFIG, TABLE, SERVICES, WAYS, RTT = b"CTSWZ"

MAX_MESSAGE = 66_000
STALE_S = 5.0  # a worker that was silent for so long is dead, or as good as
_FDS = socket.CMSG_SPACE(4)
_MOST_HEADS = 4096
_COUNT = struct.Struct(">H")
_PLAIN, _MOST_VIA = 0x80, 0x7F


class Packets(NamedTuple):
    """What one relayed address sends to another."""

    src: Addr
    dst: Addr
    payloads: Sequence[bytes]
    road: Road = OVERLAY


class Link:
    """One end of a socket pair."""

    def __init__(self, sock: socket.socket, drops: "Counter[str]") -> None:
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self.sock, self._drops = sock, drops
        self._heads: Dict[Tuple[Addr, Addr, Road], bytes] = {}
        self._ends: Dict[bytes, Tuple[Addr, Addr, Road]] = {}
        self._gathered: Dict[bytes, List[bytes]] = {}  # payloads by their head, for one message
        self._room = MAX_MESSAGE - 1

    def send(self, kind: int, data: bytes = b"") -> bool:
        """Send one message; False if there is no room for it now."""
        try:
            self.sock.sendmsg([bytes([kind]), data])
        except OSError:
            return False
        return True

    def send_document(self, topic: int, document: bytes) -> bool:
        """Send a document of any size; False if there is no room for it now."""
        file = os.memfd_create("commcli-relay", os.MFD_CLOEXEC)
        try:
            with os.fdopen(file, "wb", closefd=False) as out:
                out.write(document)
            socket.send_fds(self.sock, [bytes([topic])], [file])
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    def gather(self, src: Addr, dst: Addr, payloads: Sequence[bytes], road: Road = OVERLAY) -> None:
        """Keep packets for `flush`; a message that is full leaves at once."""
        ends = (src, dst, road)
        head = self._heads.get(ends)
        if head is None:
            if len(self._heads) >= _MOST_HEADS:
                self._heads.clear()
            head = self._heads[ends] = pack_endpoints(src, dst) + _packed_road(road)
        for payload in payloads:
            some = self._gathered.get(head)
            size = len(payload) + 2 + (len(head) + 2 if some is None else 0)
            if size > self._room:
                self.flush()
                some, size = None, len(payload) + 2 + len(head) + 2
            if some is None:
                some = self._gathered[head] = []
            some.append(payload)
            self._room -= size

    def flush(self) -> None:
        """Send what was gathered, or drop it (counted). Call it at the end of each turn of the loop."""
        if not self._gathered:
            return
        gathered, self._gathered, self._room = self._gathered, {}, MAX_MESSAGE - 1
        parts: List[bytes] = []
        for head, payloads in gathered.items():
            count = len(payloads)
            parts += (head, struct.pack(">%dH" % (1 + count), count, *map(len, payloads)), *payloads)
        if not self.send(PACKETS, b"".join(parts)):
            self._drops["sister_full"] += sum(map(len, gathered.values()))

    def packets(self, data: bytes) -> Iterator[Packets]:
        """What was in one message of PACKETS."""
        at = 0
        while at < len(data):
            road_at = at + (endpoint_bytes(data[at]) or len(data))
            head_end = road_at + 1 + (data[road_at] & _MOST_VIA)
            src, dst, road = self._unpacked(data[at:head_end])
            (count,) = _COUNT.unpack_from(data, head_end)
            lengths = struct.unpack_from(">%dH" % count, data, head_end + _COUNT.size)
            at = head_end + _COUNT.size * (1 + count)
            payloads = []
            for length in lengths:
                payloads.append(data[at : at + length])
                at += length
            yield Packets(src, dst, payloads, road)

    def _unpacked(self, head: bytes) -> Tuple[Addr, Addr, Road]:
        ends = self._ends.get(head)
        if ends is None:
            if len(self._ends) >= _MOST_HEADS:
                self._ends.clear()
            road_at = endpoint_bytes(head[0])
            found = unpack_endpoints(head[:road_at])
            assert found is not None
            ends = self._ends[head] = (*found, _road(head[road_at:]))
        return ends

    def receive(self) -> List[Tuple[int, bytes]]:
        """Messages that wait, by kind; of a topic its document."""
        received: List[Tuple[int, bytes]] = []
        with contextlib.suppress(BlockingIOError):
            while len(received) < DRAIN:
                data, ancillary, _flags, _address = self.sock.recvmsg(
                    MAX_MESSAGE, _FDS, socket.MSG_CMSG_CLOEXEC
                )
                if not data:
                    break
                received.append((data[0], _content(ancillary[0][2]) if ancillary else data[1:]))
        return received


def _packed_road(road: Road) -> bytes:
    via = (road.via or "").encode()
    return bytes((len(via) | (_PLAIN if road.plain else 0),)) + via


def _road(packed: bytes) -> Road:
    return Road(False, packed[1:].decode() or None, bool(packed[0] & _PLAIN))


def _content(descriptor: bytes) -> bytes:
    with os.fdopen(int.from_bytes(descriptor[:4], sys.byteorder), "rb") as file:
        file.seek(0)
        return file.read()


class _Sister:
    """A worker as the hub knows it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.owed: Set[int] = set()  # topics
        self.figures: Optional[metrics.Figures] = None
        self.heard = 0.0


class Hub:
    """Worker 0's side: tells the others what they must know, and adds up what they say."""

    def __init__(
        self,
        socks: Mapping[int, socket.socket],
        register: Register,
        loop: Loop,
        drops: "Counter[str]",
        carry: Callable[[Packets], None],
    ) -> None:
        """`socks`: our ends by the number of the worker. `carry(packets)` takes what is for other nodes."""
        self._register, self._loop, self._drops, self._carry = register, loop, drops, carry
        self._topics: Dict[int, bytes] = {}
        self._ended: List[
            metrics.Figures
        ] = []  # of workers that are gone, what they had counted: one for all
        self._sisters = {worker: _Sister(Link(sock, drops)) for worker, sock in socks.items()}
        for sister in self._sisters.values():
            loop.add(sister.link.sock, partial(self._hear, sister))

    def close(self) -> None:
        """Hear nobody any more."""
        for sister in self._sisters.values():
            self._loop.remove(sister.link.sock)
            sister.link.sock.close()

    def tell(self, topic: int, document: bytes) -> None:
        """From now on this is so."""
        if self._topics.get(topic) == document:
            return
        self._topics[topic] = document
        for sister in self._sisters.values():
            sister.owed.add(topic)
            self._pay(sister)

    def tick(self) -> None:
        """Tell those what could not be told before."""
        for sister in self._sisters.values():
            self._pay(sister)

    def _pay(self, sister: _Sister) -> None:
        # Sorted, so that the table comes before the ways to its nodes.
        for topic in sorted(sister.owed & self._topics.keys()):
            if not sister.link.send_document(topic, self._topics[topic]):
                return
            sister.owed.discard(topic)

    def deliver(self, src: Addr, dst: Addr, payloads: Sequence[bytes]) -> bool:
        """Gather them for the worker that owns the relayed address `dst`; False if none does."""
        sister = self._sisters.get(-1 if (owner := self._register.owner(dst)) is None else owner)
        if sister is None:
            return False
        sister.link.gather(src, dst, payloads)
        return True

    def flush(self) -> None:
        """Send what was gathered for the workers. Call it at the end of each turn of the loop."""
        for sister in self._sisters.values():
            sister.link.flush()

    def _hear(self, sister: _Sister, _events: int) -> None:
        for kind, data in sister.link.receive():
            if kind == PACKETS:
                for packets in sister.link.packets(data):
                    self._carry(packets)
            elif kind == FIGURES:
                sister.figures, sister.heard = json.loads(data), self._loop.now
            elif kind == HELLO:
                self._bury(sister)
                sister.owed = set(self._topics)
                self._pay(sister)

    def _bury(self, sister: _Sister) -> None:
        """What a worker had counted before it died stays counted, or the node's sums would fall."""
        if sister.figures is not None:
            self._ended = [metrics.merge([metrics.ended(sister.figures), *self._ended])]
        sister.figures = None

    def figures(self, own: metrics.Figures, now: float) -> metrics.Figures:
        """The node's figures document out of the hub's own and the latest of each other worker."""
        parts = [own]
        for sister in self._sisters.values():
            if sister.figures is not None:
                lives = now - sister.heard < STALE_S
                parts.append(sister.figures if lives else metrics.counted(sister.figures))
        known = {"allocations": self._register.sessions(), "worker_restarts": self._register.restarts()}
        return {**metrics.merge([*parts, *self._ended]), **known}


def document(content: Any) -> bytes:
    """A document of JSON."""
    return json.dumps(content, sort_keys=True).encode()


def packed_config(config: RelayConfig, drain: bool) -> bytes:
    """What can change of a configuration, secrets and all, and whether to take new clients."""
    words = {name: getattr(config, name) for name in LIVE}
    return document(
        [{name: sorted(word) if isinstance(word, frozenset) else word for name, word in words.items()}, drain]
    )


def unpacked_config(content: bytes, config: RelayConfig) -> Tuple[RelayConfig, bool]:
    """`config` with what `packed_config` was given."""
    words, drain = json.loads(content)
    return config._replace(**{name: _as(getattr(config, name), word) for name, word in words.items()}), drain


def _as(old: Any, word: Any) -> Any:
    if isinstance(old, tuple):
        return tuple(tuple(part) if isinstance(part, list) else part for part in word)
    return frozenset(word) if isinstance(old, frozenset) else word
