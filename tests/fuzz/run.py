"""`make fuzz`: coverage-guided runs at every parser that a socket can reach, with atheris (libFuzzer for Python).

FUZZ_SECONDS each (60), FUZZ_TARGETS of them (all), one a core at a time. What is worth keeping goes into
tests/fuzz/corpus, minimised. A find is printed in base64, to be put into its corpus file, and makes the exit code 1.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import inputs

LONGEST_BYTES = 1024  # a longer input finds little and fills the corpus
STALLED_S = 10  # an input that takes so long stalls a relay: a find as well
# A corpus file; what does not fit of a minimised corpus are its longest inputs.
KEPT_BYTES = 9_000


def main() -> int:
    """Run the targets named in FUZZ_TARGETS (all of them); 0 when none of them found anything."""
    if importlib.util.find_spec("atheris") is None:
        print(
            "fuzz: SKIPPED, atheris is not installed (pip install -e '.[fuzz]'; there is none for every platform)"
        )
        return 0
    names = os.environ.get("FUZZ_TARGETS", "").split() or _targets()
    seconds = int(os.environ.get("FUZZ_SECONDS", "60"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        finds = sum(pool.map(lambda name: _run(name, seconds), names))
    return 1 if finds else 0


def _targets() -> list[str]:
    from tests.fuzz.targets import TARGETS

    return list(TARGETS)


def _run(name: str, seconds: int) -> int:
    """One target for so long; how many finds."""
    from tests.fuzz.targets import SEEDS

    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as folder:
        known, small, crashes = (Path(folder, part) for part in ("known", "small", "crashes"))
        for path in (known, small, crashes):
            path.mkdir()
        for number, data in enumerate([*SEEDS[name], *inputs.load(name)]):
            (known / str(number)).write_bytes(data)
        limits = [f"-max_len={LONGEST_BYTES}", f"-timeout={STALLED_S}", f"-artifact_prefix={crashes}/"]
        ran = _child(name, *limits, f"-max_total_time={seconds}", str(known))
        found = sorted(crashes.iterdir())
        if not found:
            _child(name, *limits, "-merge=1", str(small), str(known))
            _keep(name, small)
        print(f"{name:8} {_figures(ran.stdout)} finds: {len(found)}", flush=True)
        for path in found:
            print(f"{name:8} {path.name}: {base64.b64encode(path.read_bytes()).decode()}")
        if found or ran.returncode:
            print(ran.stdout[-3000:], flush=True)
        return len(found) or ran.returncode


def _child(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """libFuzzer ends its process itself, so each run has its own."""
    command = [sys.executable, "-m", "tests.fuzz.guided", name, *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )


def _figures(said: str) -> str:
    """What libFuzzer said last: runs, coverage (edges and features), corpus."""
    last = re.findall(r"^#(\d+)\s+\S+\s+(cov: \d+ ft: \d+ corp: \S+)", said, re.MULTILINE)
    return f"{last[-1][0]} runs, {last[-1][1]}" if last else "no figures"


def _keep(name: str, folder: Path) -> None:
    """The shortest inputs of a minimised corpus, as many as fit."""
    kept, room = [], KEPT_BYTES
    for data in sorted((path.read_bytes() for path in folder.iterdir()), key=len):
        room -= len(base64.b64encode(data)) + 1
        if room < 0:
            break
        kept.append(data)
    if kept:
        inputs.save(name, kept)


if __name__ == "__main__":
    sys.exit(main())
