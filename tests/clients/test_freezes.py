"""Freezes of the same stream as we count them and as Chromium does (webrtc-stats freezeCount, totalFreezesDuration).

Chromium shows a picture somewhat later than it could, the more so the more the network varies; we count when pictures
could be shown. Where single packets are lost and lost again, every tenth of a second counts: then we see more.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import LOOPBACK
from tests.clients.programs import BUILT, batch, need_built
from tests.relay.serving import ADDRESS, need, plain_relay

MODULES = BUILT / "npm" / "node_modules"
TRIES = 3
# Of the stalls of the scenario so many are freezes by the definition, and they last so long.
FREEZES, FROZEN_MS = 4, 3050
# One near the threshold that only one of them counts, or for each the time from a picture to the next.
MOST_APART_MS = 450


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What both said of each scenario, on a machine that could keep up."""
    need("node", "nodejs")
    chromium = need("chromium", "chromium")
    need_built(MODULES / "playwright-core", "the npm package playwright-core")
    for _ in range(TRIES):
        told = _play(chromium)
        if all(line["valid"] for line in told.values()):
            return told
    pytest.skip(f"this machine is too busy to look at videos: {[line['reason'] for line in told.values()]}")


def _play(chromium: str) -> dict[str, dict[str, Any]]:
    with plain_relay(*LOOPBACK) as relay:
        url = f"turn:{ADDRESS}:{relay.port}?transport=udp"
        browser = {"browser": chromium, "server": {"urls": url, "username": "user", "credential": "pass"}}
        script = Path(__file__).parent / "npm" / "viewers.js"
        viewers = [shutil.which("env"), f"NODE_PATH={MODULES}", "node", str(script), json.dumps(browser)]
        turn = {"host": ADDRESS, "port": relay.port, "username": "user", "password": "pass"}
        asked = json.dumps({"turn": turn, "chromium": viewers})
        with batch({"freezing": [sys.executable, "-m", "tests.clients.freezing", asked]}) as running:
            done = running.result("freezing")
    assert done.code == 0, done.output[-4000:]
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith('{"name"')]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("scenario", ["stalls", "lossy"])
def test_freezes_are_chromiums_own(seen: dict[str, dict[str, Any]], scenario: str) -> None:
    ours, theirs = seen[scenario]["ours"], seen[scenario]["theirs"]
    assert theirs["count"] > 1, seen
    assert abs(ours["count"] - theirs["count"]) <= 1, seen
    assert abs(ours["total_ms"] - theirs["total_ms"]) <= MOST_APART_MS, seen


def test_known_stalls_are_counted(seen: dict[str, dict[str, Any]]) -> None:
    ours = seen["stalls"]["ours"]
    assert abs(ours["count"] - FREEZES) <= 1, seen
    assert abs(ours["total_ms"] - FROZEN_MS) <= MOST_APART_MS, seen
