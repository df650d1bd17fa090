"""A relay is upgraded in the middle of calls: real processes, the zipapp of a node, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.process.control import ask
from tests.hostile.wire import SocketClient
from tests.relay.serving import plain_relay
from tests.relay.stream_world import write_pair
from tests.relay.upgrading import NEXT, Call, Node, gone, newer, node


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "node") as made:
        yield made


@contextlib.contextmanager
def calling(here: Node, *transports: str) -> Iterator[list[Call]]:
    """Calls that are up."""
    calls: list[Call] = []
    try:
        for transport in transports:
            calls.append(Call(here.server, transport))
        for call in calls:
            call.goes_on()
        yield calls
    finally:
        for call in calls:
            call.close()
            call.client.wire.close()


def test_no_packet_is_lost_in_an_upgrade_nor_in_the_next_one(here: Node) -> None:
    here.serve()
    first = here.pid()
    with calling(here, "udp", "tcp") as calls:
        here.put_program(newer())
        answer = here.ask("upgrade")
        for call in calls:
            call.goes_on()
        again = here.ask("upgrade")
        for call in calls:
            call.goes_on()
        assert answer["ok"] and answer["version"] == NEXT and answer["from"] != NEXT
        assert (answer["allocations"], answer["connections"], answer["cut"]) == (2, 1, 0)
        assert again["ok"] and again["from"] == NEXT and again["pid"] == here.pid() != answer["pid"]
        told = here.ask("status")
        assert [call.lost() for call in calls] == [0, 0]
        assert all(call.refreshes() for call in calls)
    assert told["version"] == NEXT and told["upgrade"]["taken_over"]["from_version"] == NEXT
    assert told["turn"]["allocations_made"] == 2 and told["streams"]["accepted"] == 1
    assert told["traffic"]["packets"]["from_client"]["udp"] > 100
    assert told["drops"] == {} and told["kernel_drops"] == 0
    gone(first)


BROKEN = {
    "no zip": b"not a program",
    "no program": newer(**{"__main__.py": "raise SystemExit('it is Monday')\n"}),
    "a bug": newer(**{"commcli/relay/process/takeover.py": "import nothing_of_that_name\n"}),
    "a bug in the middle": newer(
        **{
            "__main__.py": """
import sys
from commcli.relay.process import state
def rest(*_arguments):
    raise RuntimeError("too much for me")
state.Taker.rest = rest
from commcli.relay.__main__ import main
sys.exit(main())
"""
        }
    ),
    "a death in the middle": newer(
        **{
            "__main__.py": """
import os, sys
from commcli.relay.process import state
state.Taker.rest = lambda *_: os._exit(9)
from commcli.relay.__main__ import main
sys.exit(main())
"""
        }
    ),
    "a state that it does not know": newer(
        **{
            "__main__.py": """
import sys
from commcli.relay.process import handover, takeover
takeover.SCHEMA = 2
from commcli.relay.__main__ import main
sys.exit(main())
"""
        }
    ),
}
SAID = {
    "no zip": "",
    "no program": "it is Monday",
    "a bug": "nothing_of_that_name",
    "a bug in the middle": "RuntimeError: too much for me",
    "a death in the middle": "the other process has ended",
    "a state that it does not know": "the state has schema 1, not 2",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_new_program_that_fails_leaves_the_old_one_as_it_was(here: Node, what: str) -> None:
    here.serve()
    before = here.pid()
    with calling(here, "udp", "tcp") as calls:
        here.put_program(BROKEN[what])
        answer = here.ask("upgrade")
        assert not answer["ok"] and SAID[what] in answer["error"] and "\n" not in answer["error"]
        for call in calls:
            call.goes_on()
        told = here.ask("status")
        assert told["pid"] == before and "upgrade_failed" in here.log()
        assert f"did not take over: {told['upgrade']['last_failed']['reason']}" in answer["error"]
        here.put_program(newer())
        assert here.ask("upgrade")["ok"]
        assert here.ask("status")["upgrade"]["last_failed"] is None
        assert [call.lost() for call in calls] == [0, 0]
        assert all(call.refreshes() for call in calls)


def test_a_new_program_that_hangs_in_the_middle_is_ended(here: Node) -> None:
    here.serve()
    before = here.pid()
    hangs = """
