"""The mesh beside programs of others, over a network whose delays are known: irtt measures it too, tshark looks on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.mesh.stamp import OPEN_BYTES
from tests.relay.mesh_world import KEYS
from tests.relay.serving import need
from tests.wan.stamp_node import PORT
from tests.wan.wan import Wan, wan_or_skip
from tests.wan.weather import Weather

NODES = {"a": "10.78.0.1", "b": "10.78.0.2"}
THERE_MS, JITTER_MS, BACK_MS = 40.0, 5.0, 15.0
SECONDS, A_SECOND = 4.0, 40.0
IRTT_PORT = 2112
# Both measure the same network at the same time, but not with the same packets.
APART_MS = 3.0
ENDS_WITHIN_S = 60.0


@pytest.fixture
def wan() -> Iterator[Wan]:
    weather = {
        ("a", "b"): Weather(delay_ms=THERE_MS, jitter_ms=JITTER_MS),
        ("b", "a"): Weather(delay_ms=BACK_MS),
    }
    with wan_or_skip(NODES, weather, seed=11) as made:
        yield made


def measuring(wan: Wan, keys: list[str]) -> dict[str, subprocess.Popen[str]]:
    """Both nodes, which have begun to measure each other."""
    nodes = {node: _ready(wan, node, keys) for node in NODES}
    for process in nodes.values():
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    return nodes


def _ready(wan: Wan, node: str, keys: list[str]) -> subprocess.Popen[str]:
    peers = {
        other: {"address": address, "overlay_port": 9, "stamp_port": PORT, "keys": keys}
        for other, address in NODES.items() if other != node
    }  # fmt: skip
    argument = {
        "node": node, "address": NODES[node], "peers": peers, "per_peer": A_SECOND, "seconds": SECONDS,
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.wan.stamp_node", json.dumps(argument)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = wan.popen(node, command, **pipes, text=True, cwd=Path(__file__).parents[2])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def measured(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The window with most packets."""
    out, _ = process.communicate(timeout=ENDS_WITHIN_S)
    windows: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    return max(windows, key=lambda window: window["sent"])


