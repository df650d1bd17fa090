from __future__ import annotations

import socket
from pathlib import Path

import pytest

from commcli.relay.process.readiness import Readiness


class _Manager:
    """Stands for systemd: what it was told."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def __call__(self, text: bytes) -> None:
        self.told.append(text)


def _readiness(manager: _Manager, **environ: str) -> Readiness:
    return Readiness({"NOTIFY_SOCKET": "/nowhere", **environ}, 42, manager)


def test_the_words_of_sd_notify() -> None:
    manager = _Manager()
    told = _readiness(manager)
    told.ready("3 allocations")
    told.reloading(1_234_567)
    told.ready()
    told.stopping()
    assert manager.told == [
        b"READY=1\nSTATUS=3 allocations",
        b"RELOADING=1\nMONOTONIC_USEC=1234567",
        b"READY=1\nSTATUS=",
        b"STOPPING=1",
    ]


def test_the_watchdog_hears_twice_in_its_time() -> None:
    manager = _Manager()
    told = _readiness(manager, WATCHDOG_USEC="30000000", WATCHDOG_PID="42")
    for tenth in range(0, 310):
        told.tick(100 + tenth / 10)
    assert manager.told == [b"WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "7"},  # meant for another process
    ],
)
def test_no_watchdog_no_sign_of_life(environ: dict[str, str]) -> None:
    manager = _Manager()
    _readiness(manager, **environ).tick(1e9)
    assert manager.told == []


@pytest.mark.parametrize("abstract", [False, True])
def test_over_a_real_socket(tmp_path: Path, abstract: bool) -> None:
    name = "@commcli-" + tmp_path.name if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(5)
        Readiness({"NOTIFY_SOCKET": name}).ready("up")
        assert sock.recv(100) == b"READY=1\nSTATUS=up"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "relative"}])
def test_nobody_listens_and_nothing_ends(environ: dict[str, str]) -> None:
    Readiness(environ).ready()
