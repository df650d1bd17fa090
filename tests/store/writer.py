"""A process that records without end and reports each record once it is done. Tests kill it.

python -m tests.store.writer DATABASE
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from commcli.store.sqlite import Store


def window(peer: str, start: int) -> dict[str, object]:
    """A window as a node reports it."""
    return {
        "peer": peer,
        "start": start,
        "seconds": 10,
        "sent": 100,
        "received": 99,
        "rtt_ms": None,
        "loss": 0.01,
    }


def main(path: Path) -> None:
    """Write, then say so: a line "n serial call" means that all of round n is kept."""
    with Store(path, clock=lambda: 1000.0) as store:
        for n in count(1):
            store.record_mesh("sg-1", [window(peer, n * 10) for peer in ("hk-1", "de-1", "br-1")])
            call = store.record_call({"n": n, "padding": "x" * 3000})
            store.record_table(
                n, b"manifest %d" % n, "sig", {"sg-1": b"s" * 2000, "hk-1": b"h" * 2000}, "published"
            )
            with store.audited("route apply", f"INC-{n}", {"serial": n}):
                print(f"audit {n}", flush=True)
            print(f"{n} {call}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
