"""How long commcli takes to start, as a ratio to the bare interpreter in the same run: `python -m tests.bench.startup`.

The commands take turns, so that whatever else the machine does falls on all of them; the median of the rounds counts.
The goals are 60 and 200 ms where the bare interpreter takes 18: as ratios they hold on any machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench import figures

ROOT = Path(__file__).parents[2]
ROUNDS = 15
BARE = "python -c pass"
KEY_PRESS = "completion of a word"
COMMANDS = {
    BARE: ["-c", "pass"],
    "commcli --version": ["-m", "commcli", "--version"],
    KEY_PRESS: ["-m", "commcli"],
    "commcli --help": ["-m", "commcli", "--help"],
    "commcli fleet list": ["-m", "commcli", "fleet", "list", "--inventory", "inventory"],
    "commcli fleet list --json": ["-m", "commcli", "fleet", "list", "--inventory", "inventory", "--json"],
}
GOALS = {"commcli --version": 3.3, KEY_PRESS: 3.3, "commcli --help": 11.0}
ASKED = {"_COMMCLI_COMPLETE": "complete_bash", "COMP_WORDS": "commcli fleet li", "COMP_CWORD": "2"}


def once_ms(name: str) -> float:
    """Wall time of one run, which must succeed."""
    env = {**os.environ, **(ASKED if name == KEY_PRESS else {})}
    begun = time.perf_counter()
    command = [sys.executable, *COMMANDS[name]]
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - begun)


def medians_ms(rounds: int) -> dict[str, float]:
    """Each command's median over `rounds`, after one round that fills the caches."""
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name in COMMANDS:
            spent = once_ms(name)
            if number:
                taken[name].append(spent)
    return {name: statistics.median(spent) for name, spent in taken.items()}


def main() -> None:
    medians = medians_ms(ROUNDS)
    print(f"start-up, median of {ROUNDS} rounds, python {sys.version.split()[0]}")
    for name, spent_ms in medians.items():
        ratio = spent_ms / medians[BARE]
        figures.line(name, f"{spent_ms:.1f} ms, {ratio:.1f} x", ratio, GOALS.get(name), f"x {BARE}")


if __name__ == "__main__":
    main()
