"""Real calls of two endpoint processes through a real TURN server on loopback. Nothing here asserts a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput, Usage
from commcli.fleet.model import Fleet
from commcli.probe.ask import Ask, resolve
from commcli.probe.call import call, set_up_ms
from commcli.probe.ending import Ended
from commcli.probe.turn import Turn, allocate_bare
from commcli.remote.outcome import Failed
from commcli.report.probe.call import call as draw_call
from commcli.report.probe.call import compare
from tests.probe import fleets
from tests.probe.local import LocalPool
from tests.relay.serving import ADDRESS, free_port, need, plain_relay

SECRET = "a shared secret of this test"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "turn.secret"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def relay_port(secret: Path) -> Iterator[int]:
    with plain_relay("--allow-peer", "127.0.0.0/8", "--secret-file", str(secret)) as served:
        yield served.port


@pytest.fixture
async def pool() -> AsyncIterator[LocalPool]:
    local = LocalPool()
    yield local
    await local.end()


def two_nodes(port: int, secret: Path | None, python: str | None = sys.executable) -> Fleet:
    nodes = [fleets.node(name, port=port, python=python) for name in ("aa-1", "bb-1")]
    return fleets.fleet(*nodes, markets={"aa": ("aa-1",)}, secret=secret)


@contextlib.contextmanager
def coturn(secret: str) -> Iterator[int]:
    port = free_port()
    command = [need("turnserver", "coturn"), "-n", "-L", ADDRESS, "-E", ADDRESS, "--allow-loopback-peers"]
    command += ["--use-auth-secret", f"--static-auth-secret={secret}", "-r", "lab", "-p", str(port)]
    command += ["--no-tls", "--no-dtls", "--no-cli", "--log-file=/dev/null", "--pidfile=/dev/null"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1.0)  # it says nothing when it is ready
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def test_a_call_connects_and_everything_is_measured(
    relay_port: int, secret: Path, pool: LocalPool
) -> None:
    heard: list[tuple[str, str]] = []

    def hear(side: str, event: Mapping[str, Any]) -> None:
        heard.append((side, str(event.get("phase", event["event"]))))

    ask = Ask("aa", "bb-1", seconds=2)
    doc = await call(two_nodes(relay_port, secret), pool.as_pool(), ask, on_event=hear)
    assert doc["problems"] == []
    assert doc["connected"]
    assert (doc["from"]["market"], doc["from"]["node"], doc["to"]["node"]) == ("aa", "aa-1", "bb-1")
    for direction in doc["directions"].values():
        audio, video = direction["audio"], direction["video"]
        assert audio["packets"] > 50
        assert audio["loss"] is not None and audio["jitter_ms"] is not None
        assert audio["one_way_ms"]["samples"] == audio["packets"]
        assert video["frames"] > 10
        assert video["frame_delay_ms"]["samples"] > 10
        assert video["stamps_unreadable"] == 0
        assert 1 <= direction["mos"]["mos"] <= 4.5
        assert direction["straight"] is True
    assert doc["clock"]["method"] == "one kernel clock"
    assert doc["rtt_ms"]["samples"] > 5
    assert doc["setup_ms"] > 0
    phases = [
        "resolve",
        "ssh",
        "allocate",
        "gather",
        "signalling",
        "ice",
        "dtls",
        "first_audio",
        "first_frame",
    ]
    for side in ("from", "to"):
        assert sorted(doc["phases_ms"][side]) == sorted(phases)
        assert (side, "connected") in heard
        assert (side, "end") in heard  # it has given its allocation back
    assert doc["hosts"]["from"]["loop_lag_ms"]["p99"] is not None
    text = json.dumps(doc)
    assert SECRET not in text and "candidate" not in text and ":probe" not in text
    draw_call(doc), compare(doc, doc)


async def test_an_audio_call_through_coturn(secret: Path, pool: LocalPool) -> None:
    with coturn(SECRET) as port:
        doc = await call(
            two_nodes(port, secret), pool.as_pool(), Ask("aa-1", "bb-1", seconds=1, profile="audio")
        )
    assert doc["problems"] == []
    for direction in doc["directions"].values():
        assert direction["audio"]["packets"] > 20
        assert direction["video"] is None
    assert doc["phases_ms"]["from"].get("first_frame") is None


async def test_a_refused_allocation_gives_the_servers_reason(
    relay_port: int, tmp_path: Path, pool: LocalPool
) -> None:
    other = tmp_path / "other"
    other.write_text("not what the relay knows")
    doc = await call(two_nodes(relay_port, other), pool.as_pool(), Ask("aa-1", "bb-1", seconds=1))
    assert not doc["connected"]
    assert doc["verdict"] == "bad"
    assert any("refused the allocation: 401" in problem for problem in doc["problems"])
    assert doc["directions"]["there"]["audio"] is None
    assert doc["mos"] is None
    draw_call(doc)


@pytest.fixture
def tight_relay_port(secret: Path) -> Iterator[int]:
    """A relay with two relayed ports: what one call needs, if nothing of another one is left."""
    low = next(port for port in iter(free_port, None) if port < 65535 and is_free(port + 1))
    options = (
        "--allow-peer",
        "127.0.0.0/8",
        "--secret-file",
        str(secret),
        "--relay-ports",
        f"{low}-{low + 1}",
    )
    with plain_relay(*options) as served:
        yield served.port


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.bind((ADDRESS, port))
        return True
    return False


async def test_cancelling_leaves_no_process_and_no_allocation(
    tight_relay_port: int, secret: Path, pool: LocalPool
) -> None:
    connected = asyncio.Event()

    def hear(side: str, event: Mapping[str, Any]) -> None:
        if event["event"] == "connected":
            connected.set()

    fleet = two_nodes(tight_relay_port, secret)
    long = Ask("aa-1", "bb-1", seconds=60)
    task = asyncio.create_task(call(fleet, pool.as_pool(), long, on_event=hear))
    await asyncio.wait({task, asyncio.ensure_future(connected.wait())}, return_when="FIRST_COMPLETED")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = [process.process for c in pool.connections.values() for process in c.started]
    assert len(started) == 2
    # End of their stdin is all that they were told. The shell waits for its python, so its end is both's.
    await asyncio.wait_for(asyncio.gather(*(process.wait() for process in started)), 10)
    short = Ask("aa-1", "bb-1", seconds=1, profile="audio")
    assert (await call(fleet, pool.as_pool(), short))["problems"] == []


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """A python that has the standard library and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    return str(tmp_path / "bare/bin/python3")


