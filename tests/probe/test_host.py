"""What makes a probe host's figures unbelievable."""

from __future__ import annotations

import pytest

from commcli.probe.host import CpuClock, LoopLag, kernel_clock, starved


@pytest.mark.parametrize(
    ("lag_p99_ms", "share", "reason"),
    [
        (20.0, 0.95, None),
        (3.0, None, None),
        (20.6, 1.0, "event-loop lag p99 21 ms"),
        (3.0, 0.94, "sent 94 % of its frames"),
        (80.0, 0.5, "event-loop lag p99 80 ms, sent 50 % of its frames"),
        (None, 1.0, "event-loop lag not measured"),
    ],
)
def test_starved(lag_p99_ms: float | None, share: float | None, reason: str | None) -> None:
    assert starved(lag_p99_ms, share) == reason


def test_one_long_stall_is_enough() -> None:
    assert starved(3.0, 1.0, 150.0) is None
    assert starved(3.0, 1.0, 480.4) == "event loop stood still for 480 ms"


def test_a_stall_shows_wherever_it_falls() -> None:
    now = [10.0]
    lag = LoopLag(lambda: now[0])
    now[0] += 0.52  # before the first sample
    assert lag.samples_ms() == [pytest.approx(500)]
    lag.woken()
    now[0] += 0.021
    lag.woken()
    now[0] += 0.32  # after the last one
    assert lag.samples_ms() == pytest.approx([500, 1, 300])


def test_this_machine_says_something_of_itself() -> None:
    clock = CpuClock()
    sum(range(100_000))
    assert clock.cores() > 0
    steal = clock.steal()
    assert steal is None or 0 <= steal <= 1
    assert kernel_clock().boot_id == kernel_clock().boot_id is not None
