from __future__ import annotations

import io
import json
import os

import pytest

from commcli.relay.log import BURST, LINES_A_SECOND, MOST_EVENTS, MOST_LINE, MOST_SHORT, Log


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_is_held_back_and_counted() -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(out=out, unix=clock, monotonic=clock)
    for number in range(1000):
        log("junk", number=number)
    assert len(out.getvalue().splitlines()) == BURST
    assert log.held_back == 1000 - BURST
    clock.now = 1.0
    log("calm")
    assert out.getvalue().splitlines()[-2:] == [
        f"1970-01-01T00:00:01Z log_held_back of=junk lines={1000 - BURST}",
        "1970-01-01T00:00:01Z calm",
    ]


def test_what_was_held_back_is_told_also_when_nothing_else_happens() -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(out=out, unix=clock, monotonic=clock)
    for _ in range(BURST + 5):
        log("junk")
    log.tick(0.5)
    assert "held_back" not in out.getvalue()
    log.tick(1.0)
    log.tick(2.0)
    assert out.getvalue().count("log_held_back of=junk lines=5") == 1


def test_one_noisy_event_does_not_hide_another() -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(out=out, unix=clock, monotonic=clock)
    for _ in range(1000):
        log("junk")
    log("reload_refused", reason="etc/relay.json: no 'realm'")
    assert out.getvalue().splitlines()[-1].endswith("reload_refused reason=etc/relay.json: no 'realm'")


def test_a_day_of_noise_is_bounded() -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(out=out, unix=clock, monotonic=clock)
    for second in range(1000):
        clock.now = float(second)
        for _ in range(50):
            log("junk")
    written = [line for line in out.getvalue().splitlines() if "held_back" not in line]
    assert len(written) <= BURST + 1000 * LINES_A_SECOND


def test_names_of_events_do_not_grow_it() -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(out=out, unix=clock, monotonic=clock)
    for number in range(10 * MOST_EVENTS):
        log(f"made up {number}")
    assert len(log._buckets) <= MOST_EVENTS + 1
    assert len(out.getvalue().splitlines()) == MOST_EVENTS + BURST


@pytest.mark.parametrize("as_json", [False, True])
def test_a_secret_that_slips_in_does_not_get_out(as_json: bool) -> None:
    clock, out = _Clock(), io.StringIO()
    log = Log(as_json=as_json, out=out, unix=clock, monotonic=clock)
    log.hide(["hunter2", "hunter2-the-longer", "ab"])
    log("bug", error="KeyError: 'hunter2-the-longer' about a table", port=3478)
    assert "hunter2" not in out.getvalue() and "longer" not in out.getvalue()
    assert "KeyError: '***' about a table" in out.getvalue() and "3478" in out.getvalue()


def test_a_value_is_not_a_page() -> None:
    clock, out = _Clock(), io.StringIO()
    Log(out=out, unix=clock, monotonic=clock)("table_refused", reason="x" * 100_000)
    assert len(out.getvalue()) < 1000


def test_json_lines_stay_one_line_whatever_the_value() -> None:
    clock, out = _Clock(), io.StringIO()
    Log(as_json=True, out=out, unix=clock, monotonic=clock)("table_refused", reason='bad\n"sig"')
    assert len(out.getvalue().splitlines()) == 1
    assert json.loads(out.getvalue())["reason"] == 'bad\n"sig"'


def test_text_values_can_not_forge_a_second_line() -> None:
    clock, out = _Clock(), io.StringIO()
    Log(out=out, unix=clock, monotonic=clock)("table_refused", reason="bad\n1970 forged")
    assert len(out.getvalue().splitlines()) == 1


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_stops_nothing() -> None:
    clock = _Clock()
    Log(out=_Full(), unix=clock, monotonic=clock)("relay_started")


def test_a_reader_that_stops_reading_holds_up_nothing() -> None:
    """In a pipe that nobody empties every write beyond its size would wait for ever."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out, os.fdopen(reading, "rb"):
        log = Log(out=out)
        for number in range(400):
            log(f"event_{number % 200}", text="x" * 400)
        assert log.held_back > 0


def test_a_long_line_fits_where_there_is_room_for_one() -> None:
    out = io.StringIO()
    Log(out=out, as_json=True)("event", **{f"key{n}": "\u00e9" * 500 for n in range(8)})
    assert len(out.getvalue().encode()) < MOST_LINE
    assert json.loads(out.getvalue())["key7"] == "\u00e9" * MOST_SHORT
