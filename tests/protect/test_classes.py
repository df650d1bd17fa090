"""What the sizes and spacing of encrypted RTP tell: audio, video, both on one flow, or neither."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.protect.classes import AUDIO, MAX_SMALL, OTHER, VIDEO, Classifier

Packet = tuple[float, int, int]  # when it arrives, its size, the class it truly is of


def audio(
    seconds: float, every_s: float = 0.02, size: int = 100, spread: float = 0.25, jitter_s: float = 0.003
) -> list[Packet]:
    """Opus of a variable bit rate."""
    source = random.Random(f"{every_s} {size}")
    packets = []
    for number in range(int(seconds / every_s)):
        when = number * every_s + source.uniform(0, jitter_s)
        packets.append((when, max(40, int(source.gauss(size, spread * size))), AUDIO))
    return packets


def video(seconds: float, fps: float, bitrate: float, even: bool = True) -> list[Packet]:
    """Frames of several packets; even: cut into equal parts as libwebrtc does, or full ones and a rest (aiortc)."""
    source = random.Random(f"{fps} {bitrate}")
    packets = []
    for number in range(int(seconds * fps)):
        left = max(
            150, int(bitrate / 8 / fps * source.lognormvariate(-0.1, 0.4) * (6 if number % 90 == 0 else 1))
        )
        count = -(-left // 1150)
        when = number / fps + source.uniform(0, 0.004)
        for index in range(count):
            size = left // count if even else min(left, 1150)
            left -= 0 if even else size
            packets.append((when + index * 0.0002, size + 30, VIDEO))
    return packets


def judged(packets: list[Packet], begin_s: float = 1.0) -> dict[tuple[int, int], int]:
    """{(true class, word): how many}, of the packets after begin_s."""
    classifier = Classifier()
    found: dict[tuple[int, int], int] = {}
    for when, size, truth in sorted(packets):
        word = classifier.word(size, 100 + when)
        if when >= begin_s:
            found[truth, word] = found.get((truth, word), 0) + 1
    return found


def right(found: dict[tuple[int, int], int], truth: int) -> float:
    """Which share of that class was told as such."""
    return found.get((truth, truth), 0) / sum(count for (true, _), count in found.items() if true == truth)


@pytest.mark.parametrize(("every_s", "size"), [(0.01, 70), (0.02, 50), (0.02, 100), (0.02, 350), (0.06, 480)])
@pytest.mark.parametrize("jitter_s", [0.0, 0.008, 0.015])
def test_audio_alone(every_s: float, size: int, jitter_s: float) -> None:
    if jitter_s > every_s:
        jitter_s = every_s
    spread = 0.3 if size < 200 else 0.1 if size < 400 else 0.02
    assert right(judged(audio(20, every_s, size, spread, jitter_s)), AUDIO) > 0.98


def test_audio_is_known_after_some_packets() -> None:
    classifier = Classifier()
    words = [classifier.word(size, when) for when, size, _ in audio(1)]
    assert words[0] == OTHER and words[8:] == [AUDIO] * 42


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(("fps", "bitrate"), [(30, 300_000), (30, 1_000_000), (15, 500_000), (60, 4_000_000)])
def test_video_alone(fps: float, bitrate: float, even: bool) -> None:
    assert right(judged(video(20, fps, bitrate, even)), VIDEO) > 0.98


def test_video_is_known_from_its_first_frame_on() -> None:
    classifier = Classifier()
    words = [classifier.word(size, when) for when, size, _ in video(1, 30, 2_000_000)]
    assert words[4:] == [VIDEO] * (len(words) - 4)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(
    ("fps", "bitrate"), [(10, 80_000), (15, 200_000), (30, 600_000), (30, 2_500_000), (60, 8_000_000)]
)
def test_both_on_one_flow_are_told_apart_packet_by_packet(fps: float, bitrate: float, even: bool) -> None:
    found = judged(audio(30) + video(30, fps, bitrate, even))
    assert right(found, AUDIO) > 0.95
    # The small rest of a frame looks like audio: it gets what audio gets.
    assert right(found, VIDEO) > (0.95 if even else 0.75)


def test_a_silence_does_not_make_audio_something_else() -> None:
    """Opus DTX: a packet every 400 ms."""
    classifier = Classifier()
    for when, size, _ in audio(3):
        classifier.word(size, when)
    assert [classifier.word(41, 3 + number * 0.4) for number in range(100)] == [AUDIO] * 100


def test_video_that_begins_in_a_call_is_video_at_once() -> None:
    classifier = Classifier()
    for when, size, _ in audio(3):
        classifier.word(size, when)
    assert classifier.word(1100, 3.0) == VIDEO
    assert classifier.word(100, 3.001) == AUDIO


def test_a_flow_that_turns_from_audio_to_video_is_told_so_in_the_end() -> None:
    late = [(when + 5, size, truth) for when, size, truth in video(30, 30, 400_000)]
    found = judged(audio(5) + late, begin_s=18)
    assert right(found, VIDEO) > 0.98


@pytest.mark.parametrize("every_s", [0.2, 1.0, 5.0])
def test_a_few_control_packets_are_neither(every_s: float) -> None:
    classifier = Classifier()
    assert {classifier.word(60 + number % 3, number * every_s) for number in range(60)} == {OTHER}


def test_small_packets_without_a_rhythm_are_neither() -> None:
    source = random.Random(1)
    when, found = 0.0, []
    classifier = Classifier()
    for _ in range(2000):
        when += source.expovariate(30)
        found.append(classifier.word(source.randrange(20, 520), when))
    assert found.count(OTHER) > 0.75 * len(found)


def test_bursts_are_judged_whole() -> None:
    classifier = Classifier()
    words = [classifier.word_of_burst([1100] * 5 + [300], number / 30) for number in range(30)]
    assert words[1:] == [VIDEO] * 29
    assert classifier.word_of_burst([90], 1.0) == VIDEO


def test_bursts_in_which_a_look_ends_do_not_blind_the_next() -> None:
    """Audio that begins after a minute of video is found, however the looks fall."""
    classifier = Classifier()
    for number in range(1800):
        classifier.word_of_burst([1100] * 20, number / 30)
    words = []
    for number in range(1500):
        if number % 5 < 3:
            classifier.word_of_burst([1100] * 20, 60 + number / 50 + 0.005)
        words.append(classifier.word_of_burst([100], 60 + number / 50))
    assert words[500:] == [AUDIO] * 1000


def test_single_packets_in_bursts_are_audio_too() -> None:
    classifier = Classifier()
    words = [classifier.word_of_burst([size], when) for when, size, _ in audio(1)]
    assert words[8:] == [AUDIO] * 42


@given(st.lists(st.tuples(st.integers(0, 65507), st.floats(-0.1, 3)), max_size=300))
def test_whatever_comes_it_answers_and_stays_small(packets: list[tuple[int, float]]) -> None:
    classifier, now = Classifier(), 0.0
    for size, pause in packets:
        now += pause
        assert classifier.word(size, now) in (OTHER, AUDIO, VIDEO)
        assert classifier.word_of_burst([size] * 3, now) in (OTHER, AUDIO, VIDEO)
        assert classifier._seen is None or len(classifier._seen._small) <= MAX_SMALL
