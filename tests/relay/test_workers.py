"""A relay of two processes on loopback: one relay to its clients and to its operator."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.config import standalone
from commcli.relay.log import Log
from commcli.relay.process import control
from commcli.relay.process.workers import LOOK_EVERY_S, STUCK_S, Parent
from commcli.relay.turn import stun
from commcli.relay.turn.stun import Addr
from tests.hostile.wire import SocketClient
from tests.relay.serving import ADDRESS, ADDRESS6, RELAY_PORTS, Served, free_port, plain_relay
from tests.relay.stream_world import write_pair
from tests.relay.turn_world import REALM, Reply

WORKERS = 2
EVEN_AND_NEXT = (stun.EVEN_PORT, b"\x80")


def worker_of(relay: Addr) -> int:
    return (relay[1] >> 1) % WORKERS


def until(true: Callable[[], Any]) -> Any:
    """What `true` says once it is true: another process's progress is the event waited for."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            if said := true():
                return said
        time.sleep(0.03)
    raise AssertionError(f"never: {true}")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Running:
    """The relay, its control socket, and clients of it."""

    def __init__(self, served: Served, socket_path: Path, address: str) -> None:
        self.served, self._path, self._address = served, socket_path, address
        self.pid = served.process.pid
        self._clients: list[SocketClient] = []

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self._path, {"cmd": command, **arguments})

    def client(
        self, transport: str = "udp", username: str = "alice", password: str = "wonder"
    ) -> SocketClient:
        port = self.served.tls_port if transport == "tls" else self.served.port
        assert port is not None
        made = SocketClient((self._address, port), transport, username, password)
        self._clients.append(made)
        return made

    def one_on_each(
        self, transport: str = "udp", *wishes: stun.Attribute
    ) -> dict[int, tuple[SocketClient, Addr]]:
        """A client with its relayed address by worker: the kernel picks by the client's port, so try some."""
        found: dict[int, tuple[SocketClient, Addr]] = {}
        while len(found) < WORKERS:
            made = self.client(transport)
            relay = made.allocate(*wishes).relayed
            if found.setdefault(worker_of(relay), (made, relay))[0] is not made:
                made.refresh(0)
        return found

    def close(self) -> None:
        for made in self._clients:
            made.wire.close()


@contextlib.contextmanager
def running(
    folder: Path,
    *options: str,
    six: bool = False,
    pair: tuple[Path, Path] | None = None,
    log: Path | None = None,
) -> Iterator[Running]:
    path = folder / "control.sock"
    words = ("--workers", str(WORKERS), "--control", str(path), *options)
    with plain_relay(*words, user="alice:wonder", realm=REALM, six=six, pair=pair, log=log) as served:
        relay = Running(served, path, ADDRESS6 if six else ADDRESS)
        try:
            until(lambda: relay.ask("status")["workers"] == WORKERS)
            yield relay
        finally:
            relay.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("relay")
    with running(folder, "--allow-peer", "127.0.0.0/8", pair=write_pair(folder)) as relay:
        yield relay


