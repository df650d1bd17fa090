"""One coverage-guided run, in a process of its own: `python -m tests.fuzz.guided TARGET LIBFUZZER-ARGUMENTS`."""

from __future__ import annotations

import importlib
import shlex
import sys


def main() -> None:
    """Instrument the relay's modules while they are imported, then fuzz until libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["commcli.relay"]):
        targets = importlib.import_module("tests.fuzz.targets")
    name, *arguments = sys.argv[1:]
    # To merge a corpus libFuzzer starts itself anew: by a shell, with these words.
    itself = f"{shlex.quote(sys.executable)} -m tests.fuzz.guided {name}"
    atheris.Setup([itself, *arguments], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
