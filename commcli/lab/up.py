"""`lab up`: from nothing, or from whatever an interrupted run left, to a lab whose hosts answer SSH."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from commcli.errors import CommcliError, Usage
from commcli.fleet.model import Fleet
from commcli.lab import authority, control, faults, inventory, keys, ports, processes
from commcli.lab.down import take_down
from commcli.lab.folder import ENTRIES, LabFolder, Place, Record, alone, write_atomic
from commcli.lab.interrupt import undisturbed

SSH_PORT = 2222
DEFAULT_NETWORK = "127.77.0"
_READY_S = 20.0


class PortTaken(CommcliError):
    """A port that the lab needs is in use."""

    exit_code = 3
    kind = "taken"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked `lab up` for."""

    nodes: int
    network: str


def places(example: Fleet, wish: Wish) -> tuple[Place, ...]:
    """Which of the example fleet's nodes the lab has, and where: the lab's own eight first, then the others."""
    first = [node for node in inventory.FIRST if node in example.nodes]
    ordered = [*first, *(node for node in example.nodes if node not in first)]
    if not 2 <= wish.nodes <= len(ordered):
        raise Usage(f"--nodes {wish.nodes}: the lab can have 2 to {len(ordered)} nodes")
    chosen = [example.nodes[node] for node in ordered[: wish.nodes]]
    return tuple(
        Place(node.id, example.regions[node.region].city, f"{wish.network}.{number}")
        for number, node in enumerate(chosen, start=1)
    )


def check_network(network: str) -> str:
    """A lab's network is the first three bytes of a loopback /24; Usage otherwise."""
    try:
        whole = ipaddress.ip_network(f"{network}.0/24")
    except ValueError:
        raise Usage(f"--network {network}: give three numbers, for example {DEFAULT_NETWORK}") from None
    if not whole.is_loopback or network == "127.0.0":
        raise Usage(f"--network {network}: must lie in 127.0.0.0/8, and not be 127.0.0 itself")
    return network


def up(folder: LabFolder, example: Fleet, wish: Wish, say: Callable[[str], None]) -> tuple[Record, bool]:
    """Bring the lab up; (its record, whether anything had to be done). Safe to repeat.

    Whatever is interrupted here, `lab down` can undo: the record is the first thing written, and every process
    carries the marker.
    """
    keys.require_tools()
    record = Record(check_network(wish.network), SSH_PORT, places(example, wish))
    _claim(folder)
    with alone(folder):
        before = folder.read()
        if before is not None and before != record:
            raise Usage(
                f"the lab at {folder.path} has {len(before.places)} nodes on {before.network}",
                hint="commcli lab down, then up again with the new figures",
            )
        if before is not None and _complete(folder, record):
            return record, False
        try:
            _build(folder, example, record, say)
        except BaseException:
            if before is None:  # half a lab helps nobody; one that was up before stays for a look at it
                with undisturbed():
                    take_down(folder)
            raise
        return record, True


def _build(folder: LabFolder, example: Fleet, record: Record, say: Callable[[str], None]) -> None:
    if not processes.find(folder.path):
        _check_ports(record)
    write_atomic(folder.record, json.dumps(record.as_dict(), indent=1) + "\n")
    say("keys, inventory and node folders")
    _write_files(folder, example, record)
    say(f"{len(record.places)} SSH servers on {record.network}.1-{len(record.places)}:{SSH_PORT}")
    _start_hosts(folder)


def _claim(folder: LabFolder) -> None:
    """Make the folder; refuse one that holds things which are not a lab's."""
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    strangers = sorted({entry.name for entry in folder.path.iterdir()} - set(ENTRIES))
    strangers = [name for name in strangers if not name.startswith(".")]
    if strangers and not folder.record.exists():
        raise Usage(
            f"{folder.path} is not empty and not a lab's (it holds {strangers[0]})", hint="give --folder"
        )


def _complete(folder: LabFolder, record: Record) -> bool:
    """Whether everything is there and the hosts answer, each node's SSH included."""
    status = control.running(folder)
    return (
        status is not None
        and all(status["nodes"].get(place.node) for place in record.places)
        and all(folder.faults(place.node).exists() for place in record.places)
        and authority.ready(folder, record)
        and (folder.inventory / "nodes.yaml").exists()
    )


def _check_ports(record: Record) -> None:
    taken = ports.in_use(record.addresses.values())
    if not taken:
        return
    others = sorted({found.folder for found in processes.find()})
    hint = f"another lab may hold it: commcli lab down --folder {others[0]}" if others else None
    raise PortTaken(f"{taken[0]} is in use; the lab needs {record.network}.x for itself", hint=hint)


def _write_files(folder: LabFolder, example: Fleet, record: Record) -> None:
    keys.make(folder, record, example.secrets)
    authority.make(folder, record)
    inventory.write(folder, example, record)
    folder.state.mkdir(mode=0o700, exist_ok=True)
    if not all(folder.faults(place.node).exists() for place in record.places):
        faults.write_all(folder, record)


def _start_hosts(folder: LabFolder) -> None:
    """Start the hosts process and wait until every port is open. A stale one is ended first."""
    if control.running(folder) is not None:
        for node, alive in control.ask(folder, "status")["nodes"].items():
            if not alive:
                control.ask(folder, "start", node=node)
        return
    processes.end(folder.path, processes.HOSTS)
    environ = processes.environment(folder.path, None, {**os.environ, "PYTHONUNBUFFERED": "1"})
    reader, writer = os.pipe()
    try:
        with folder.log.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "commcli.lab.hosts", str(folder.path), str(writer)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,),
                start_new_session=True, env=environ, cwd=Path(__file__).parents[2],
            )  # fmt: skip
        os.close(writer)
        answer = _await_line(reader)
    finally:
        os.close(reader)
    if answer != "ready":
        processes.end(folder.path, processes.HOSTS)
        child.wait()
        raise PortTaken(f"the lab's hosts did not start: {answer or 'no answer'}")
    # It outlives us on purpose: without this, Popen's destructor warns about a child that still runs.
    child.returncode = 0


def _await_line(reader: int) -> str:
    """What the hosts process says when its ports are open; "" when it ended or did not say anything in time."""
    text, deadline = b"", time.monotonic() + _READY_S
    while not text.endswith(b"\n"):
        readable, _, _ = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(reader, 4096) if readable else b""
        if not data:
            break
        text += data
    return text.decode(errors="replace").strip()
