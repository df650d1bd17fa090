"""How long commcli takes to start, as a ratio to the bare interpreter in the same run: `python -m tests.bench.startup`.

The commands take turns, so that whatever else the machine does falls on all of them; the median of the rounds counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 15
BARE = "python -c pass"
COMMANDS = {
    BARE: ["-c", "pass"],
    "commcli --help": ["-m", "commcli", "--help"],
    "commcli fleet list": ["-m", "commcli", "fleet", "list", "--inventory", "inventory"],
    "commcli fleet list --json": ["-m", "commcli", "fleet", "list", "--inventory", "inventory", "--json"],
}


def once_ms(arguments: list[str]) -> float:
    """Wall time of one run, which must succeed."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - begun)


def medians_ms(rounds: int) -> dict[str, float]:
    """Each command's median over `rounds`, after one round that fills the caches."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            spent = once_ms(arguments)
            if number:
                taken[name].append(spent)
    return {name: statistics.median(spent) for name, spent in taken.items()}


def main() -> None:
    medians = medians_ms(ROUNDS)
    print(f"start-up, median of {ROUNDS} rounds, python {sys.version.split()[0]}")
    for name, spent_ms in medians.items():
        print(f"  {name:27} {spent_ms:7.1f} ms   {spent_ms / medians[BARE]:5.1f} x")


if __name__ == "__main__":
    main()
