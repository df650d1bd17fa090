"""What two processes of one relay say to each other over a socket pair, while one takes the other's place.

    the running one                     the new one (it was started with our end of the pair, and nobody else has it)
    offer: schema, sockets of the addresses  ->
                                        <-  ready: configuration and table are good, all is built; or refused: why
    portion: some allocations, sockets  ->
                                        <-  restored (and so on, while the running one serves)
    (stops reading)
    rest: all else                      ->
                                        <-  restored
    go: from here on it is yours        ->
                                        <-  serving
    (ends)

What comes meanwhile waits in the kernel, in the sockets that both have. Whatever goes wrong before `serving`, the
running one ends the new one and goes on with what it has: it has changed nothing.

A message is JSON, never pickle, in as many datagrams as it takes; each may bring descriptors (SCM_RIGHTS).
"""

from __future__ import annotations

import json
import os
import socket
import time
from array import array
from typing import Any, Dict, List, NamedTuple, Sequence

# What the state means. Another number is another meaning: who does not know it must not guess. Its shape is pinned in
# tests/relay/test_state_shape.py.
SCHEMA = 1
PIECE_BYTES = 60_000
MOST_DESCRIPTORS = 250  # SCM_MAX_FD is 253
_number = array("i")
_MORE, _LAST = b"+", b"."


class HandoverFailed(Exception):
    """The other side is gone, too slow, or says what makes no sense; the text is one line."""


class Message(NamedTuple):
    """`word` is one of the words above; the `descriptors` that came with it are ours to close."""

    word: str
    body: Dict[str, Any]
    descriptors: List[int]


class Channel:
    """One end of the pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._until = 0.0

    def within(self, seconds: float) -> None:
        """All that is sent and received from now on must be through in so many seconds."""
        self._until = time.monotonic() + seconds

    def send(self, word: str, descriptors: Sequence[int] = (), **body: Any) -> None:
        """Raises HandoverFailed."""
        data = json.dumps({"word": word, **body}).encode()
        count = max(-(-len(data) // PIECE_BYTES), -(-len(descriptors) // MOST_DESCRIPTORS))
        try:
            for number in range(count):
                mark = _LAST if number == count - 1 else _MORE
                piece = data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
                group = descriptors[number * MOST_DESCRIPTORS : (number + 1) * MOST_DESCRIPTORS]
                self._wait()
                socket.send_fds(self.sock, [mark, piece], group)
        except OSError as error:
            raise HandoverFailed(f"{word} could not be sent: {error}") from error

    def receive(self, *expected: str) -> Message:
        """The next message, which must be one of the `expected` words. Raises HandoverFailed."""
        data, descriptors = bytearray(), list[int]()
        try:
            while self._receive_piece(data, descriptors) == _MORE:
                pass
            body = json.loads(data)
            word = body.pop("word")
            if word == "refused" and word not in expected:
                raise HandoverFailed(str(body.get("reason")))
            if word not in expected:
                raise ValueError(f"{word!r} came")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, HandoverFailed) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if isinstance(error, HandoverFailed):
                raise
            raise HandoverFailed(f"no word of {' or '.join(expected)}: {error}") from error
        return Message(word, body, descriptors)

    def _receive_piece(self, data: bytearray, descriptors: List[int]) -> bytes:
        self._wait()
        # Not `recv_fds`, which takes flags and does not pass them on: any child would inherit what came.
        room = socket.CMSG_SPACE(MOST_DESCRIPTORS * _number.itemsize)
        piece, ancillary, flags, _ = self.sock.recvmsg(PIECE_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, numbers in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors += array("i", numbers[: len(numbers) - len(numbers) % _number.itemsize])
        if not piece:
            raise HandoverFailed("the other process has ended")
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise HandoverFailed("not all of it fits: is the limit on open files too low?")
        data += piece[1:]
        return piece[:1]

    def _wait(self) -> None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it took too long")
        self.sock.settimeout(left_s)

    def close(self) -> None:
        """Close our end, which the other one sees."""
        self.sock.close()
