from __future__ import annotations

import pytest

from tests.wan import media
from tests.wan.media import AUDIO, VIDEO, Tally


def test_a_call_is_fifty_audio_packets_and_thirty_frames_a_second() -> None:
    sends = list(media.schedule(10, 1))
    audio = [size for _, class_, size in sends if class_ == AUDIO]
    frames = {at for at, class_, _ in sends if class_ == VIDEO}
    assert (len(audio), set(audio)) == (500, {media.AUDIO_BYTES})
    assert len(frames) == 300
    assert [at for at, _, _ in sends] == sorted(at for at, _, _ in sends)


def test_video_has_its_rate_in_packets_that_fit() -> None:
    sizes = [size for _, class_, size in media.schedule(30, 1) if class_ == VIDEO]
    assert max(sizes) == media.VIDEO_PACKET_BYTES
    assert 8 * sum(sizes) / 30 == pytest.approx(1000 * media.VIDEO_KBIT, rel=0.15)


def test_a_tally_counts_each_packet_once() -> None:
    tally = Tally(sent=4, first=10)
    for number, unix in ((10, 1.05), (12, 1.06), (12, 1.07), (9, 1.08)):
        tally.came(media.packet(AUDIO, 0, number, 122, 1.0), unix)
    assert tally.residual == 0.5
    assert tally.duplicates == 1
    assert tally.delays_s == [pytest.approx(0.05), pytest.approx(0.06)]


def test_a_damaged_packet_did_not_arrive() -> None:
    tally = Tally(sent=1)
    tally.came(media.packet(VIDEO, 0, 0, 500, 1.0)[:-1] + b"?", 1.1)
    assert (tally.residual, tally.damaged) == (1.0, 1)


def test_nothing_sent_is_not_nothing_lost() -> None:
    assert Tally().residual is None


@pytest.mark.parametrize("payload", [b"", b"\x80", bytes(16), b"\x80\x03" + bytes(14)])
def test_packets_of_others_are_not_ours(payload: bytes) -> None:
    with pytest.raises(ValueError):
        media.class_of(payload)
    assert media.class_of(media.packet(VIDEO, 3, 4, 100, 5.0)) == VIDEO
