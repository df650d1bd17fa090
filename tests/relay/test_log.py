from __future__ import annotations

import io
import json

from commcli.relay.log import LINES_A_SECOND, Log


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
    assert len(out.getvalue().splitlines()) == LINES_A_SECOND
    clock.now = 1.0
    log("calm")
    assert out.getvalue().splitlines()[-2:] == [
        f"1970-01-01T00:00:01Z log_held_back lines={1000 - LINES_A_SECOND}",
        "1970-01-01T00:00:01Z calm",
    ]


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
