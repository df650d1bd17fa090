"""Runs aioice's own TURN tests against our relay.

python -m tests.clients.aioice_suite SOURCES --certificate FILE --key FILE TEST...: SOURCES is aioice's unpacked source
distribution, a TEST a class or class.method of its tests/test_turn.py.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import sys
import unittest
from pathlib import Path
from types import ModuleType

from tests.clients import aioice_server

PACKAGE = "aioice_tests"  # "tests" is our own
# What a 401 says in words is for eyes (RFC 8489 section 14.8). Ours says none: it must not amplify.
THEIR_PHRASE, OUR_PHRASE = "(401 - Unauthorized)", "(401 - )"


def load(sources: Path) -> ModuleType:
    """aioice's test_turn, with `turnserver` swapped for ours and nothing else changed but the words of a 401."""
    folder = sources / "tests"
    package = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True))
    package.__path__ = [str(folder)]
    sys.modules[PACKAGE] = package
    sys.modules[f"{PACKAGE}.turnserver"] = aioice_server
    file = folder / "test_turn.py"
    text = file.read_text("utf-8")
    if THEIR_PHRASE not in text:
        raise SystemExit("aioice's tests have changed: look at the words of the 401 again")
    module = ModuleType(f"{PACKAGE}.test_turn")
    module.__package__, module.__file__ = PACKAGE, str(file)
    sys.modules[module.__name__] = module
    exec(compile(text.replace(THEIR_PHRASE, OUR_PHRASE), file, "exec"), module.__dict__)
    return module


def main() -> None:
    """Ends with 1 if a test failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    arguments = parser.parse_args()
    aioice_server.PAIR[:] = [arguments.certificate, arguments.key]
    unittest.main(module=load(arguments.sources), argv=["aioice", *arguments.tests], verbosity=2)


if __name__ == "__main__":
    main()
