"""Every test run shows each skipped test with its reason, so that a thin run is not taken for a full one."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest
from hypothesis import settings

# No test asserts how long something took, hypothesis's own deadline included. CI tries the same examples each time: a
# lucky find there would stop whoever comes along; it belongs to whoever runs the tests by hand.
settings.register_profile("commcli", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("commcli")


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
