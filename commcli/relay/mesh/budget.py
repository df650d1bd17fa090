"""How much a node may measure."""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """Test packets a second: to all peers together, and to one at most."""

    packets_a_second: float = 200.0
    per_peer: float = 5.0


SMALLEST = 0.001
# A relay's timers are 20 ms apart.
USUAL, MOST = Budget(), Budget(10_000.0, 50.0)
