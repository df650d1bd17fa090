"""What kind of media a flow carries, by the sizes and the spacing of its packets: all that encrypted RTP shows.

Audio comes in small packets of much the same size, every 10 to 60 ms. Video comes in large ones, several at the same
instant for one frame. One flow often carries both (BUNDLE, RFC 9143), so that a flow has no class: it has a size
up to which its packets are audio. STUN, DTLS and the rest are for the caller to tell by the first byte
(RFC 7983: RTP and RTCP have 128..191) and are OTHER.
"""

from __future__ import annotations

from operator import sub
from typing import List, Optional, Sequence

OTHER, AUDIO, VIDEO = 0, 1, 2

AUDIO_MOST_BYTES = 520  # 60 ms of G.711, and Opus up to 180 kbit/s at 20 ms
SAME_INSTANT_S = 0.0015
LEAST_GAP_S, MOST_GAP_S = 0.007, 0.075
# A look at a flow ends with so many packets, or with fewer after some time; then nothing is looked at for a while.
LOOK_PACKETS, FIRST_LOOKS = 96, (4, 8, 16)
LOOK_S, ENOUGH_PACKETS = 0.4, 12
REST_S = 2.0
CONTRARY_LOOKS = 3  # so many in a row, to take back what was found


class Classifier:
    """One flow, in one direction. `word` costs a comparison or two, but while it looks."""

    __slots__ = (
        "_against_audio", "_against_video", "_began", "_is_known", "_large_word", "_limit", "_next_try", "_rests_until",
        "_sizes", "_small_word", "_times", "has_audio", "has_video",
    )  # fmt: skip

    def __init__(self) -> None:
        self.has_audio = self.has_video = False
        self._small_word = self._large_word = OTHER
        self._limit = AUDIO_MOST_BYTES  # up to here a packet is a small one
        self._against_audio = self._against_video = 0
        self._rests_until = float("-inf")
        self._is_known = False
        self._began, self._next_try = 0.0, FIRST_LOOKS[0]
        self._sizes: List[int] = []
        self._times: List[float] = []

    def word(self, size: int, now: float) -> int:
        """OTHER, AUDIO or VIDEO for a packet of so many bytes."""
        if now >= self._rests_until:
            self._look(size, now)
        return self._small_word if size <= self._limit else self._large_word

    def word_of_burst(self, sizes: Sequence[int], now: float) -> int:
        """One word for packets that came at the same instant: that of the largest."""
        if now >= self._rests_until:
            for size in sizes[:LOOK_PACKETS]:
                self._look(size, now)
                if now < self._rests_until:
                    break
        return self._small_word if max(sizes) <= self._limit else self._large_word

    def _look(self, size: int, now: float) -> None:
        sizes = self._sizes
        if not sizes:
            self._began = now
        sizes.append(size)
        self._times.append(now)
        count, elapsed = len(sizes), now - self._began
        if count >= LOOK_PACKETS or (elapsed >= LOOK_S and count >= ENOUGH_PACKETS) or elapsed >= 4 * LOOK_S:
            if (
                count >= ENOUGH_PACKETS or not self._is_known
            ):  # a silence (Opus DTX) is no evidence against audio
                self._judge()
            self._is_known = self.has_audio or self.has_video
            self._rests_until = now + (REST_S if self._is_known else LOOK_S)
            self._sizes, self._times = [], []
        elif not self._is_known and count in FIRST_LOOKS:
            self._judge()

    def _judge(self) -> None:
        """Bring what is known into line with what was seen; too little is no evidence."""
        sizes = self._sizes
        if len(sizes) < FIRST_LOOKS[0]:
            return
        audio_limit = _audio_limit(sizes, self._times)
        is_video = _is_video(sizes, self._times, audio_limit)
        self._against_audio = 0 if audio_limit is not None else self._against_audio + 1
        self._against_video = 0 if is_video else self._against_video + 1
        self.has_audio = audio_limit is not None or (self.has_audio and self._against_audio < CONTRARY_LOOKS)
        self.has_video = is_video or (self.has_video and self._against_video < CONTRARY_LOOKS)
        if audio_limit is not None:
            self._limit = audio_limit
        elif not self.has_audio:
            self._limit = AUDIO_MOST_BYTES
        self._small_word = AUDIO if self.has_audio else VIDEO if self.has_video else OTHER
        # What is large in a flow of audio is a picture that just began.
        self._large_word = VIDEO if self.has_video or self.has_audio else OTHER


def _audio_limit(sizes: Sequence[int], times: Sequence[float]) -> Optional[int]:
    """The size up to which packets are audio, None if none are: alike in size and evenly spaced."""
    small = sorted(size for size in sizes if size <= AUDIO_MOST_BYTES)
    if len(small) < FIRST_LOOKS[0]:
        return None
    middle = small[len(small) // 2]
    alike = [
        time
        for size, time in zip(sizes, times)
        if middle / 2 <= size <= 1.7 * middle and size <= AUDIO_MOST_BYTES
    ]
    if len(alike) < 0.6 * len(small):
        return None
    gaps = sorted(map(sub, alike[1:], alike))
    if not gaps:
        return None
    usual = gaps[len(gaps) // 2]
    even = sum(0.5 * usual <= gap <= 1.5 * usual for gap in gaps)
    if not LEAST_GAP_S <= usual <= MOST_GAP_S or even < 0.6 * len(gaps):
        return None
    return min(AUDIO_MOST_BYTES, max(2 * middle, 160))


def _is_video(sizes: Sequence[int], times: Sequence[float], audio_limit: Optional[int]) -> bool:
    """Whether more than one in ten is large, or without audio many come at the same instant."""
    limit = AUDIO_MOST_BYTES if audio_limit is None else audio_limit
    large = sum(size > limit for size in sizes)
    if large >= 2 and large >= len(sizes) / 10:
        return True
    together = sum(gap < SAME_INSTANT_S for gap in map(sub, times[1:], times))
    return audio_limit is None and together >= 0.3 * len(sizes)
