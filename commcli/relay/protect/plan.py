"""What a controller decides for one class on one directed segment."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple


class Plan(NamedTuple):
    """How to protect.

    resend: keep what is sent for retransmission. copies: (spacing in packets, and in seconds if fewer come).
    parity: (k, m, seconds that a block may wait, depth of interleaving). backup: a copy over the disjoint backup.
    leave: ask for another path. reason: one line for the operator.
    """

    resend: bool = False
    copies: Optional[Tuple[int, float]] = None
    parity: Optional[Tuple[int, int, float, int]] = None
    backup: bool = False
    leave: bool = False
    reason: str = ""


NOTHING = Plan()
UNMEASURED = Plan(resend=True, reason="unmeasured")
UNPROTECTED = Plan(reason="asked for no repair")
