"""Keep a relay running where no systemd does: restart it when it dies, stop it when told, bound its log.

A relay that ends with 0 was told to (SIGTERM, or drained with `stop`): it is not started again, as systemd's
`Restart=on-failure` does not. SIGHUP, SIGUSR1 and SIGUSR2 are passed on, so that one process id is enough to know.

A relay that is upgraded ends with 0 too, and its last word to us, over the pipe that HEIRS names, is the process id of
the one that has its place. As the subreaper of our descendants (prctl(2)) we are then that one's parent.

`run/relay.pid` names the supervisor and is flock'd by it for as long as it lives, so that "is it running" has
an answer that survives SIGKILL and reused process ids.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import List, Optional, Union

from commcli.relay.config import ConfigError, RelayConfig

STOP_WAIT_S, KILL_WAIT_S = 10.0, 2.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
# A relay that lived this long did not die of its configuration: the next pause starts small again.
STEADY_S = 30.0
PASSED_ON = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
MOST_LOG_BYTES, LOG_LOOK_EVERY_S = 16 << 20, 60.0
# The variable with the number of the descriptor for the process id of a relay's heir.
HEIRS = "COMMCLI_HEIRS_FD"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def die_with_parent(signum: int) -> None:
    """Let the kernel send us this signal when the thread that started us ends; 0: none any more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)


def pid_file(config: RelayConfig) -> Path:
    return config.path("run/relay.pid")


def running(config: RelayConfig) -> Optional[int]:
    """The supervisor's process id, None when none runs."""
    try:
        with pid_file(config).open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or "0") or None
    except FileNotFoundError:
        pass
    return None


def supervise(config: RelayConfig, command: List[str], *, daemon: bool) -> int:
    """Run `command` and restart it until SIGTERM or its good end. Exit code 0, or 75: a supervisor runs already.

    Raises ConfigError when pid file or log can not be written.
    """
    file = _opened(pid_file(config), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"a supervisor of {config.node} runs already", file=sys.stderr)
        return 75
    # At once: until ours stands there, `stop` must not take an earlier supervisor's id for it.
    os.ftruncate(file, 0)
    log = config.path("log/relay.log") if daemon else None
    if log is not None:
        _daemonise(_opened(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640))
    os.pwrite(file, str(os.getpid()).encode(), 0)
    return _Supervisor(command, log).run()


def _opened(path: Path, flags: int, mode: int) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(str(path), flags, mode)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror} (as user {os.geteuid()})") from error


def _daemonise(out: int) -> None:
    """Go into the background, with `out` for all that is said."""
    # The flock belongs to the open file, which the children share; the parents leave without closing it.
    leader = os.fork()
    if leader:
        # Whoever started us may end our process group as soon as we leave: the daemon must be out of it by then.
        os.waitpid(leader, 0)
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setpgid(0, 0)  # so that `stop` can end it and its relay together, and nobody else
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)


def bound_log(log: Path, most_bytes: int = MOST_LOG_BYTES) -> None:
    """Put a log that has grown too long aside as `.1` (the one before is gone) and let it start again.

    Emptied, not renamed: the relay goes on writing to the open file that it was given.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size <= most_bytes:
            return
        try:
            shutil.copyfile(str(log), str(log) + ".1")
        finally:
            os.truncate(str(log), 0)  # also where the disk has no room for the copy: that is when it must be


class _Heir:
    """A relay that another one has started, and whose parent we have become."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: Optional[int] = None

    def poll(self) -> Optional[int]:
        """Its exit code, None before `wait` has seen it end."""
        return self._code

    def wait(self) -> int:
        """Its exit code when it ends; minus the signal that ended it."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code

    def send_signal(self, number: int) -> None:
        """As of subprocess.Popen."""
        if self._code is None:  # nobody but `wait` frees the number, so it is still its own
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class _Supervisor:
    def __init__(self, command: List[str], log: Optional[Path] = None) -> None:
        """`log`: the file that we and the relay write to."""
        self._command, self._log = command, log
        self._child: Union["subprocess.Popen[bytes]", _Heir, None] = None
        self._stopping = False
        self._heirs, self._tell_heirs = os.pipe()
        os.set_blocking(self._heirs, False)

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        if self._log is not None:
            # A timer, so that the wait for the child is one that sleeps.
            signal.signal(signal.SIGALRM, self._look_at_log)
            signal.setitimer(signal.ITIMER_REAL, LOG_LOOK_EVERY_S, LOG_LOOK_EVERY_S)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        pause = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            self._child = self._start()
            code = self._until_it_ends(self._child)
            if self._stopping:
                break
            if code == 0:
                print("the relay ended as it was told to", file=sys.stderr, flush=True)
                break
            pause = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else min(pause * 2, LONGEST_PAUSE_S)
            print(f"the relay ended with {code}; starts again in {pause:g} s", file=sys.stderr, flush=True)
            self._pause(pause)
        return 0

    def _start(self) -> "subprocess.Popen[bytes]":
        environ = {**os.environ, HEIRS: str(self._tell_heirs)}
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, pass_fds=(self._tell_heirs,), env=environ
        )

    def _until_it_ends(self, child: "Union[subprocess.Popen[bytes], _Heir]") -> int:
        """The exit code of the relay, through all its upgrades."""
        while True:
            if self._stopping:  # told while the child was being made: the handler saw no child yet
                child.terminate()
            code = child.wait()
            heir = self._heir()
            if heir is None:
                self._bury()
                return code
            print(f"process {heir.pid} has taken the relay over", file=sys.stderr, flush=True)
            child = self._child = heir

    def _heir(self) -> Optional[_Heir]:
        """Who has the place of the relay that has just ended, if anybody has."""
        try:
            said = os.read(self._heirs, 4096).split()
        except BlockingIOError:
            return None
        return _Heir(int(said[-1]))

    @staticmethod
    def _bury() -> None:
        """What a dead relay leaves behind are our children now."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _stop(self, _signum: int, _frame: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _pass_on(self, number: int, _frame: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _look_at_log(self, _signum: int, _frame: object) -> None:
        assert self._log is not None
        bound_log(self._log)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(0.05)


def stop(config: RelayConfig, wait_s: float = STOP_WAIT_S) -> int:
    """Stop the supervisor and its relay; 0 also when none runs. Raises ConfigError when it does not go."""
    pid = running(config)
    if pid is None:
        return 0
    if not _is_its_own(pid, pid_file(config)):
        raise ConfigError(f"{pid_file(config)}: process {pid} is no supervisor of {config.node}")
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if running(config) is None:
            return 0
        time.sleep(0.02)
    _kill(pid)
    end = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < end:
        if running(config) is None:
            return 0
        time.sleep(0.02)
    raise ConfigError(f"supervisor {pid} of {config.node} does not end")


def _is_its_own(pid: int, file: Path) -> bool:
    """Is it a process of whoever owns the pid file, or else at least a supervisor? A user's file must not lead root to
    end anybody's process.
    """
    owner = file.lstat().st_uid
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True  # it has ended
    uids = next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    return owner == 0 or {str(owner)} == {*uids} or b"supervise" in words


def _kill(pid: int) -> None:
    """End a supervisor that did not go when it was told, mostly because its relay does not."""
    with contextlib.suppress(ProcessLookupError):
        # One in the foreground shares the group of whoever started it; its relay then goes with its parent.
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