import sys, time
from commcli.relay.process import state
state.Taker.rest = lambda *_: time.sleep(600)
from commcli.relay.__main__ import main
sys.exit(main())
"""
    with calling(here, "udp", "tcp") as calls:
        here.put_program(newer(**{"__main__.py": hangs}))
        answer = here.ask("upgrade")
        assert not answer["ok"] and "no word of restored" in answer["error"]
        for call in calls:
            call.goes_on()
        assert here.pid() == before
        for call in calls:
            call.lost()
        assert all(call.refreshes() for call in calls)


def test_a_wrong_configuration_changes_nothing(here: Node) -> None:
    here.serve()
    before = here.pid()
    here.write_config(turn_port="many")
    answer = here.ask("upgrade")
    assert not answer["ok"] and "turn_port 'many' is not a port" in answer["error"]
    here.write_config(turn_port=here.server[1], node="another-1")
    assert "the running relay is 'test-1', not 'another-1'" in here.ask("upgrade")["error"]
    here.write_config(node="test-1", workers=2)
    assert "2 processes can not take over from one" in here.ask("upgrade")["error"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        here.write_config(workers=1, metrics_port=taken.getsockname()[1])
        assert "cannot bind" in here.ask("upgrade")["error"]
    assert here.pid() == before


def test_an_upgrade_takes_up_what_waits_for_a_restart(here: Node) -> None:
    here.serve()
    with calling(here, "udp") as calls:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        here.write_config(metrics_port=port)
        assert here.ask("reload")["restart"] == ["metrics_port"]
        assert here.ask("upgrade")["ok"]
        with socket.create_connection(("127.0.0.1", port)) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b'commcli_relay_allocations{transport="udp"} 1' in scraper.recv(1 << 16)
        assert calls[0].lost() == 0


def test_who_asks_in_the_middle_is_answered_by_the_next(here: Node) -> None:
    here.serve()
    here.ask("drain", sessions=3)
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(here.base / "run/control.sock"))
        asker.sendall(b'{"cmd": ')
        time.sleep(0)
        assert here.ask("upgrade")["ok"]
        asker.sendall(b'"status"}\n')
        received = b""
        while chunk := asker.recv(1 << 16):
            received += chunk
    told = json.loads(received)
    assert told["pid"] == here.pid() and told["draining"]["sessions"] == 3


def test_what_is_reloaded_meanwhile_is_not_forgotten(here: Node) -> None:
    slow = """
import sys, time
from commcli.relay.process import takeover
class Slow(takeover.Takeover):
    def finish(self, relay):
        open(%r, "a").write("read\\n")
        time.sleep(0.5)
        return super().finish(relay)
