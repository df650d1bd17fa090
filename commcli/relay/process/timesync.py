"""How far this machine's clock may be off, by the kernel's own book: adjtimex(2)."""

from __future__ import annotations

from commcli.relay.mesh.stamp import UNKNOWN_CLOCK, ErrorEstimate

TIME_ERROR, STA_UNSYNC = 5, 0x0040  # sys/timex.h
# ntpd and chronyd tell the kernel how far off the clock may be; systemd-timesyncd tells it 0 and leaves it to grow.
# What is smaller than this nobody who synchronises over a network can promise.
SMALLEST_S = 0.001


def judged(state: int, status: int, largest_us: int, estimated_us: int) -> ErrorEstimate:
    """Of what adjtimex gave: its return value, and `status`, `maxerror` and `esterror` (microseconds)."""
    if state < 0 or state == TIME_ERROR or status & STA_UNSYNC:
        return UNKNOWN_CLOCK
    return ErrorEstimate(True, max(largest_us / 1e6, estimated_us / 1e6, SMALLEST_S))


def clock() -> ErrorEstimate:
    """Now, of this machine; UNKNOWN_CLOCK where the kernel does not tell."""
    try:
        import ctypes
    except ImportError:  # of a python that was cut small
        return UNKNOWN_CLOCK

    class Timex(ctypes.Structure):
        _fields_ = [
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_long * 64),  # more than there is
        ]

    found = Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(found))
    except (OSError, AttributeError):
        return UNKNOWN_CLOCK
    return judged(state, found.status, found.maxerror, found.esterror)
