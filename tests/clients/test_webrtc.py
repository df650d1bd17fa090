"""Relay-only calls of unmodified WebRTC stacks through the relay: Chromium, libwebrtc for Node, and werift.

Each client makes its calls, one a transport, at the same time, and looks twice at both sides of each: the second time
when everything that is counted has grown on both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.conftest import Pair
from tests.clients.programs import BUILT, Batch, batch, need_built, selected
from tests.relay.serving import ADDRESS, Served, need

MODULES = BUILT / "npm" / "node_modules"
SECONDS = 40  # for one call, before it counts as failed


@dataclass(frozen=True)
class Client:
    """A program of tests/clients/npm, the package it drives, and what it counts at each side of a call."""

    script: str
    package: str
    transports: tuple[str, ...]
    counters: tuple[str, ...]


CLIENTS = {
    # Audio and video of its fake devices, decoded.
    "chromium": Client(
        "chromium.js",
        "playwright-core",
        ("udp", "tcp", "tls"),
        ("audio_bytes", "video_bytes", "frames_decoded"),
    ),
    # Messages of a data channel, blocks of audio that are no silence, video frames. No TLS: libwebrtc trusts only the
    # roots that it carries, and this binding has no way to name another.
    "wrtc": Client("wrtc.js", "@roamhq/wrtc", ("udp", "tcp"), ("messages", "audio", "video")),
    # Messages of a data channel and RTP packets.
    "werift": Client("werift.js", "werift", ("udp", "tcp", "tls"), ("messages", "audio", "video")),
}
CALLS = [f"{name} {transport}" for name, client in CLIENTS.items() for transport in client.transports]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, relay: Served, pair: Pair) -> Iterator[Batch]:
    urls = {
        "udp": f"turn:{ADDRESS}:{relay.port}?transport=udp",
        "tcp": f"turn:{ADDRESS}:{relay.port}?transport=tcp",
        "tls": f"turns:{ADDRESS}:{relay.tls_port}?transport=tcp",
    }
    commands: dict[str, list[str]] = {}
    for name in {call.split()[0] for call in selected(request, "call")}:
        ask = {
            "browser": shutil.which("chromium"),
            "seconds": SECONDS,
            "certificate": str(pair.certificate),
            "spki": pair.spki,
            "calls": {
                transport: {"urls": urls[transport], "username": "user", "credential": "pass"}
                for transport in CLIENTS[name].transports
            },
        }
        node = ["env", f"NODE_PATH={MODULES}", "node"]
        commands[name] = [*node, str(Path(__file__).parent / "npm" / CLIENTS[name].script), json.dumps(ask)]
    # One after the other: three decoding browsers' worth of calls would starve each other.
    with batch(commands, at_once=1) as running:
        yield running


@pytest.mark.parametrize("call", CALLS)
def test_a_relay_only_call(request: pytest.FixtureRequest, call: str) -> None:
    name, transport = call.split()
    client = CLIENTS[name]
    need("node", "nodejs")
    if name == "chromium":
        need("chromium", "chromium")
    need_built(MODULES / client.package, f"the npm package {client.package}")
    runs: Batch = request.getfixturevalue("runs")
    done = runs.result(name)
    told = {line["name"]: line for line in map(json.loads, _json_lines(done.output))}
    assert transport in told, done.output[-4000:]
    assert "error" not in told[transport], told[transport]
    for before, after in zip(told[transport]["first"], told[transport]["second"], strict=True):
        assert all(after[counter] > before[counter] > 0 for counter in client.counters), (before, after)
        assert (after["local"], after["remote"]) == ("relay", "relay")
        assert after.get("relay_protocol", transport) == transport


def _json_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith('{"name"')]