takeover.Takeover = Slow
from commcli.relay.__main__ import main
sys.exit(main())
"""
    mark = here.base / "read"
    here.put_program(newer(**{"__main__.py": slow % str(mark)}))
    here.serve()
    answers: list[dict[str, Any]] = []
    asker = threading.Thread(target=lambda: answers.append(here.ask("upgrade")))
    asker.start()
    while not mark.exists():
        time.sleep(0.01)
    here.write_config(user_quota=1)
    assert here.ask("reload")["changed"] == ["user_quota"]
    asker.join()
    assert answers[0]["ok"] and mark.read_text() == "read\nread\n"
    one, other = SocketClient(here.server), SocketClient(here.server)
    assert (one.allocate().code, other.allocate().code) == (None, 486)
    one.wire.close()
    other.wire.close()


def test_one_at_a_time(here: Node) -> None:
    here.serve()
    answers: list[dict[str, Any]] = []
    askers = [threading.Thread(target=lambda: answers.append(here.ask("upgrade"))) for _ in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(answer["ok"] for answer in answers) == [False, True]
    assert "under way" in next(answer["error"] for answer in answers if not answer["ok"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"tls": "perhaps"}, "tls 'perhaps' is none of refuse, cut, wait"),
        ({"wait_s": -1}, "wait_s -1 is no number"),
        ({"soon": True}, "unknown key 'soon'"),
    ],
)
def test_words_that_mean_nothing(here: Node, words: dict[str, Any], why: str) -> None:
    here.serve()
    answer = here.ask("upgrade", **words)
    assert not answer["ok"] and why in answer["error"]


# --- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_tls(tmp_path: Path) -> Iterator[tuple[Node, tuple[str, int]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    certificate, key = write_pair(tmp_path)
    with node(tmp_path / "node", tls_port=port, tls_certificate=str(certificate), tls_key=str(key)) as made:
        made.serve()
        yield made, ("127.0.0.1", port)


def test_calls_over_tls_bar_an_upgrade_or_are_cut(with_tls: tuple[Node, tuple[str, int]]) -> None:
    here, tls = with_tls
    before = here.pid()
    cut = SocketClient(tls, "tls")
    assert cut.allocate().code is None
    with contextlib.closing(cut.wire), calling(here, "udp") as calls:
        refused = here.ask("upgrade")
        assert not refused["ok"] and refused["tls_allocations"] == 1 and "1 live" in refused["error"]
        assert here.pid() == before and cut.refresh(600).code is None
        answer = here.ask("upgrade", tls="cut")
        assert answer["ok"] and (answer["allocations"], answer["cut"]) == (1, 1)
        assert cut.wire.receive() is None
        assert here.ask("status")["turn"]["allocations_ended"] == 1
        again = SocketClient(tls, "tls")
        assert again.allocate().code is None
        again.wire.close()
        assert calls[0].lost() == 0


def test_an_upgrade_may_wait_for_calls_over_tls(with_tls: tuple[Node, tuple[str, int]]) -> None:
    here, tls = with_tls
    client = SocketClient(tls, "tls")
    assert client.allocate().code is None
    answers: list[dict[str, Any]] = []
    asker = threading.Thread(target=lambda: answers.append(here.ask("upgrade", tls="wait")))
    asker.start()
    while not here.ask("status")["upgrade"]["under_way"]:
        time.sleep(0.01)
    before = here.pid()
    assert "under way" in here.ask("upgrade")["error"]
    assert client.refresh(600).code is None and here.pid() == before
    client.wire.close()
    asker.join()
    assert answers[0]["ok"] and answers[0]["cut"] == 0 and here.pid() == answers[0]["pid"]


def test_an_upgrade_that_waited_in_vain(with_tls: tuple[Node, tuple[str, int]]) -> None:
    here, tls = with_tls
    client = SocketClient(tls, "tls")
    assert client.allocate().code is None
    answer = here.ask("upgrade", tls="wait", wait_s=0)
    assert not answer["ok"] and answer["tls_allocations"] == 1
    asker = socket.socket(socket.AF_UNIX)
    asker.connect(str(here.base / "run/control.sock"))
    asker.sendall(b'{"cmd": "upgrade", "tls": "wait"}\n')
    while not here.ask("status")["upgrade"]["under_way"]:
        time.sleep(0.01)
    asker.close()  # who does not wait any more wants it no more
    while here.ask("status")["upgrade"]["under_way"]:
        time.sleep(0.01)
    client.wire.close()


# --- who watches over it -------------------------------------------------------------------------------------------


def test_the_supervisor_goes_on_with_the_new_process(here: Node) -> None:
    here.supervise()
    pid_file = here.base / "run/relay.pid"
    supervisor, first = int(pid_file.read_text()), here.pid()
    with calling(here, "udp") as calls:
        here.put_program(newer())
        for _ in range(2):
            assert here.ask("upgrade")["ok"]
            calls[0].goes_on()
        assert calls[0].lost() == 0
    heir = here.pid()
    gone(first)
    assert int(pid_file.read_text()) == supervisor and parent_of(heir) == supervisor
    os.kill(heir, signal.SIGKILL)  # and looks after it as after the first one
    gone(heir)
    while True:
        with contextlib.suppress(OSError, ValueError):
            third = here.ask("status")
            break
        time.sleep(0.02)
    assert third["version"] == NEXT and third["pid"] not in (first, heir)
    here.end()
    gone(third["pid"])
    gone(supervisor)


def test_a_relay_ends_with_its_supervisor_also_after_an_upgrade(here: Node) -> None:
    here.supervise()
    supervisor = int((here.base / "run/relay.pid").read_text())
    assert here.ask("upgrade")["ok"]
    heir = here.pid()
    while parent_of(heir) != supervisor:
        time.sleep(0.01)
    while "relay_took_over" not in here.log():
        time.sleep(0.01)
    os.kill(supervisor, signal.SIGKILL)
    gone(heir)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Manager:
    """Stands for systemd with NotifyAccess=main: what it was told, and by whom."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"commcli-test-{os.getpid()}"
        self.sock.bind("\0" + name)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.settimeout(20)
        self.environ = {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "2000000"}
        self.main = 0

    def hears(self) -> tuple[int, str]:
        data, ancillary, _flags, _source = self.sock.recvmsg(4096, socket.CMSG_SPACE(12))
        [(_level, _kind, credentials)] = ancillary
        pid, _uid, _gid = struct.unpack("3i", credentials)
        text = data.decode()
        if self.main == 0:
            self.main = pid
        assert pid == self.main, f"{text!r} of {pid} would be ignored"
        if text.startswith("MAINPID="):
            self.main = int(text[8:])
        return pid, text


def test_the_service_manager_hears_only_from_its_main_process(here: Node) -> None:
    manager = Manager()
    with contextlib.closing(manager.sock):
        here.serve({**os.environ, **manager.environ})
        first = here.pid()
        while not manager.hears()[1].startswith("READY=1"):
            pass
        for before in (first, None):
            answer = here.ask("upgrade")
            assert answer["ok"]
            before = before or manager.main
            while manager.main == before:
                assert manager.hears()[0] == before
            assert manager.main == answer["pid"]
            heard = ""
            while not heard.startswith("READY=1"):
                _, heard = manager.hears()
            while heard != "WATCHDOG=1":
                _, heard = manager.hears()
            gone(before)


def test_a_relay_of_several_processes_says_so(tmp_path: Path) -> None:
    socket_path = tmp_path / "control.sock"
    with plain_relay("--workers", "2", "--control", str(socket_path)):
        answer = ask(socket_path, {"cmd": "upgrade"})
    assert not answer["ok"] and answer["restart"] and "drain it, then restart it" in answer["error"]
