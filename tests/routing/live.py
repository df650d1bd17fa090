"""Real relay processes on loopback, provisioned by hand, and keys that may and may not sign tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.relay.serving import free_port


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, neither by UDP nor by TCP."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def write_node(base: Path, keys: Path, node: str) -> None:
    """A provisioned node: configuration, secrets, signers."""
    turn, overlay, stamp = free_ports(3)
    config = {
        **{"schema": 1, "node": node, "base": str(base), "address": "127.0.0.1", "realm": "test"},
        **{"turn_port": turn, "overlay_port": overlay, "stamp_port": stamp, "metrics_port": None},
        **{"relay_ports": [40000, 40100], "allow_peers": ["127.0.0.0/8"], "faults": False},
    }
    for folder in ("etc", "run", "state", "table"):
        (base / folder).mkdir(parents=True)
    (base / "etc/relay.json").write_text(json.dumps(config))
    (base / "etc/peers.json").write_text('{"schema": 1, "peers": {}}')
    (base / "etc/turn.secret").write_text("secret\n")
    (base / "etc/allowed_signers").write_text((keys / "signers").read_text())


@contextmanager
def relay(base: Path) -> Iterator[Path]:
    """A relay at work; its control socket."""
    command = [sys.executable, "-m", "commcli.relay", "serve", "--config", str(base / "etc/relay.json")]
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 20
        while not (base / "run/control.sock").exists():
            assert process.poll() is None and time.monotonic() < until, (base / "log").read_text()
            time.sleep(0.02)
        yield base / "run/control.sock"
    finally:
        process.terminate()
        process.wait(10)


def make_keys(folder: Path) -> Path:
    """`ours` may sign tables, `theirs` may not; `signers` says so."""
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    public = (folder / "ours.pub").read_text()
    (folder / "signers").write_text(f'commcli-table namespaces="commcli-table" {public}')
    return folder
