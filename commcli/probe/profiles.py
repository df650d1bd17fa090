"""What a probe call sends: the profiles by name. Values only, so that the controller knows them without a codec."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes in pixels, rates in kbit/s of the codecs' output. No video when `fps` is 0."""

    width: int
    height: int
    fps: int
    video_kbps: int
    audio_kbps: int
    audio_packet_ms: int = 20
    ping_interval_s: float = 0.1


PROFILES = {
    "hd": Profile(640, 360, 30, 900, 40),
    "sd": Profile(320, 180, 15, 250, 40),
    "audio": Profile(0, 0, 0, 0, 40),
    # All in 62 kbit/s on the wire, so that 80 have room for what is sent again: a packet costs 66 bytes of headers, so
    # audio sends few of them, and pings, which cost twice as much, are rare.
    "weak": Profile(160, 120, 10, 22, 16, audio_packet_ms=60, ping_interval_s=1.0),
}
