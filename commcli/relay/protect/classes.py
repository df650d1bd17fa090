"""What kind of media a flow carries, by the sizes and the spacing of its packets: all that encrypted RTP shows.

Audio comes in small packets of much the same size, every 10 to 60 ms. Video comes in large ones, several at the same
instant for one frame. One flow often carries both (BUNDLE, RFC 9143), so that a flow has no class: it has a size
up to which its packets are audio. STUN, DTLS and the rest are for the caller to tell by the first byte
(RFC 7983: RTP and RTCP have 128..191) and are OTHER.
"""

from __future__ import annotations

from operator import sub
from typing import List, Optional, Sequence, Tuple

OTHER, AUDIO, VIDEO = 0, 1, 2

AUDIO_MOST_BYTES = 520  # 60 ms of G.711, and Opus up to 180 kbit/s at 20 ms
SAME_INSTANT_S = 0.0015
LEAST_GAP_S, MOST_GAP_S = 0.007, 0.075
# A look at a flow ends after some time, when it saw enough; then nothing is looked at for a while. The first one says
# what it has seen already after so many packets.
LOOK_S, ENOUGH_PACKETS, FIRST_LOOKS = 0.4, 12, (4, 8, 16)
REST_S = 3.0
MAX_SMALL = 64  # that a look remembers
# Audio shows at least so many packets in a look; such shares of them are of its usual size, and at its usual distance.
LEAST_AUDIO, ALIKE = 8, 0.75
EVEN, STILL_EVEN = 0.85, 0.7  # to be taken for audio, to remain so
LEAST_TOGETHER = 3
CONTRARY_LOOKS = 3  # so many in a row, to take back what was found


class Classifier:
    """One flow, in one direction. `word` costs a comparison or two, but while it looks."""

    __slots__ = (
        "_against_audio", "_against_video", "_is_known", "_large_word", "_limit", "_rests_until", "_seen",
        "_small_word", "has_audio", "has_video",
    )  # fmt: skip

    def __init__(self) -> None:
        self.has_audio = self.has_video = False
        self._small_word = self._large_word = OTHER
        self._limit = AUDIO_MOST_BYTES  # up to here a packet is a small one
        self._against_audio = self._against_video = 0
        self._rests_until = float("-inf")
        self._is_known = False
        self._seen: Optional[_Seen] = None

    def word(self, size: int, now: float) -> int:
        """OTHER, AUDIO or VIDEO for a packet of so many bytes."""
        if now >= self._rests_until:
            self._look(size, now)
        return self._small_word if size <= self._limit else self._large_word

    def word_of_burst(self, sizes: Sequence[int], now: float) -> int:
        """One word for packets that came at the same instant, at least one: that of the largest."""
        if now >= self._rests_until:
            for size in sizes:
                self._look(size, now)
                if now < self._rests_until:
                    break
        return self._small_word if max(sizes) <= self._limit else self._large_word

    def _look(self, size: int, now: float) -> None:
        seen = self._seen
        if seen is None:
            seen = self._seen = _Seen(now)
        seen.add(size, now)
        elapsed = now - seen.began
        if elapsed >= 4 * LOOK_S or (elapsed >= LOOK_S and seen.count >= ENOUGH_PACKETS):
            self._judge(seen)
            self._is_known = self.has_audio or self.has_video
            is_clear = self.has_audio or (self.has_video and len(seen.sure_sizes()) < LEAST_AUDIO)
            self._rests_until = now + (REST_S if is_clear else LOOK_S)
            self._seen = None
        elif not self._is_known and seen.count in FIRST_LOOKS:
            self._judge(seen)

    def _judge(self, seen: _Seen) -> None:
        """Bring what is known into line with what was seen; too little is no evidence, as in a silence (Opus DTX)."""
        if seen.count < (ENOUGH_PACKETS if self._is_known else FIRST_LOOKS[0]):
            return
        audio_limit = seen.audio_limit(STILL_EVEN if self.has_audio else EVEN)
        is_video = seen.is_video(audio_limit)
        self._against_audio = 0 if audio_limit is not None else self._against_audio + 1
        self._against_video = 0 if is_video else self._against_video + 1
        if self._against_audio in (0, CONTRARY_LOOKS):
            self.has_audio = audio_limit is not None
            self._limit = audio_limit or AUDIO_MOST_BYTES
        if self._against_video in (0, CONTRARY_LOOKS):
            self.has_video = is_video
        self._small_word = AUDIO if self.has_audio else VIDEO if self.has_video else OTHER
        # What is large in a flow of audio is a picture that just began.
        self._large_word = VIDEO if self.has_video or self.has_audio else OTHER


class _Seen:
    """What one look at a flow has seen."""

    __slots__ = ("_large_at", "_last", "_small", "began", "count", "large", "together")

    def __init__(self, now: float) -> None:
        self.began = now
        self.count = self.large = self.together = 0
        # (size, time, whether it can not be the rest of a frame, which follows a large one at once)
        self._small: List[Tuple[int, float, bool]] = []
        self._large_at = self._last = float("-inf")

    def add(self, size: int, now: float) -> None:
        """One more packet."""
        self.count += 1
        if now - self._last < SAME_INSTANT_S:
            self.together += 1
        self._last = now
        if size > AUDIO_MOST_BYTES:
            self.large += 1
            self._large_at = now
        elif len(self._small) < MAX_SMALL:
            self._small.append((size, now, now - self._large_at >= SAME_INSTANT_S))

    def sure_sizes(self) -> List[int]:
        """Those of small packets that are no rest of a frame, ascending."""
        return sorted(size for size, _, is_sure in self._small if is_sure)

    def audio_limit(self, least_even: float) -> Optional[int]:
        """The size up to which packets are audio, None if none are: alike in size and evenly spaced."""
        sizes = self.sure_sizes()
        if len(sizes) < LEAST_AUDIO:
            return None
        middle = sizes[len(sizes) // 2]
        least, most = middle / 2, 1.7 * middle
        if sum(least <= size <= most for size in sizes) < ALIKE * len(sizes):
            return None
        alike = [time for size, time, _ in self._small if least <= size <= most]
        gaps = sorted(map(sub, alike[1:], alike))
        usual = gaps[len(gaps) // 2]
        even = sum(0.5 * usual <= gap <= 1.5 * usual for gap in gaps)
        if not LEAST_GAP_S <= usual <= MOST_GAP_S or even < least_even * len(gaps):
            return None
        return min(AUDIO_MOST_BYTES, max(2 * middle, 160))

    def is_video(self, audio_limit: Optional[int]) -> bool:
        """Whether one in ten is large, or without audio many come at the same instant."""
        large = self.large
        if audio_limit is not None:
            large += sum(size > audio_limit for size, _, _ in self._small)
        if large >= 2 and large >= self.count / 10:
            return True
        return audio_limit is None and self.together >= max(LEAST_TOGETHER, 0.3 * self.count)
