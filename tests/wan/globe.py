"""Bare machines across the globe, and a desk to run plays from: certified host keys, a bastion, root and sudo users."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.remote import sshd
from tests.wan.desk import Desk
from tests.wan.machines import Kind, Machines, without_systemd
from tests.wan.wan import Wan, wan_or_skip
from tests.wan.weather import Weather

BASE = "/opt/commcli"
DESK, BASTION = "desk", "bastion"
# One way, from the desk, in ms.
FAR = {"de-1": 5, "ae-1": 30, "in-1": 35, "sg-1": 45, "jp-1": 60, "us-1": 25, "br-1": 50, "kr-1": 60}
# Two are no root: sudo asks the one for a password, the other not.
PASSWORD = "the ops' own password"
LOGINS = {"in-1": ("ops", PASSWORD), "kr-1": ("ops", None)}
WITH_SYSTEMD = ("ae-1", "kr-1")  # where that can be
BEHIND = ("br-1", "kr-1")  # the bastion: the desk has no way there
LOW_PORT = {"ae-1": 443, "jp-1": 443}  # for which the relay needs a power of root's
PATIENCE_S = 20.0
ADDRESSES = {node: f"10.77.0.{number}" for number, node in enumerate([*FAR, BASTION, DESK], start=1)}
LINKS = {
    **{(DESK, node): Weather(delay_ms=far, loss=1.0 if node in BEHIND else 0.0) for node, far in FAR.items()},
    (DESK, BASTION): Weather(delay_ms=20),
    **{(BASTION, node): Weather(delay_ms=FAR[node] - 20) for node in BEHIND},
}

FLEET = """\
name: wan
production: false
realm: lab
ssh: {{known_hosts: {folder}/known_hosts, identities: [{folder}/operator], agent: false}}
signing: {{signers: {folder}/signers}}
secrets: {{turn: {{file: {folder}/turn}}, overlay: {{file: {folder}/overlay}}, sudo: {{file: {folder}/sudo}}}}
"""


@dataclass(frozen=True)
class Place:
    """Everything that runs here."""

    wan: Wan
    machines: Machines
    desk: Desk

    def wait(self, node: str) -> None:
        """Until it takes SSH connections. Raises AssertionError with its log."""
        server, log = self.machines.servers[node], self.machines.log(node)
        self.desk.wait(node, server, log, BASTION if node in BEHIND else None)

    def play(self, *words: str, exit_code: int = 0) -> dict[str, dict[str, Any]]:
        """`play run WORDS`: the row of each node."""
        done = self.desk.commcli("play", "run", *words, "--json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        return {row["node"]: row for row in json.loads(done.stdout)["nodes"]}


def wait_for(done: Callable[[], object]) -> None:
    """Until another process has done what it is to do. Raises AssertionError when it does not."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def other_row(place: Place, node: str, section: str, **words: object) -> Iterator[None]:
    """With these words in a section of the node's row in the inventory."""
    path = place.desk.inventory / "nodes.yaml"
    before = path.read_text()
    [line] = [line for line in before.splitlines() if line.startswith(f"  {node}: ")]
    told = json.loads(line.partition(": ")[2])
    told[section] = {**told.get(section, {}), **words}
    path.write_text(before.replace(line, f"  {node}: {json.dumps(told)}"))
    try:
        yield
    finally:
        path.write_text(before)


@contextmanager
def globe(folder: Path) -> Iterator[Place]:
    """All of it until the body ends. A skip where there is no OpenSSH server, or namespaces are not permitted."""
    if reason := sshd.why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        wan = stack.enter_context(wan_or_skip(ADDRESSES, LINKS))
        systemd = () if without_systemd() else WITH_SYSTEMD
        names = (*FAR, BASTION)
        kinds = {node: Kind(*LOGINS.get(node, ("root", None)), systemd=node in systemd) for node in names}
        machines = stack.enter_context(Machines(wan, folder, kinds))
        desk = Desk(wan, DESK, folder)
        write_inventory(desk.inventory, folder, kinds)
        place = Place(wan, machines, desk)
        for node in machines.servers:
            place.wait(node)
        yield place


def write_inventory(inventory: Path, folder: Path, kinds: dict[str, Kind]) -> None:
    inventory.mkdir()
    for name, secret in {
        "turn": "turn's master key",
        "overlay": "overlay's master key",
        "sudo": PASSWORD,
    }.items():
        (folder / name).write_text(f"{secret}\n")
        (folder / name).chmod(0o600)
    shutil.copy(folder / "operator.pub", folder / "signers")
    nodes = "nodes:\n" + "".join(row(node, kinds[node]) for node in FAR)
    files = {
        "fleet.yaml": FLEET.format(folder=folder),
        "regions.yaml": "regions:\n  lab: {city: Lab, country: sg, continent: asia}\n",
        "nodes.yaml": nodes,
        "markets.yaml": "markets: {}\n",
        "zones.yaml": "zones: {}\n",
    }
    for name, text in files.items():
        (inventory / name).write_text(text)


def row(node: str, kind: Kind) -> str:
    ssh: dict[str, object] = {"user": kind.user, "sudo": kind.user != "root"}
    if node in BEHIND:
        ssh["proxy_jump"] = f"root@{ADDRESSES[BASTION]}"
    told: dict[str, object] = {"region": "lab", "address": ADDRESSES[node], "base": BASE, "ssh": ssh}
    if node in LOW_PORT:
        told["ports"] = {"turn": LOW_PORT[node]}
    # JSON is YAML.
    return f"  {node}: {json.dumps({**told, 'variables': {'allow_peers': ['10.77.0.0/16']}})}\n"
