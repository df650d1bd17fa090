"""Every test run shows each skipped test with its reason, so that a thin run is not taken for a full one."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

# No test asserts how long something took, hypothesis's own deadline included. CI tries the same examples each time: a
# lucky find there would stop whoever comes along; it belongs to whoever runs the tests by hand.
settings.register_profile("commcli", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("commcli")

# xdist tells its workers how wide the terminal is; what a test draws must not depend on it.
os.environ.pop("COLUMNS", None)


# A shell's background job ignores Ctrl-C and hands that on to whatever it starts, so what a Ctrl-C does could not be
# tested there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Two workers (make test) halve the wait for relays, sshds and clocks. Tests of one group never run at the same time:
# they have addresses, ports or the machine's speed in common. What is in no group is pure and runs anywhere.
GROUPS = {
    **dict.fromkeys(("lab", "probe", "routing", "wan"), "fleets"),
    "remote": "remote",  # as long as half of the others, and with addresses of its own
    **dict.fromkeys(("clients", "hostile", "relay"), "relays"),
}


def group_of(nodeid: str) -> str:
    file = nodeid.split("::", 1)[0]
    return GROUPS.get(Path(file).parts[1], file)


class _Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Files, and groups of folders, go to a worker as a whole; the one with the most tests first.

    Not xdist's own `loadgroup`: with pytest 9.2 its groups (3.8) silently hold nothing together.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _Groups:
    return _Groups(config, log)


def skip_reasons(reports: list[pytest.TestReport]) -> dict[str, list[str]]:
    """Reason -> the tests that skipped for it, in the order of the run."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for report in reports:
        # pytest keeps (file, line, "Skipped: reason") for a skip.
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason[text.removeprefix("Skipped: ")].append(report.nodeid)
    return dict(by_reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    title = f"{len(skipped)} SKIPPED: these were NOT tested here"
    terminalreporter.section(title, sep="!", yellow=True, bold=True)
    for reason, tests in skip_reasons(skipped).items():
        terminalreporter.line(f"SKIPPED ({len(tests)}): {reason}", yellow=True)
        for test in tests:
            terminalreporter.line(f"    {test}")
