"""Freezes of the same stream as we count them and as Chromium does (webrtc-stats freezeCount, totalFreezesDuration).

We count when a picture could be shown; Chromium shows it a little later, the more so the more the network varies, but
what comes after a freeze at once. So each of its freezes may be shorter by what it says that pictures wait.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from commcli.probe.host import MAX_STALL_MS
from tests.clients.conftest import LOOPBACK
from tests.clients.programs import BUILT, batch, need_built
from tests.relay.serving import ADDRESS, need, plain_relay

MODULES = BUILT / "npm" / "node_modules"
TRIES = 3
# Of the stalls of the scenario so many are freezes by the definition, and they last so long.
FREEZES, FROZEN_MS = 4, 3400


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
    ours, theirs, waits_ms = (seen[scenario][name] for name in ("ours", "theirs", "waits_ms"))
    assert theirs["count"] > 1, seen
    apart = abs(ours["count"] - theirs["count"])
    assert apart <= 1, seen
    # What our event loop may stand still and still be believed; and the freeze that only one of them counted.
    allowed_ms = MAX_STALL_MS + apart * theirs["total_ms"] / theirs["count"]
    longer_ms = ours["total_ms"] - theirs["total_ms"]
    assert -allowed_ms <= longer_ms <= theirs["count"] * waits_ms + allowed_ms, seen


def test_known_stalls_are_counted(seen: dict[str, dict[str, Any]]) -> None:
    ours = seen["stalls"]["ours"]
    assert ours["count"] == FREEZES, seen
    assert abs(ours["total_ms"] - FROZEN_MS) <= MAX_STALL_MS, seen
