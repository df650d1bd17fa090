"""`commcli relay serve` as an operator has it: readiness, reload, drain and metrics of a real process."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.process import control
from tests.hostile.wire import a_client
from tests.relay.serving import ADDRESS, dies_with_us, free_port
from tests.relay.stream_world import write_pair
from tests.relay.turn_world import REALM

WITHIN_S = 20.0  # for what comes at once; no test waits so long for what does


class Process:
    """One relay; the test is its service manager."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.server = (ADDRESS, free_port())
        self.control = folder / "control.sock"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.settimeout(WITHIN_S)
        name = f"commcli-{folder.parent.name}-{folder.name}-{self.server[1]}"
        self.manager.bind("\0" + name)
        words = ["relay", "serve", "--listen", f"{ADDRESS}:{self.server[1]}", "--relay-ports", "22200-22240"]
        words += ["--realm", REALM, "--control", str(self.control), *options]
        self.process = subprocess.Popen(
            dies_with_us([sys.executable, "-m", "commcli", *words]),
            env={"NOTIFY_SOCKET": "@" + name},
            stderr=subprocess.PIPE,
            text=True,
        )

    def hears(self, word: str) -> None:
        """Until the relay says `word` to its service manager."""
        while not self.manager.recv(1000).decode().startswith(word):
            pass

    def ask(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self.control, {"cmd": cmd, **arguments})

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Exit code and log."""
        _, log = self.process.communicate(timeout=WITHIN_S)
        return self.process.returncode, log


@contextlib.contextmanager
def relay(folder: Path, *options: str) -> Iterator[Process]:
    made = Process(folder, *options)
    try:
        made.hears("READY=1")
        yield made
    finally:
        made.process.terminate()
        with contextlib.suppress(ValueError):  # the test has read it to its end
            made.process.communicate(timeout=WITHIN_S)
        made.manager.close()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text("alice:wonder\n")
    return path


def test_a_reload_takes_up_users_and_keeps_the_calls(tmp_path: Path, users: Path) -> None:
    with relay(tmp_path, "--users-file", str(users)) as served, a_client(served.server) as alice:
        assert alice.allocate().code is None
        users.write_text("alice:wonder\nbob:builder\n")
        with a_client(served.server, username="bob", password="builder") as bob:
            assert bob.allocate().code == 401
        served.signal(signal.SIGHUP)
        served.hears("RELOADING=1")
        served.hears("READY=1")
        with a_client(served.server, username="bob", password="builder") as bob:
            assert bob.allocate().code is None
            assert served.ask("status")["allocations"] == 2
        assert alice.refresh().code is None


def test_a_wrong_reload_leaves_the_old_configuration(tmp_path: Path, users: Path) -> None:
    with relay(tmp_path, "--users-file", str(users)) as served:
        with a_client(served.server) as alice, a_client(served.server) as another:
            assert alice.allocate().code is None
            users.write_bytes(b"alice:hunter2-\xff\n")
            answer = served.ask("reload")
            assert answer["ok"] is False and "not UTF-8" in answer["error"]
            assert alice.refresh().code is None
            assert another.allocate().code is None
        assert served.ask("status")["reload"]["refused"] == 1
        served.signal(signal.SIGTERM)
        served.hears("STOPPING=1")
        code, log = served.ended()
        assert code == 0
        assert log.count("reload_refused") == 1 and "hunter2" not in log


def test_a_broken_certificate_stays_out_and_holds_up_nothing_else(tmp_path: Path, users: Path) -> None:
    certificate, key = write_pair(tmp_path)
    words = ["--tls-port", str(free_port()), "--tls-cert", str(certificate), "--tls-key", str(key)]
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    with (
        relay(tmp_path, "--users-file", str(users), "--revoked-file", str(revoked), *words) as served,
        a_client(served.server) as alice,
    ):
        assert alice.allocate().code is None
        before = served.ask("status")["tls"]["not_after_unix"]
        certificate.write_text("no certificate\n")
        revoked.write_text("alice\n")
        answer = served.ask("reload")
        assert answer["ok"] is False and "certificate stays as it was" in answer["error"]
        assert served.ask("status")["tls"]["not_after_unix"] == before
        assert alice.refresh().code == 401


def test_quotas_and_revocations_come_with_a_reload(tmp_path: Path, users: Path) -> None:
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    with (
        relay(
            tmp_path, "--users-file", str(users), "--revoked-file", str(revoked), "--user-quota", "1"
        ) as served,
        a_client(served.server) as alice,
    ):
        assert alice.allocate().code is None
        with a_client(served.server) as again:
            assert again.allocate().code == 486
        assert 'commcli_relay_quota_refusals_total{quota="user"} 1' in served.ask("metrics")["text"]
        revoked.write_text("alice\n")
        assert served.ask("reload")["changed"] == ["revoked"]
        assert alice.refresh().code == 401


def test_drained_by_signal_and_back(tmp_path: Path, users: Path) -> None:
    with (
        relay(tmp_path, "--users-file", str(users), "--drain-sessions", "1") as served,
        a_client(served.server) as alice,
        a_client(served.server) as other,
        a_client(served.server) as late,
    ):
        assert alice.allocate().code is None and other.allocate().code is None
        served.signal(signal.SIGUSR1)
        served.hears("STATUS=draining")
        assert served.ask("status")["drained"] is False
        assert late.allocate().code == 486
        assert alice.refresh(0).code is None
        served.hears("STATUS=drained")
        assert served.ask("status")["drained"] is True
        served.signal(signal.SIGUSR2)
        served.hears("STATUS=serving")
        assert late.allocate().code is None


def test_drained_with_stop_it_ends_well_when_the_last_has_left(tmp_path: Path, users: Path) -> None:
    with relay(tmp_path, "--users-file", str(users)) as served:
        with a_client(served.server) as alice:
            assert alice.allocate().code is None
            answer = served.ask("drain", stop=True)
            assert (answer["drained"], answer["allocations"]) == (False, 1)
        code, log = served.ended()
        assert code == 0
        assert "drained" in log and not served.control.exists()


def test_metrics_over_http_while_a_call_is_up(tmp_path: Path, users: Path) -> None:
    port = free_port()
    with (
        relay(tmp_path, "--users-file", str(users), "--metrics", str(port)) as served,
        a_client(served.server, "tcp") as alice,
    ):
        assert alice.allocate().code is None
        with socket.create_connection((ADDRESS, port), timeout=WITHIN_S) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: relay\r\n\r\n")
            page = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        assert 'commcli_relay_allocations{transport="tcp"} 1\n' in page
        assert 'commcli_relay_streams{transport="tcp"} 1\n' in page
        assert "alice" not in page and ADDRESS not in page


def test_a_users_file_that_is_no_text_is_one_line(tmp_path: Path, users: Path) -> None:
    users.write_bytes(b"alice:hunter2-\xff\n")
    made = Process(tmp_path, "--users-file", str(users))
    code, said = made.ended()
    made.manager.close()
    assert code == 3
    assert said.splitlines()[0] == f"{users}: is not UTF-8 text"
    assert "Traceback" not in said and "hunter2" not in said