async def test_a_python_without_aiortc_is_one_clear_line(
    secret: Path, pool: LocalPool, bare_python: str
) -> None:
    with pytest.raises(Failed) as caught:
        await call(two_nodes(1, secret, bare_python), pool.as_pool(), Ask("aa-1", "bb-1"))
    assert str(caught.value).endswith(f"{bare_python} has no aiortc")
    assert caught.value.hint and "pip install" in caught.value.hint


async def test_what_is_wrong_before_anything_starts(secret: Path, pool: LocalPool) -> None:
    with pytest.raises(BadInput, match="no probe_python"):
        await call(two_nodes(1, secret, None), pool.as_pool(), Ask("aa-1", "bb-1"))
    with pytest.raises(BadInput, match="secrets has no 'turn'"):
        await call(two_nodes(1, None), pool.as_pool(), Ask("aa-1", "bb-1"))
    with pytest.raises(Usage, match="no market and no node is called 'zz'"):
        await call(two_nodes(1, secret), pool.as_pool(), Ask("zz", "bb-1"))
    with pytest.raises(Usage, match="no profile"):
        await call(two_nodes(1, secret), pool.as_pool(), Ask("aa", "bb-1", profile="8k"))
    assert pool.connections == {}


def test_a_market_means_its_first_active_edge() -> None:
    nodes = fleets.node("aa-1", state="drain"), fleets.node("bb-1")
    fleet = fleets.fleet(*nodes, markets={"aa": ("aa-1", "bb-1"), "zz": ("aa-1",)})
    assert resolve(fleet, "aa").node.id == "bb-1"
    assert resolve(fleet, "aa-1").node.id == "aa-1"  # asked by name, a draining node still answers
    with pytest.raises(BadInput, match=r"market zz: none of its edges \(aa-1\) is active"):
        resolve(fleet, "zz")


async def test_a_turn_server_that_says_nothing_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind((ADDRESS, 0))
        turn = Turn(ADDRESS, mute.getsockname()[1], "u", "p")
        with pytest.raises(Ended, match=r"TURN over UDP at 127\.0\.0\.1:\d+ did not answer within 0\.2 s"):
            await allocate_bare(turn, timeout_s=0.2)


def test_set_up_time_leaves_ssh_out_and_is_unmeasured_if_a_part_is() -> None:
    caller: dict[str, float | None] = {
        "ssh": 900, "gather": 10, "signalling": 400, "ice": 50, "dtls": 30, "first_audio": 5,
    }  # fmt: skip
    assert set_up_ms(caller, {"gather": 20}) == 115
    assert set_up_ms({**caller, "first_audio": None}, {"gather": 20}) is None
    assert set_up_ms(caller, {}) is None
