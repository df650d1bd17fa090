"""TURN messages in a byte stream (RFC 8656 section 3.1, RFC 8489 section 6.2.2): bytes in, whole frames out.

A frame is a STUN message (20 bytes and what its length says) or a ChannelData message (4 bytes and what its length
says, padded to a multiple of four on a stream: RFC 8656 section 12.5). Nothing else may stand in the stream, and
there is no way to find the next frame after something else, so whatever can be neither is an error at once.

Pure: no socket, no clock. What is held is less than one frame of `limit` bytes and what one `feed` brought.
"""

from __future__ import annotations

from typing import List

from commcli.relay.turn.allocation import CHANNEL_HIGH, CHANNEL_LOW
from commcli.relay.turn.stun import COOKIE_BYTES, HEADER_SIZE

# No UDP payload that a relay can pass on needs more, its STUN or ChannelData header included.
MAX_FRAME = 1 << 16
# A request with the longest user name, realm and nonce of RFC 8489 (513, 763 and 763 bytes) has half of this.
MAX_REQUEST = 4096
# As many frames a turn as datagrams of one socket (udp.DRAIN): 64 kB of empty frames are 16 000 of them.
MOST = 64

_CHANNEL_HEADER = 4
# The channel numbers that a ChannelBind may ask for (allocation.CHANNEL_LOW and CHANNEL_HIGH), by their first byte.
_CHANNEL_FIRST, _CHANNEL_END = CHANNEL_LOW >> 8, (CHANNEL_HIGH >> 8) + 1
_PREFIX = 8  # length and magic cookie: enough to tell a STUN message from junk


class FrameError(ValueError):
    """The stream is not TURN. `str(e)` is one short word, fit for a counter's name."""


class Frames:
    """Cuts a stream into frames.

    `limit` (bytes of one frame) may be changed at any time. `more`: another `feed()` may find frames in what is
    already here; call it before reading on.
    """

    __slots__ = ("_need", "_rest", "limit", "more")

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self.more = False
        self._rest = bytearray()
        self._need = _CHANNEL_HEADER  # with fewer bytes than that in _rest nothing new can be said

    def __len__(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._rest)

    @property
    def rest(self) -> bytes:
        """What waits: the beginning of a frame or, with `more`, whole ones too."""
        return bytes(self._rest)

    def put_back(self, rest: bytes, *, more: bool) -> None:
        """Begin with the `rest` of another process, and its `more`."""
        self._rest += rest
        self.more = more

    def feed(self, data: bytes = b"", most: int = MOST) -> List[bytes]:
        """Up to `most` whole frames, in order.

        Raises FrameError when the stream goes on with what is no frame. Frames before that are given first: then
        `more` is set and the next call raises.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: List[bytes] = []
        at, end = 0, len(data)
        self.more = False
        self._need = _CHANNEL_HEADER
        while end - at >= _CHANNEL_HEADER:
            if len(frames) == most:
                self.more = True
                break
            try:
                size = self._size(data, at)
            except FrameError:
                if not frames:
                    raise
                self.more = True
                break
            if end - at < size:
                self._need = size
                break
            frames.append(data[at : at + size])
            at += size
        if at < end:
            self._rest += data[at:]
        return frames

    def _size(self, data: bytes, at: int) -> int:
        """Bytes of the frame at `at`, or as many as are needed to tell."""
        first, length = data[at], data[at + 2] << 8 | data[at + 3]
        if first < _CHANNEL_FIRST:
            if length & 3:
                raise FrameError("length")
            prefix = data[at + 4 : at + _PREFIX]
            if prefix != COOKIE_BYTES[: len(prefix)]:
                raise FrameError("cookie")
            size = HEADER_SIZE + length
        elif first < _CHANNEL_END:
            size = _CHANNEL_HEADER + length + (-length & 3)
        else:
            raise FrameError("type")
        if size > self.limit:
            raise FrameError("oversize")
        return size