def test_delays_are_those_that_irtt_finds(wan: Wan, tmp_path: Path) -> None:
    irtt = need("irtt", "irtt")
    server = wan.popen(
        "b", [irtt, "server", "-b", f"{NODES['b']}:{IRTT_PORT}"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    while "starting" not in server.stdout.readline().lower():
        assert server.poll() is None, "the irtt server ended"
    nodes = measuring(wan, KEYS)
    out = tmp_path / "irtt.json"
    client: list[str | Path] = [
        irtt, "client", "-Q", "-i", "20ms", "-d", f"{SECONDS:g}s", "-l", "112", "--wait=500ms", "-o", out,
        f"{NODES['b']}:{IRTT_PORT}",
    ]  # fmt: skip
    subprocess.run(wan.argv("a", client), check=True, timeout=ENDS_WITHIN_S)
    stats = json.loads(out.read_text())["stats"]
    theirs = {
        name: stats[key]["median"] / 1e6
        for name, key in (("rtt", "rtt"), ("fwd", "send_delay"), ("back", "receive_delay"))
    }
    ours = {node: measured(process) for node, process in nodes.items()}
    assert stats["packets_received"] > 0.9 * stats["packets_sent"] > 100
    for window in ours.values():
        assert window["received"] == window["sent"] > 50
        assert window["loss"] == window["loss_fwd"] == window["loss_back"] == window["reordered"] == 0
        assert window["clock_error_ms"] == pytest.approx(2, rel=0.02)
    for node, there, back in (("a", "fwd", "back"), ("b", "back", "fwd")):
        assert ours[node]["rtt_ms"]["p50"] == pytest.approx(theirs["rtt"], abs=APART_MS)
        assert ours[node]["delay_fwd_ms"]["p50"] == pytest.approx(theirs[there], abs=APART_MS)
        assert ours[node]["delay_back_ms"]["p50"] == pytest.approx(theirs[back], abs=APART_MS)
    # Never less than the link takes: no figure is flattered by where its times are taken.
    assert ours["a"]["delay_fwd_ms"]["min"] >= THERE_MS - JITTER_MS
    assert ours["a"]["delay_back_ms"]["min"] >= BACK_MS
    assert ours["a"]["pdv_fwd_ms"]["p95"] > JITTER_MS  # of +- so much


FIELDS = (
    "frame.time_epoch", "ip.src", "udp.srcport", "udp.dstport", "udp.length", "twamp.test.seq_number",
    "twamp.test.timestamp",
    "twamp.test.error_estimate.s", "twamp.test.error_estimate.z", "twamp.test.error_estimate.scale",
    "twamp.test.error_estimate.multiplier", "twamp.test.receive_timestamp", "twamp.test.sender_seq_number",
    "twamp.test.sender_timestamp", "twamp.test.sender_error_estimate", "twamp.test.sender_ttl",
)  # fmt: skip


def captured(wan: Wan, file: Path) -> list[dict[str, str]]:
    """What tshark takes the packets for; STAMP without a key has the fields of TWAMP-Test (RFC 8762 s. 4.6)."""
    tshark = need("tshark", "tshark")
    capture = [tshark, "-q", "-i", "wan0", "-s", "200", "-w", str(file), "-f", f"udp port {PORT}"]
    process = wan.popen("a", capture, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "Capturing on" not in (line := process.stderr.readline()):
        if not line:
            pytest.skip("tshark may not capture here")
    for node in measuring(wan, []).values():
        measured(node)
    process.terminate()
    process.communicate(timeout=ENDS_WITHIN_S)
    read = [tshark, "-r", str(file), "-d", f"udp.port=={PORT},twamp.test", "-T", "fields", "-t", "e"]
    read += [word for field in FIELDS for word in ("-e", field)]
    done = subprocess.run(read, check=True, capture_output=True, text=True, timeout=ENDS_WITHIN_S)
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in done.stdout.splitlines()]


def unix(text: str) -> float:
    """Of "Nov 22, 2026 23:19:20.500932931 UTC"."""
    whole, _, fraction = text.removesuffix(" UTC").partition(".")
    return datetime.strptime(whole, "%b %d, %Y %H:%M:%S").replace(tzinfo=UTC).timestamp() + float(
        f"0.{fraction}"
    )


def test_what_tshark_sees_on_the_wire(wan: Wan, tmp_path: Path) -> None:
    rows = captured(wan, tmp_path / "stamp.pcapng")
    assert {row["udp.length"] for row in rows} == {str(8 + OPEN_BYTES)}
    asked = [row for row in rows if row["ip.src"] == NODES["a"] and row["udp.dstport"] == str(PORT)]
    answers = [row for row in rows if row["ip.src"] == NODES["b"] and row["udp.srcport"] == str(PORT)]
    assert len(asked) == len(answers) > 50
    for number, (request, reply) in enumerate(zip(asked, answers, strict=True)):
        assert request["twamp.test.seq_number"] == reply["twamp.test.sender_seq_number"] == str(number)
        assert reply["twamp.test.seq_number"] == str(number)
        assert reply["twamp.test.sender_timestamp"] == request["twamp.test.timestamp"]
        assert reply["twamp.test.sender_ttl"] == "64"
        # Of the packet's own estimate, and of the copy of the request's, which a request has not.
        estimates = [
            [row[f"twamp.test.error_estimate.{word}"] for word in ("s", "z", "scale", "multiplier")]
            for row in (request, reply)
        ]
        assert estimates == [["1,0", "0,0", "15,0", "132,0"], ["1,1", "0,0", "15,15", "132,132"]]
        left, came = float(request["frame.time_epoch"]), float(reply["frame.time_epoch"])
        t1, t2, t3 = (
            unix(row[f"twamp.test.{word}"])
            for row, word in ((request, "timestamp"), (reply, "receive_timestamp"), (reply, "timestamp"))
        )
        least_there_s, least_back_s = (THERE_MS - JITTER_MS) / 1000, BACK_MS / 1000
        assert t1 <= left and left + least_there_s <= t2 <= t3 <= came - least_back_s
