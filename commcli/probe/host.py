"""What a probe host says of itself: event-loop lag, stolen CPU, its clock. A starved host looks like a bad network."""

from __future__ import annotations

import asyncio
import ctypes
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

from commcli.probe.clock import KernelClock

# Beyond these the figures are about the probe host and not about the network (reference: aiortc).
MAX_LAG_P99_MS = 20.0
# One stall as long as this is a freeze to every definition of one, however rare it is.
MAX_STALL_MS = 150.0
MIN_FPS_SHARE = 0.95

_TICK_S = 0.02
_STA_UNSYNC = 0x40
_TIME_ERROR = 5


class LoopLag:
    """Samples how late the event loop wakes a sleeper, since it was made: 50 times a second while it runs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._woken_s = clock()
        self._samples_ms: list[float] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            self.woken()

    def woken(self) -> None:
        """The sleeper is awake: a sample."""
        self._samples_ms.append(self._late_ms())
        self._woken_s = self._clock()

    def samples_ms(self) -> list[float]:
        """All samples, and how late the next one is already: a stall at the end shows too."""
        return [*self._samples_ms, self._late_ms()]

    def _late_ms(self) -> float:
        return 1000 * max(0.0, self._clock() - self._woken_s - _TICK_S)


class CpuClock:
    """This process's CPU use and the machine's stolen share since it was made."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._used = _cpu_seconds()
        self._stat = _stat()

    def cores(self) -> float:
        """Cores that this process kept busy (1.0 = one)."""
        return (_cpu_seconds() - self._used) / max(1e-9, time.monotonic() - self._started)

    def steal(self) -> float | None:
        """The share 0..1 of the machine's CPU time that its hypervisor took; None where /proc does not say."""
        now = _stat()
        if self._stat is None or now is None:
            return None
        total = now[0] - self._stat[0]
        return (now[1] - self._stat[1]) / total if total > 0 else 0.0


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _stat() -> tuple[int, int] | None:
    """(all jiffies, stolen jiffies) of /proc/stat."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(fields), fields[7]) if len(fields) == 8 else None


def kernel_clock() -> KernelClock:
    """Which kernel this is, and how wrong its wall clock may be (adjtimex, read only)."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot_id = None
    return KernelClock(boot_id, _max_error_ms())


def _max_error_ms() -> float | None:
    # struct timex on 64-bit Linux: u32 modes, pad, then i64 offset, freq, maxerror, esterror (us), i32 status.
    if ctypes.sizeof(ctypes.c_long) != 8:
        return None
    buffer = ctypes.create_string_buffer(512)
    try:
        state = ctypes.CDLL(None).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    _, _, _, max_error_us, _, status = struct.unpack_from("=I4xqqqqi", buffer.raw)
    if state < 0 or state == _TIME_ERROR or status & _STA_UNSYNC:
        return None
    return float(max_error_us) / 1000


def starved(lag_p99_ms: float | None, fps_share: float | None, longest_ms: float | None = None) -> str | None:
    """How this host was starved, so that its figures are not to be believed; None when they are."""
    reasons = []
    if lag_p99_ms is None:
        reasons.append("event-loop lag not measured")
    elif lag_p99_ms > MAX_LAG_P99_MS:
        reasons.append(f"event-loop lag p99 {lag_p99_ms:.0f} ms")
    if longest_ms is not None and longest_ms > MAX_STALL_MS:
        reasons.append(f"event loop stood still for {longest_ms:.0f} ms")
    if fps_share is not None and fps_share < MIN_FPS_SHARE:
        reasons.append(f"sent {100 * fps_share:.0f} % of its frames")
    return ", ".join(reasons) or None
