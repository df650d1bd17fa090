"""Clean-up that a second Ctrl-C does not cut in half."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back while the body runs; what came meanwhile is dropped.

    For short clean-ups only (the lab's ends within seconds): the one who pressed Ctrl-C twice wants it gone, and
    this is how it goes. SIGKILL still works, and `lab down` then finds what is left.
    """
    held = {number: signal.signal(number, signal.SIG_IGN) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