@pytest.fixture(scope="module")
def echo() -> Iterator[Addr]:
    """A peer that sends everything back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ADDRESS, 0))

        def serve() -> None:
            while (received := sock.recvfrom(2000))[0] != b"enough":
                sock.sendto(*received)

        thread = threading.Thread(target=serve)
        thread.start()
        yield sock.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"enough", sock.getsockname())
        thread.join()


def talks(client: SocketClient, peer: Addr, word: bytes) -> bool:
    """Does what the client sends to an echoing peer come back?"""
    assert client.bind(0x4000, peer).code is None
    client.channel(0x4000, word)
    return client.hears() == b"\x40\x00" + len(word).to_bytes(2, "big") + word


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_both_workers_relay(shared: Running, echo: Addr, transport: str) -> None:
    for worker, (client, _) in shared.one_on_each(transport).items():
        assert talks(client, echo, b"by worker %d!" % worker)


def data_of(frame: bytes | None) -> tuple[Addr, bytes | None]:
    assert frame is not None
    message = stun.parse(frame)
    peer = stun.unpack_address(message.first(stun.XOR_PEER_ADDRESS) or b"", message.transaction)
    return peer, message.first(stun.DATA)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
def test_clients_of_different_workers_talk(tmp_path: Path, six: bool) -> None:
    """Without any peer allowed: only live allocations are peers on our own address."""
    with running(tmp_path, six=six) as relay:
        wishes = [(stun.REQUESTED_ADDRESS_FAMILY, bytes([stun.IPV6, 0, 0, 0]))] if six else []
        (one, here), (other, there) = relay.one_on_each("udp", *wishes).values()
        assert [one.permit(there[0]).code, other.permit(here[0]).code] == [None, None]
        one.send(b"over", there)
        assert data_of(other.hears()) == (here, b"over")
        other.send(b"and back", here)
        assert data_of(one.hears()) == (there, b"and back")

        other.refresh(0)
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as squatter:
            squatter.bind(there)
            one.send(b"to whom?", there)
            until(lambda: relay.ask("status")["drops"].get("no_allocation"))
            squatter.setblocking(False)
            with pytest.raises(BlockingIOError):
                squatter.recv(100)


def test_a_quota_is_the_users_at_the_node(tmp_path: Path) -> None:
    with running(tmp_path, "--user-quota", "3", "--user", "bob:builder") as relay:
        codes = [relay.client().allocate().code for _ in range(10)]
        assert codes == [None] * 3 + [486] * 7
        assert relay.client("udp", "bob", "builder").allocate().code is None


def test_a_total_quota_is_the_nodes(tmp_path: Path) -> None:
    with running(tmp_path, "--total-quota", "4") as relay:
        clients = [relay.client() for _ in range(8)]
        replies = [client.allocate() for client in clients]
        assert [reply.code for reply in replies] == [None] * 4 + [508] * 4
        clients[0].refresh(0)
        assert clients[4].allocate().code is None


def test_a_reserved_port_is_had_from_any_worker(shared: Running) -> None:
    met = set()
    for _ in range(40):
        holder = shared.client().allocate(EVEN_AND_NEXT)
        token = stun.RESERVATION_TOKEN, holder.message.first(stun.RESERVATION_TOKEN) or b""
        client = shared.client()
        assert client.allocate(token).relayed == (ADDRESS, holder.relayed[1] + 1)
        assert shared.client().allocate(token).code == 508
        client.refresh(0)
        met.add(worker_of(holder.relayed) == worker_of(client.allocate().relayed))
        if len(met) == 2:
            return
    raise AssertionError("holder and taker are always at the same worker, or never")


def test_figures_are_the_nodes(tmp_path: Path, echo: Addr) -> None:
    with running(tmp_path, "--allow-peer", "127.0.0.0/8") as relay:
        clients = relay.one_on_each()
        assert relay.ask("status")["allocations"] == WORKERS
        for client, _ in clients.values():
            assert talks(client, echo, b"four")
        until(lambda: relay.ask("status")["traffic"]["bytes"]["to_client"]["udp"] == 4 * WORKERS)
        status = relay.ask("status")
        assert status["allocations_by"] == {"udp": WORKERS, "tcp": 0, "tls": 0}
        assert f"commcli_relay_workers {WORKERS}" in relay.ask("metrics")["text"].splitlines()


def codes_of_new_clients(
    relay: Running, username: str = "alice", password: str = "wonder"
) -> set[int | None]:
    """What enough new clients get, each of which is gone again: enough for both workers to be asked."""
    codes = set()
    for _ in range(12):
        client = relay.client("udp", username, password)
        reply = client.allocate()
        codes.add(reply.code)
        if reply.code is None:
            client.refresh(0)
    return codes


def test_drain_reaches_all_and_calls_stay(tmp_path: Path, echo: Addr) -> None:
    with running(tmp_path, "--allow-peer", "127.0.0.0/8") as relay:
        clients = relay.one_on_each()
        assert relay.ask("drain", sessions=0)["drained"] is False
        until(lambda: codes_of_new_clients(relay) == {486})
        for client, _ in clients.values():
            assert talks(client, echo, b"still there")
        assert relay.ask("undrain")["ok"]
        until(lambda: codes_of_new_clients(relay) == {None})


def test_drained_with_stop_all_end(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the relay died"), running(tmp_path) as relay:
        clients = relay.one_on_each()
        workers = children(relay.pid)
        assert relay.ask("drain", sessions=0, stop=True)["ok"]
        for client, _ in clients.values():
            client.refresh(0)
        assert relay.served.process.wait(20) == 0
        assert not any(map(alive, workers))


def test_reload_reaches_all(tmp_path: Path, echo: Addr) -> None:
    users = tmp_path / "users"
    users.write_text("carol:old\n")
    with running(tmp_path, "--users-file", str(users), "--allow-peer", "127.0.0.0/8") as relay:
        clients = relay.one_on_each()
        users.write_text("carol:new\ndave:too\n")
        os.kill(relay.pid, signal.SIGHUP)
        until(lambda: codes_of_new_clients(relay, "dave", "too") == {None})
        until(lambda: codes_of_new_clients(relay, "carol", "old") == {401})
        users.write_text("no password\n")
        assert relay.ask("reload")["ok"] is False
        assert codes_of_new_clients(relay, "dave", "too") == {None}
        for client, _ in clients.values():
            assert talks(client, echo, b"all the while")


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def hub(relay: Running) -> int:
    return int(relay.ask("status")["pid"])


def served_again(relay: Running, worker: int) -> None:
    """Until new clients get allocations at this worker."""

    def look() -> bool:
        client = relay.client()
        reply: Reply = client.allocate()
        return reply.code is None and worker_of(reply.relayed) == worker

    until(look)


def test_a_dead_worker_costs_its_own_calls_and_comes_back(tmp_path: Path, echo: Addr) -> None:
    with running(tmp_path, "--allow-peer", "127.0.0.0/8", "--user-quota", "100") as relay:
        clients = relay.one_on_each()
        made = until(
            lambda: (relay.ask("status")["turn"]["allocations_made"] >= WORKERS) and relay.ask("status")
        )
        (victim,) = set(children(relay.pid)) - {hub(relay)}
        os.kill(victim, signal.SIGKILL)
        until(lambda: not alive(victim) and len(children(relay.pid)) == WORKERS)
        assert talks(clients[0][0], echo, b"not my worker")
        lost = clients[1][0]
        assert lost.bind(0x4000, echo).code == 438, "another process, another nonce"
        lost.nonce = b""
        assert lost.bind(0x4000, echo).code == 437
        lost.nonce = b""
        assert worker_of(lost.allocate().relayed) == 1, "the same client, the same worker"
        after = until(lambda: (relay.ask("status")["workers"] == WORKERS) and relay.ask("status"))
        assert after["turn"]["allocations_made"] >= made["turn"]["allocations_made"]
        assert relay.ask("status")["allocations"] == 2
        assert "commcli_relay_worker_restarts_total 1" in relay.ask("metrics")["text"].splitlines()
        # Sooner or later the last that the workers say fits: made, less what ended or was lost, lives.
        until(
            lambda: (turn := relay.ask("status")["turn"])["allocations_made"] - turn["allocations_ended"] == 2
        )


def test_a_dead_hub_is_started_again_and_knows_what_was_reloaded(tmp_path: Path, echo: Addr) -> None:
    users = tmp_path / "users"
    users.write_text("carol:old\n")
    with running(tmp_path, "--users-file", str(users), "--allow-peer", "127.0.0.0/8") as relay:
        clients = relay.one_on_each()
        users.write_text("carol:new\n")
        assert relay.ask("reload")["ok"]
        before = hub(relay)
        os.kill(before, signal.SIGKILL)
        assert talks(clients[1][0], echo, b"not the hub's")
        until(lambda: hub(relay) != before)
        served_again(relay, 0)
        until(lambda: relay.ask("status")["workers"] == WORKERS)
        assert codes_of_new_clients(relay, "carol", "old") == {401}
        assert codes_of_new_clients(relay, "carol", "new") == {None}
        assert talks(clients[1][0], echo, b"not even now")


def test_a_hub_waits_for_a_configuration_that_it_can_use(tmp_path: Path, echo: Addr) -> None:
    """Started again with the old one, it would forget what was revoked since."""
    users, log = tmp_path / "users", tmp_path / "log"
    users.write_text("carol:old\n")
    with running(tmp_path, "--users-file", str(users), "--allow-peer", "127.0.0.0/8", log=log) as relay:
        clients = relay.one_on_each()
        users.write_text("no password\n")
        os.kill(hub(relay), signal.SIGKILL)
        until(lambda: "worker=0 code=3" in log.read_text())
        assert "a user is NAME:PASSWORD" in log.read_text()
        assert talks(clients[1][0], echo, b"as if nothing were")
        users.write_text("carol:new\n")
        until(lambda: relay.ask("status")["workers"] == WORKERS)
        assert codes_of_new_clients(relay, "carol", "old") == {401}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nobody_is_left_behind(tmp_path: Path, how: signal.Signals) -> None:
    with pytest.raises(AssertionError, match="the relay died"), running(tmp_path) as relay:
        workers = children(relay.pid)
        assert len(workers) == WORKERS
        relay.served.process.send_signal(how)
        assert relay.served.process.wait(20) == (-how if how == signal.SIGKILL else 0)
        until(lambda: not any(map(alive, workers)))


def serve(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commcli", "relay", "serve", "--user", "u:p", "--workers", "2", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_second_relay_does_not_share_the_ports_of_the_first(shared: Running) -> None:
    done = serve("--listen", f"{ADDRESS}:{shared.served.port}", "--relay-ports", RELAY_PORTS)
    assert done.returncode == 3
    assert (
        done.stderr
        == f"commcli-relay: cannot bind UDP {ADDRESS}:{shared.served.port}: Address already in use\n"
    )


def test_more_workers_than_ports_are_refused() -> None:
    done = serve("--listen", f"{ADDRESS}:1", "--relay-ports", "20000-20002")
    assert done.returncode == 3
    assert done.stderr == "commcli-relay: relay_ports 20000-20002 are too few for 2 workers\n"


def test_a_hub_that_cannot_start_ends_all(shared: Running, tmp_path: Path) -> None:
    taken = tmp_path / "control.sock"
    taken.write_text("a file that is no socket")
    done = serve(
        "--listen", f"{ADDRESS}:{free_port()}", "--relay-ports", "23000-23010", "--control", str(taken)
    )
    assert done.returncode == 3
    assert "there is a file that is no socket" in done.stderr


class Watching:
    """A parent that never forks: its children are ours."""

    def __init__(self) -> None:
        self.out = io.StringIO()
        config = standalone(
            listen=f"{ADDRESS}:{free_port()}", relay_ports="23600-23610", users=["u:p"], realm=REALM
        )
        self.parent = Parent(config, "test", Log(as_json=True, out=self.out), lambda: config, WORKERS)

    def child(self, worker: int, command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command.split())
        self.parent._children[worker].pid = process.pid
        return process

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


@pytest.fixture
def watching() -> Iterator[Watching]:
    made = Watching()
    yield made
    made.parent.close()


def test_a_worker_that_stands_still_is_ended(watching: Watching) -> None:
    beats = watching.parent._register.beats
    stuck = watching.child(1, "sleep 60")
    for _ in range(int(STUCK_S / LOOK_EVERY_S) + 10):
        watching.parent._end_stuck()
    assert stuck.poll() is None, "it has not begun yet"
    beats[1] = 1
    for _ in range(int(STUCK_S / LOOK_EVERY_S) + 10):
        beats[1] += 1
        watching.parent._end_stuck()
    assert stuck.poll() is None, "it goes on"
    for _ in range(int(STUCK_S / LOOK_EVERY_S) + 2):
        watching.parent._end_stuck()
    assert stuck.wait(10) == -signal.SIGKILL
    assert [line["event"] for line in watching.said()] == ["worker_stuck"]


def test_a_worker_that_dies_at_once_is_started_ever_more_slowly(watching: Watching) -> None:
    pauses = []
    for now in range(8):
        gone = watching.child(1, "false")
        os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
        assert watching.parent._reap(float(now)) is None
        gone.returncode = 1  # it was reaped behind its back
        child = watching.parent._children[1]
        assert child.pid == 0
        pauses.append(child.due - now)
    assert watching.parent._register.restarts() == 8
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert {line["code"] for line in watching.said()} == {1}
    gone = watching.child(1, "false")
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    watching.parent._reap(1000.0)
    gone.returncode = 1
    assert watching.parent._children[1].due == pytest.approx(1000.2), "it had lived for long"


def test_systemd_hears_the_main_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready, signs of life and the end, all from the one process that it listens to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        said: list[bytes] = []

        def hears(word: bytes, pid: int) -> None:
            for _ in itertools.count():
                data, ancillary, _, _ = manager.recvmsg(4096, 64)
                assert int.from_bytes(ancillary[0][2][:4], sys.byteorder) == pid
                said.extend(data.splitlines())
                if word in said:
                    return

        with running(tmp_path) as relay:
            hears(b"READY=1", relay.pid)
            hears(b"WATCHDOG=1", relay.pid)
        hears(b"STOPPING=1", relay.pid)
