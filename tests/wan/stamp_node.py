"""A node of the mesh by itself, to run in a namespace: the relay's own sockets, sender and reflector, and no more.

The argument: {"node", "address", "peers" (of peers.json), "per_peer", "seconds"}. Its clock counts as good to a
millisecond, since all namespaces of a machine have the same. Prints the closed windows, a JSON object a line; the last
one is closed when the time is over and not at its end. Says when it is ready, and waits for a line before it begins.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

from commcli.relay.clients.udp import Egress, open_udp
from commcli.relay.loop import Loop
from commcli.relay.mesh.budget import MOST, Budget
from commcli.relay.mesh.stamp import ErrorEstimate
from commcli.relay.process.measuring import Measuring
from commcli.relay.process.stamped import StampedSocket

PORT = 3480
LINGER_S = 1.0


def main(argument: dict[str, Any]) -> None:
    """Measure for a while, and print what came of it."""
    drops: Counter[str] = Counter()
    stamps, answers = (
        StampedSocket(open_udp(argument["address"], port), drops, ttl=port == PORT) for port in (PORT, 0)
    )

    def tick(now: float) -> None:
        measuring.tick(now)
        if now > end + LINGER_S:
            loop.stop()
        elif now > end:
            measuring.mesh.spend(Budget(0.001, 0.001))

    loop = Loop(tick)
    measuring = Measuring(
        argument["node"], stamps, answers, Egress(drops), loop, Budget(MOST.packets_a_second, argument["per_peer"]),
        clock=lambda: ErrorEstimate(True, 0.001),
    )  # fmt: skip
    measuring.set_peers(argument["peers"])
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + argument["seconds"]
    loop.run()
    for session in measuring.mesh._sessions.values():
        while session.open:
            session.close()
    for row in measuring.mesh.rows():
        print(row, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
