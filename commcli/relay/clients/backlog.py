"""What a stream's client has not read yet: whole frames, of which the stalest go when there are too many.

The oldest media is dropped, not the newest: by the time the client reads again, the oldest is of no use to a call,
and everything behind it would come that much later. Replies to requests are never dropped, because over a stream
nobody retransmits (RFC 8489 section 6.2.2) and the client would wait 40 s for one; they also go before the media.
What the socket has taken a part of stays, so no frame is ever torn.

Pure: no socket, no clock.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Dict, List, Mapping, Tuple

# One turn's write: a system call for it pays, and the next client's turn is not far.
BATCH_BYTES = 1 << 16
BATCH_FRAMES = 64
# What a frame costs beyond its bytes. Without it a queue of tiny frames would be far larger than its limit says.
FRAME_COST = 128

_DATA_INDICATION = b"\x00\x17"


def is_media(frame: bytes) -> bool:
    """ChannelData or a Data indication: what may be lost."""
    return frame[0] >= 0x40 or frame[:2] == _DATA_INDICATION


class Backlog:
    """One client's unread frames. `limit` counts the memory they take; `stale_s` is the age at which media is no
    longer sent. `moved` is the time at which the client last took something, or the first frame was put."""

    __slots__ = (
        "_control",
        "_media",
        "_started",
        "control_bytes",
        "limit",
        "media_bytes",
        "moved",
        "stale_s",
    )

    def __init__(self, limit: int, stale_s: float, now: float) -> None:
        self.limit, self.stale_s, self.moved = limit, stale_s, now
        self.control_bytes = self.media_bytes = 0
        self._started = b""
        self._control: Deque[bytes] = deque()
        self._media: Deque[Tuple[float, bytes]] = deque()

    def __len__(self) -> int:
        """Pieces that wait."""
        return bool(self._started) + len(self._control) + len(self._media)

    @property
    def size(self) -> int:
        """The memory that it takes, in bytes."""
        return len(self._started) + self.control_bytes + self.media_bytes

    def start(self, rest: bytes) -> None:
        """`rest` is what the socket did not take of something it has begun: it goes before all else."""
        self._started = rest

    @property
    def unread(self) -> int:
        """The part that cannot be dropped."""
        return len(self._started) + self.control_bytes

    @property
    def started(self) -> bytes:
        return self._started

    def put(self, frame: bytes, now: float) -> int:
        """Queue a frame (or several that stay together); how many old ones went for it."""
        cost = len(frame) + FRAME_COST
        if not is_media(frame):
            self._control.append(frame)
            self.control_bytes += cost
        else:
            self._media.append((now, frame))
            self.media_bytes += cost
        dropped = 0
        while self.size > self.limit and self._media:
            self._drop_oldest()
            dropped += 1
        return dropped

    def drop_stale(self, now: float) -> int:
        """Drop media that has waited for `stale_s`; how many frames."""
        dropped = 0
        while self._media and now - self._media[0][0] >= self.stale_s:
            self._drop_oldest()
            dropped += 1
        return dropped

    def _drop_oldest(self) -> None:
        _, frame = self._media.popleft()
        self.media_bytes -= len(frame) + FRAME_COST

    def kept(self, now: float) -> Dict[str, Any]:
        """All of it for another process (JSON)."""
        return {
            "idle_s": now - self.moved,
            "started": self._started.hex(),
            "control": [frame.hex() for frame in self._control],
            "media": [(now - put, frame.hex()) for put, frame in self._media],
        }

    def take(self, kept: Mapping[str, Any], now: float) -> None:
        """Go on with what another process `kept`. Raises ValueError, KeyError or TypeError."""
        self.moved = now - kept["idle_s"]
        self._started = bytes.fromhex(kept["started"])
        for frame in kept["control"]:
            self.put(bytes.fromhex(frame), now)
        for age_s, frame in kept["media"]:
            self.put(bytes.fromhex(frame), now - age_s)

    def batch(self, most_bytes: int = BATCH_BYTES) -> List[bytes]:
        """What is to be sent next, in order; `sent` says how much of it went."""
        batch = [self._started] if self._started else []
        size = len(self._started)
        for frame in self._control:
            if size >= most_bytes or len(batch) >= BATCH_FRAMES:
                return batch
            batch.append(frame)
            size += len(frame)
        for _, frame in self._media:
            if size >= most_bytes or len(batch) >= BATCH_FRAMES:
                break
            batch.append(frame)
            size += len(frame)
        return batch

    def sent(self, count: int, now: float) -> None:
        """The first `count` bytes of the last `batch` are out."""
        if count:
            self.moved = now
        if self._started:
            step = min(count, len(self._started))
            self._started = self._started[step:]
            count -= step
        while count:
            if self._control:
                frame = self._control.popleft()
                self.control_bytes -= len(frame) + FRAME_COST
            else:
                _, frame = self._media.popleft()
                self.media_bytes -= len(frame) + FRAME_COST
            self._started = frame[count:]
            count = max(0, count - len(frame))
