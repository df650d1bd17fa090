"""What a receiver of video asks of its sender: lost packets again (RFC 4585 NACK), a key frame when that does not help.

aiortc asks once for each loss and then waits until its buffer is full, ten seconds at worst; a browser asks again
after each round trip. A freeze that a probe reports has to be one that a user would have seen, so we ask as libwebrtc
does (nack_requester.cc, video_receive_stream2.cc).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiortc.codecs.vpx import VpxPayloadDescriptor

TICK_S = 0.02
# libwebrtc: kMaxNackRetries, kMaxNackPackets, kMaxWaitForFrame, kMaxWaitForKeyFrame.
MOST_TIMES = 10
MOST_PACKETS = 1000
FRAME_WAIT_S = 3.0
KEY_FRAME_WAIT_S = 0.2
# Where the round trip is not known yet.
FIRST_RTT_S = 0.1
# The answer takes a little more than the round trip; asking in that moment has it sent twice.
_PATIENCE = 1.25


@dataclass(slots=True)
class _Wanted:
    times: int = 0
    asked_s: float = 0.0


class Missing:
    """Which packets of one stream have not come, and when to ask for them. Pure: `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._highest: int | None = None
        self._wanted: dict[int, _Wanted] = {}

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def came(self, number: int) -> bool:
        """The packet `number` (16 bits) is here, at last or in its turn; whether others turn out to be missing."""
        if self._highest is None:
            self._highest = number
            return False
        ahead = ((number - self._highest + 0x8000) & 0xFFFF) - 0x8000
        if ahead <= 0:
            self._wanted.pop(number, None)
            return False
        for lost in range(self._highest + 1, self._highest + ahead):
            self._wanted[lost & 0xFFFF] = _Wanted()
        while len(self._wanted) > MOST_PACKETS:
            del self._wanted[next(iter(self._wanted))]
        self._highest = number
        return ahead > 1

    def due(self, now: float, rtt_s: float) -> list[int]:
        """The numbers to ask for now; they count as asked for. What was asked for often enough is given up."""
        again = now - _PATIENCE * rtt_s
        due = [n for n, wanted in self._wanted.items() if not wanted.times or wanted.asked_s <= again]
        for number in due:
            wanted = self._wanted[number]
            wanted.times, wanted.asked_s = wanted.times + 1, now
            if wanted.times >= MOST_TIMES:
                del self._wanted[number]
        return sorted(due)

    def forget(self) -> None:
        """Nothing from before is of use any more."""
        self._wanted.clear()


class Stall:
    """When to ask for a key frame: pictures are due and none can be made. Pure: `now` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.waiting = False
        self._since = now
        self._asked_s = 0.0

    def moved(self, now: float) -> None:
        """A frame could be put together."""
        self._since = now
        self.waiting = False

    def due(self, now: float) -> bool:
        """Whether to ask now; it counts as asked."""
        if now - self._since < FRAME_WAIT_S or (self.waiting and now - self._asked_s < KEY_FRAME_WAIT_S):
            return False
        self.waiting, self._asked_s = True, now
        return True


class Feedback:
    """Asks the sender of the video of `receiver` (an RTCRtpReceiver).

    What it asked: `nacks` (unix seconds, how many packets) and `plis` (unix seconds).
    """

    def __init__(
        self,
        receiver: Any,
        rtt_s: Callable[[], float | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.nacks: list[tuple[float, int]] = []
        self.plis: list[float] = []
        self._buffer = receiver._RTCRtpReceiver__jitter_buffer
        self._broken = False
        self._rtt_s = rtt_s
        self._clock = clock
        self._ssrc: int | None = None
        self._missing = Missing()
        self._stall = Stall(clock())
        self._woken = asyncio.Event()
        self._nack, self._pli = receiver._send_rtcp_nack, receiver._send_rtcp_pli
        # It asks for everything once more whenever something new is missing, however short ago that was.
        receiver._RTCRtpReceiver__nack_generator = None
        # A picture that does not decode is aiortc's to find out, and to ask for.
        receiver._send_rtcp_pli = self._ask_key_frame

    def packet(self, ssrc: int, number: int, payload: bytes) -> None:
        """A packet of the video came, `number` being its own also where it was sent again. Before aiortc has it."""
        self._ssrc = ssrc
        if self._missing.came(number):
            self._woken.set()
        if (self._stall.waiting or self._broken) and starts_key_frame(payload):
            self._skip_to(number)
            self._broken = False
            self._stall.moved(self._clock())
        elif self._buffer.capacity <= self._ahead(number) < 0x8000:
            # aiortc makes room by dropping what it waited for, and asks for a key frame.
            self._broken = True

    def is_past(self, number: int) -> bool:
        """Whether this packet comes too late to be of use: aiortc would take it for a stream that began anew."""
        return self._ahead(number) >= 0x8000

    def frame(self) -> bool:
        """A picture came out of the decoder; whether it is whole, and not one made from others that never came."""
        if not self._broken:
            self._stall.moved(self._clock())
        return not self._broken

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._missing:
                # Looked at now and then also without a loss: the very end of the last frame may be what is missing.
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), KEY_FRAME_WAIT_S)
            if self._ssrc is not None:
                await self._ask(self._ssrc, self._clock())
            await asyncio.sleep(TICK_S)

    async def _ask(self, ssrc: int, now: float) -> None:
        numbers = self._missing.due(now, self._rtt_s() or FIRST_RTT_S)
        if numbers:
            self.nacks.append((time.time(), len(numbers)))
            await self._nack(ssrc, numbers)
        if self._stall.due(now):
            await self._ask_key_frame(ssrc)

    async def _ask_key_frame(self, ssrc: int) -> None:
        self.plis.append(time.time())
        await self._pli(ssrc)

    def _skip_to(self, number: int) -> None:
        """Nothing before this packet is waited for any more."""
        self._missing.forget()
        ahead = self._ahead(number)
        if 0 < ahead < 0x8000:
            self._buffer.remove(min(ahead, self._buffer.capacity))
            self._buffer._origin = number

    def _ahead(self, number: int) -> int:
        """How far this packet is after the first one that aiortc waits for, modulo 2^16."""
        origin = self._buffer._origin
        return 0 if origin is None else (number - origin) & 0xFFFF


def starts_key_frame(payload: bytes) -> bool:
    """Whether a VP8 payload is the beginning of a key frame (RFC 7741 4.2, 4.3)."""
    try:
        descriptor, data = VpxPayloadDescriptor.parse(payload)
    except (ValueError, IndexError):
        return False
    first = bool(descriptor.partition_start) and descriptor.partition_id == 0
    return first and bool(data) and not data[0] & 1
