"""The operator's side of a relay, on a relay that is a stand-in: no TURN, no fleet, a clock by hand."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from commcli.relay import config as configs
from commcli.relay.config import ConfigError, RelayConfig
from commcli.relay.log import Log
from commcli.relay.loop import Loop
from commcli.relay.process import control
from commcli.relay.process.operations import Operations
from commcli.relay.process.readiness import Readiness
from tests.relay.test_metrics import figures


class _Relay:
    """Stands for daemon.Relay: remembers what it was told."""

    def __init__(self, config: RelayConfig) -> None:
        self.config = config
        self.out = io.StringIO()
        self.log = Log(as_json=True, out=self.out, monotonic=lambda: 0.0)
        self.loop = Loop(self._tick)
        self.left, self.counted = 3, 0
        self.told: list[Any] = []
        self.refuses: str | None = None
        self.operations: Operations | None = None

    def _tick(self, now: float) -> None:
        if self.operations is not None:
            self.operations.tick(now)

    def sessions(self) -> int:
        return self.left

    def figures(self) -> dict[str, Any]:
        self.counted += 1
        return {"ok": True, **figures(allocations=self.left)}

    def status(self) -> dict[str, Any]:
        return {**self.figures(), "overlay": None}

    def reconfigure(self, config: RelayConfig) -> list[str]:
        if self.refuses is not None:
            raise ConfigError(self.refuses)
        restart = configs.needing_restart(self.config, config)
        self.config = configs.live(self.config, config)
        return restart

    def drain_to(self, sessions: int, stop: bool) -> None:
        self.told.append(("drain", sessions, stop))

    def undrain(self) -> None:
        self.told.append("undrain")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.getvalue().splitlines()]


class _Manager:
    def __init__(self) -> None:
        self.told: list[str] = []

    def __call__(self, text: bytes) -> None:
        self.told.append(text.decode().splitlines()[0])


def _config(**changes: Any) -> RelayConfig:
    words: dict[str, Any] = {"listen": "127.0.0.1:3478", "relay_ports": "40000-42000", "realm": "lab"}
    return configs.standalone(**{"users": ["u:a-password"], **words, **changes})


Read = Callable[[], RelayConfig]


class World:
    """One relay with its operations and its service manager."""

    def __init__(self, config: RelayConfig, read: Read | None = None) -> None:
        self.relay, self.manager = _Relay(config), _Manager()
        self.next_config = config
        readiness = Readiness({"NOTIFY_SOCKET": "/nowhere"}, 1, self.manager)
        self.operations = Operations(
            self.relay,
            read or (lambda: self.next_config),
            {"paths": lambda _: {"ok": True, "paths": {}}},
            readiness,
        )
        self.relay.operations = self.operations

    def ask(self, cmd: str, **arguments: Any) -> dict[str, Any]:
        answer = self.operations.answer({"cmd": cmd, **arguments})
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        self.operations.close()
        self.relay.loop.close()


@contextmanager
def world(config: RelayConfig | None = None, read: Read | None = None) -> Iterator[World]:
    made = World(_config() if config is None else config, read)
    yield made
    made.close()


@contextmanager
def looping(made: World) -> Iterator[None]:
    thread = threading.Thread(target=made.relay.loop.run)
    thread.start()
    try:
        yield
    finally:
        made.relay.loop.stop()
        thread.join()


def in_fleet(base: Path, **changes: Any) -> RelayConfig:
    return _config()._replace(base=base, **changes)


# --- drain -----------------------------------------------------------------------------------------------------


def test_drained_is_told_once_the_threshold_is_reached() -> None:
    with world() as made:
        answer = made.ask("drain", sessions=2)
        assert (answer["ok"], answer["drain"], answer["drained"], answer["allocations"]) == (
            True,
            True,
            False,
            3,
        )
        assert made.relay.told == [("drain", 2, False)]
        made.operations.tick(10.0)
        made.relay.left = 2
        made.operations.tick(11.0)
        made.operations.tick(12.0)
        assert made.ask("status")["drained"] is True
        assert [event["event"] for event in made.relay.events()] == ["drain", "drained"]
        made.ask("undrain")
        assert made.relay.told[-1] == "undrain"
        status = made.ask("status")
        assert (status["drain"], status["drained"], status["draining"]) == (False, False, None)


def test_without_a_threshold_it_is_the_configured_one() -> None:
    with world(_config(drain_sessions=9)) as made:
        assert made.ask("drain")["draining"]["sessions"] == 9


@pytest.mark.parametrize("wrong", [{"sessions": -1}, {"sessions": "2"}, {"sessions": True}, {"stop": 1}])
def test_a_wrong_wish_drains_nothing(wrong: dict[str, Any]) -> None:
    with world() as made:
        with pytest.raises(ValueError):
            made.ask("drain", **wrong)
        assert made.relay.told == []


def test_with_stop_the_relay_ends_when_it_is_drained() -> None:
    with world() as made:
        made.ask("drain", sessions=2, stop=True)
        made.operations.tick(10.0)
        assert not made.relay.loop._stopped
        made.relay.left = 2
        made.operations.tick(11.0)
        assert made.relay.loop._stopped


def test_who_comes_back_while_it_drains_makes_it_not_drained() -> None:
    with world() as made:
        made.ask("drain", sessions=2)
        made.relay.left = 2
        made.operations.tick(10.0)
        made.ask("drain", sessions=1)
        made.operations.tick(11.0)
        assert made.ask("status")["drained"] is False


def test_a_fleets_relay_stays_drained_over_a_restart(tmp_path: Path) -> None:
    with world(in_fleet(tmp_path)) as made:
        made.ask("drain", sessions=2, stop=True)
    with world(in_fleet(tmp_path)) as made:
        assert made.relay.told == [("drain", 2, False)]
        made.relay.left = 0
        made.operations.tick(10.0)
        assert not made.relay.loop._stopped, "who started it again wants it up"
        assert made.ask("status")["drained"] is True
        made.ask("undrain")
    with world(in_fleet(tmp_path)) as made:
        assert made.relay.told == []


def test_a_drain_that_can_not_be_kept_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with world(in_fleet(tmp_path)) as made:
        assert made.ask("undrain")["ok"] is True
        answer = made.ask("drain")
        assert answer["ok"] is True and "state" in answer["not_kept"]
        assert [event["event"] for event in made.relay.events()][-2:] == ["drain", "drain_not_kept"]


# --- reload ----------------------------------------------------------------------------------------------------


def test_a_reload_names_what_changed_and_what_waits() -> None:
    with world() as made:
        made.next_config = _config(users=["u:another-password"], listen="127.0.0.1:9999")
        answer = made.ask("reload")
        assert answer == {"ok": True, "changed": ["turn_port", "users"], "restart": ["turn_port"]}
        assert dict(made.relay.config.users) == {"u": "another-password"}
        assert made.ask("status")["reload"]["ok"] == 1
        assert "another-password" not in made.relay.out.getvalue()


def test_a_wrong_configuration_leaves_the_old_one(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("u:a-password\n")

    def read() -> RelayConfig:
        return _config(users=[], users_file=users)

    with world(read(), read) as made:
        users.write_bytes(b"u:\xff")
        answer = made.ask("reload")
        assert answer["ok"] is False and "not UTF-8" in answer["error"]
        assert made.relay.config.users == (("u", "a-password"),)
        assert [event["event"] for event in made.relay.events()] == ["reload_refused"]
        assert "commcli_relay_config_last_reload_successful 0" in made.ask("metrics")["text"]
        assert made.manager.told == ["RELOADING=1", "READY=1"]


def test_a_relay_that_can_not_apply_it_says_why() -> None:
    with world() as made:
        made.relay.refuses = "the certificate is nonsense"
        assert made.ask("reload") == {"ok": False, "error": "the certificate is nonsense"}
        made.relay.refuses = None
        made.ask("reload")
        reload = made.ask("status")["reload"]
        assert (reload["ok"], reload["refused"], reload["last_ok"], reload["error"]) == (1, 1, True, None)


# --- signals, readiness ------------------------------------------------------------------------------------------


def test_signals_are_obeyed_at_the_next_tick_and_not_in_between() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)}
    with world(_config(drain_sessions=4)) as made:
        try:
            made.operations.listen_to_signals()
            made.next_config = _config(user_quota=3)
            for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2, signal.SIGHUP):
                os.kill(os.getpid(), number)
            assert made.relay.told == []
            made.operations.tick(10.0)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert made.relay.told == [("drain", 4, False), "undrain"]
        assert made.relay.config.user_quota == 3


def test_ready_is_said_by_the_loop_and_once() -> None:
    with world() as made:
        assert made.manager.told == []
        for now in (10.0, 10.1, 11.0):
            made.operations.tick(now)
        assert made.manager.told == ["READY=1"]
    assert made.manager.told[-1] == "STOPPING=1"


# --- control socket and metrics ----------------------------------------------------------------------------------


def test_a_plain_relay_has_them_when_asked_for(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = tmp_path / "control.sock"
    with world(_config(control=path, metrics=str(port))) as made, looping(made):
        assert control.ask(path, {"cmd": "status"})["allocations"] == 3
        assert control.ask(path, {"cmd": "paths"}) == {"ok": True, "paths": {}}
        assert "unknown command 'dance'" in control.ask(path, {"cmd": "dance"})["error"]
        assert control.ask(path, {"cmd": ["status"]})["ok"] is False
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            page = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b'commcli_relay_allocations{transport="udp"} 2\n' in page
        assert b"commcli_relay_drained 0\n" in page
    assert not path.exists()


def test_who_asks_for_the_metrics_all_day_does_not_make_us_count_all_day() -> None:
    with world() as made:
        for step in range(300):
            made.operations.tick(10 + step / 100)
            assert "commcli_relay_draining 0" in made.operations._metrics_page()
        assert made.relay.counted == 3
        made.ask("drain")
        made.operations.tick(13.5)
        assert "commcli_relay_draining 1" in made.operations._metrics_page()


def test_a_relay_without_them_opens_nothing() -> None:
    with world() as made:
        assert not made.operations._listeners


def test_a_taken_metrics_port_is_one_line_and_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot bind TCP 127.0.0.1:{port}"):
            World(_config(control=tmp_path / "control.sock", metrics=str(port)))
