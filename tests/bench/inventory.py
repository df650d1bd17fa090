"""How long an inventory of 1000 nodes takes to read and check, the first time and when it is kept.

A process a round, as a command is one; what is timed is the load, with whatever that has to import and no more.
`python -m tests.bench.inventory [NODES]`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import figures

ROOT = Path(__file__).parents[2]
NODES, ROUNDS = 1000, 9
FIRST_S, KEPT_S = 0.15, 0.02
ONCE = """
import sys, time
from pathlib import Path
import commcli.fleet
begun = time.perf_counter()
fleet = commcli.fleet.load(Path(sys.argv[1]))
print(time.perf_counter() - begun, len(fleet.nodes))
"""


def write(folder: Path, count: int) -> None:
    """The example's inventory with so many nodes, each with what nodes usually say."""
    folder.mkdir()
    for path in (ROOT / "inventory").glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    rows = "".join(
        f"  n{number:04}:\n    region: sgp\n    address: 10.{number // 250}.{number % 250}.7\n"
        f"    provider: p{number % 7}\n    tags: [metal, rack-{number % 40}]\n"
        f"    ssh: {{host: 192.168.{number // 250}.{number % 250}}}\n"
        f"    capacity: {{sessions: 4000, mbps: 2000}}\n    variables: {{slot: {number % 48}}}\n"
        for number in range(count)
    )
    with (folder / "nodes.yaml").open("a") as file:
        file.write(rows)


def once_s(folder: Path, state: Path) -> float:
    """Seconds of one load, in a process of its own."""
    env = {**os.environ, "COMMCLI_STATE": str(state)}
    command = [sys.executable, "-c", ONCE, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[0])


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="commcli-inventory-") as name:
        folder, state = Path(name) / "inventory", Path(name) / "state"
        write(folder, count)
        first, kept = [], []
        for number in range(ROUNDS):
            first.append(once_s(folder, state / str(number)))
            kept.append(once_s(folder, state / str(number)))
    print(f"inventory: {count} nodes and the example's, {ROUNDS} rounds; load {os.getloadavg()[0]:.1f}")
    for what, values, goal in (("first", first, FIRST_S), ("kept", kept, KEPT_S)):
        # The best: how long it takes, and not how long somebody else was at work.
        figures.line(what, f"{figures.spread(values, '.3f')} s", min(values), goal, "s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NODES)
