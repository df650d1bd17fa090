from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.process.supervise import bound_log, running, stop

SUPERVISE = """
import sys
from pathlib import Path
from commcli.relay.config import RelayConfig
from commcli.relay.process.supervise import supervise
config = RelayConfig("n", "127.0.0.1", 1, (2000, 2001), "r", base=Path(sys.argv[1]))
child = (Path(sys.argv[1]) / "child.py").read_text()
command = [sys.executable, "-c", child, sys.argv[1] + "/started"]
sys.exit(supervise(config, command, daemon="--daemon" in sys.argv))
"""

SLEEPS = """
import os, sys, time
open(sys.argv[1], "a").write(str(os.getpid()) + chr(10))
time.sleep(60)
"""
ENDS_WELL = SLEEPS.replace("time.sleep(60)", "sys.exit(0)")
ENDS_BADLY_ONCE = SLEEPS.replace(
    "time.sleep(60)", "sys.exit(0 if len(open(sys.argv[1]).readlines()) > 1 else 3)"
)
TELLS_SIGNALS = """
import os, signal, sys
def told(number, frame):
    open(sys.argv[1], "a").write(signal.Signals(number).name + chr(10))
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, told)
open(sys.argv[1], "a").write(str(os.getpid()) + chr(10))
while True:
    signal.pause()
"""


@pytest.fixture
def config(tmp_path: Path) -> RelayConfig:
    (tmp_path / "child.py").write_text(SLEEPS)
    return RelayConfig("n", "127.0.0.1", 1, (2000, 2001), "r", base=tmp_path)


def _start(config: RelayConfig, *flags: str) -> int:
    done = subprocess.run([sys.executable, "-c", SUPERVISE, str(config.base), *flags], check=False)
    return done.returncode


def _lines(config: RelayConfig, at_least: int) -> list[str]:
    # Bounded waiting for another process: what it wrote is the event, there is no clock to fake.
    path = config.path("started")
    for _ in range(500):
        if path.exists() and len(pids := path.read_text().split()) >= at_least:
            return pids
        time.sleep(0.02)
    raise AssertionError(f"no {at_least}. line of the child")


def _children(config: RelayConfig, at_least: int) -> list[int]:
    return [int(pid) for pid in _lines(config, at_least)]


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


def test_a_relay_that_was_told_to_end_stays_away(config: RelayConfig) -> None:
    config.path("child.py").write_text(ENDS_WELL)
    assert _start(config) == 0  # in the foreground: it returns
    assert len(_children(config, 1)) == 1


def test_a_relay_that_fails_is_started_again(config: RelayConfig) -> None:
    config.path("child.py").write_text(ENDS_BADLY_ONCE)
    assert _start(config) == 0
    assert len(_children(config, 2)) == 2


def test_what_the_supervisor_is_told_the_relay_hears(config: RelayConfig) -> None:
    config.path("child.py").write_text(TELLS_SIGNALS)
    assert _start(config, "--daemon") == 0
    _lines(config, 1)
    supervisor = running(config)
    assert supervisor is not None
    for count, number in enumerate((signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), start=2):
        os.kill(supervisor, number)
        assert _lines(config, count)[-1] == number.name
    assert stop(config) == 0


def test_a_long_log_is_put_aside_and_goes_on_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    with log.open("ab", buffering=0) as relay:
        relay.write(b"x" * 100)
        bound_log(log, most_bytes=100)
        assert log.stat().st_size == 100
        relay.write(b"y")
        bound_log(log, most_bytes=100)
        relay.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "relay.log.1").read_bytes() == b"x" * 100 + b"y"


def test_a_log_that_can_not_be_copied_is_bounded_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    log.write_bytes(b"x" * 101)
    (tmp_path / "relay.log.1").mkdir()
    bound_log(log, most_bytes=100)
    assert log.read_bytes() == b""
    bound_log(tmp_path / "absent", most_bytes=100)


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root could end the process of somebody else")
def test_what_a_user_writes_into_his_pid_file_leads_root_to_nobody_else(config: RelayConfig) -> None:
    path = config.path("run/relay.pid")
    path.parent.mkdir()
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger,
        path.open("w") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        print(stranger.pid, file=file, flush=True)
        os.chown(path, 12, 34)
        with pytest.raises(ConfigError, match=f"process {stranger.pid} is no supervisor of n"):
            stop(config, wait_s=0)
        assert stranger.poll() is None
        stranger.kill()


def test_a_stale_pid_file_is_nobody(config: RelayConfig) -> None:
    config.path("run").mkdir()
    config.path("run/relay.pid").write_text(str(os.getpid()))
    assert running(config) is None
    assert stop(config) == 0
