from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commcli.relay.config import RelayConfig
from commcli.relay.supervise import running, stop

SUPERVISE = """
import sys
from pathlib import Path
from commcli.relay.config import RelayConfig
from commcli.relay.supervise import supervise
config = RelayConfig("n", "127.0.0.1", 1, (2000, 2001), "r", base=Path(sys.argv[1]))
child = "import os,sys,time; open(sys.argv[1],'a').write(str(os.getpid())+chr(10)); time.sleep(60)"
command = [sys.executable, "-c", child, sys.argv[1] + "/started"]
sys.exit(supervise(config, command, daemon="--daemon" in sys.argv))
"""


@pytest.fixture
def config(tmp_path: Path) -> RelayConfig:
    return RelayConfig("n", "127.0.0.1", 1, (2000, 2001), "r", base=tmp_path)


def _start(config: RelayConfig, *flags: str) -> int:
    done = subprocess.run([sys.executable, "-c", SUPERVISE, str(config.base), *flags], check=False)
    return done.returncode


def _children(config: RelayConfig, at_least: int) -> list[int]:
    # Bounded waiting for another process: what it wrote is the event, there is no clock to fake.
    path = config.path("started")
    for _ in range(500):
        if path.exists() and len(pids := path.read_text().split()) >= at_least:
            return [int(pid) for pid in pids]
        time.sleep(0.02)
    raise AssertionError(f"no {at_least}. start of the child")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _gone(pid: int) -> bool:
    for _ in range(500):
        if not _alive(pid):
            return True
        time.sleep(0.02)
    return False


def test_it_restarts_a_dead_child_and_stops_with_it(config: RelayConfig) -> None:
    assert running(config) is None
    assert _start(config, "--daemon") == 0
    (first,) = _children(config, 1)
    os.kill(first, signal.SIGKILL)
    second = _children(config, 2)[1]
    assert running(config) is not None
    assert stop(config) == 0
    assert running(config) is None
    assert _gone(second)


def test_one_supervisor_a_node(config: RelayConfig) -> None:
    assert _start(config, "--daemon") == 0
    _children(config, 1)
    assert _start(config, "--daemon") == 75
    assert len(_children(config, 1)) == 1
    assert stop(config) == 0


def test_a_relay_that_does_not_go_is_killed_with_its_supervisor(config: RelayConfig) -> None:
    assert _start(config, "--daemon") == 0
    (child,) = _children(config, 1)
    os.kill(child, signal.SIGSTOP)  # hears no SIGTERM
    assert stop(config, wait_s=0.1) == 0
    assert running(config) is None
    assert _gone(child)


def test_a_starting_supervisor_is_not_taken_for_an_earlier_one(config: RelayConfig) -> None:
    """The lock is held and no id stands there yet: an old one would name a stranger, who would be killed."""
    config.path("run").mkdir()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        config.path("run/relay.pid").write_text(str(stranger.pid))
        # It can not open its log, so it ends between taking the lock and writing its id.
        config.path("log").mkdir()
        config.path("log/relay.log").mkdir()
        _start(config, "--daemon")
        assert config.path("run/relay.pid").read_text() == ""
        assert stop(config) == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stale_pid_file_is_nobody(config: RelayConfig) -> None:
    config.path("run").mkdir()
    config.path("run/relay.pid").write_text(str(os.getpid()))
    assert running(config) is None
    assert stop(config) == 0
