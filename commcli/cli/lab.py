"""A whole fleet on this machine: real SSH, real relays, a measured WAN, no root."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, StateOpt, settings_from
from commcli.errors import AnswerBad, OutOfReach, Usage
from commcli.lab.folder import LabFolder, Record, alone, locate

app = typer.Typer(help="A whole fleet on this machine, without root.", no_args_is_help=True)

FolderOpt = Annotated[
    Path | None, typer.Option("--folder", help="The lab's folder (default: lab in the state folder).")
]
NodeArg = Annotated[str, typer.Argument(help="A node of the lab.")]


@app.command()
def up(
    nodes: Annotated[int, typer.Option("--nodes", help="How many nodes (2 to 16).")] = 8,
    network: Annotated[
        str, typer.Option("--network", help="First three numbers of a loopback /24.")
    ] = "127.77.0",
    folder: FolderOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Start the lab: hosts with SSH, keys, an inventory and a WAN. Safe to repeat."""
    from commcli.lab import inventory as lab_inventory
    from commcli.lab import up as lifecycle
    from commcli.report.progress import following

    settings = settings_from(inventory, state)
    lab = locate(settings.state, folder)
    example = lab_inventory.example(settings.inventory)
    with following("lab up", quiet=quiet) as progress:
        record, changed = lifecycle.up(
            lab, example, lifecycle.Wish(nodes, network), lambda text: progress.update("lab", text)
        )
    environment = {"COMMCLI_INVENTORY": str(lab.inventory), "COMMCLI_STATE": str(lab.state)}
    output.emit(
        {
            "schema": 1, "kind": "lab.up", "folder": str(lab.path), "changed": changed,
            "environment": environment, **_nodes(record),
        },
        as_json=as_json, quiet=quiet,
    )  # fmt: skip
    if not quiet and not as_json:
        for name, value in environment.items():
            print(f"export {name}={_quoted(value)}", file=sys.stderr)


@app.command()
def down(
    folder: FolderOpt = None, state: StateOpt = None, as_json: JsonOpt = False, quiet: QuietOpt = False
) -> None:
    """End every process of the lab, remove its files, and verify that nothing is left."""
    from commcli.lab.down import down as take_down
    from commcli.report.progress import following

    lab = _lab(folder, state)
    with following("lab down", quiet=quiet) as progress:
        progress.update("lab", "ending its processes")
        remains = take_down(lab)
    document = {"schema": 1, "kind": "lab.down", "folder": str(lab.path), **remains.as_dict()}
    output.emit(document, as_json=as_json, quiet=quiet, good=remains.clean)
    if not remains.clean:
        raise typer.Exit(AnswerBad.exit_code)


@app.command()
def status(
    folder: FolderOpt = None,
    state: StateOpt = None,
    links: Annotated[bool, typer.Option("--links", help="Every link in force too.")] = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Which hosts answer, what runs on each, which links are degraded. Ends with 1 if a host is down."""
    from commcli.lab import status as looks

    lab = _lab(folder, state)
    record = _record(lab)
    document: dict[str, Any] = {"schema": 1, "kind": "lab.status", "folder": str(lab.path)}
    document |= {"network": record.network, **looks.status(lab, record)}
    if links:
        document["links"] = looks.links(lab, record)
    good = all(row["ssh"] for row in document["nodes"])
    output.emit(document, as_json=as_json, quiet=quiet, good=good)
    if not good:
        raise typer.Exit(AnswerBad.exit_code)


@app.command()
def degrade(
    a: NodeArg,
    b: NodeArg,
    rtt_ms: Annotated[
        float | None, typer.Option("--rtt-ms", min=0, max=20_000, help="RTT of the link.")
    ] = None,
    loss: Annotated[float | None, typer.Option("--loss", min=0, max=1, help="Loss each way, 0 to 1.")] = None,
    jitter_ms: Annotated[float | None, typer.Option("--jitter-ms", min=0, max=5_000, help="Jitter.")] = None,
    burst: Annotated[
        float | None, typer.Option("--burst", min=1, max=1_000, help="Mean losses in a row.")
    ] = None,
    rate_kbit: Annotated[float | None, typer.Option("--rate-kbit", min=1, help="Rate each way.")] = None,
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Worsen the link between two nodes, both ways. Loss and jitter are synthetic."""
    from commcli.lab import faults

    figures = {
        "rtt_ms": rtt_ms, "loss": loss, "jitter_ms": jitter_ms, "burst": burst, "rate_kbit": rate_kbit,
    }  # fmt: skip
    if all(value is None for value in figures.values()):
        raise Usage("say what to degrade: --rtt-ms, --loss, --jitter-ms, --burst or --rate-kbit")
    with _held(folder, state) as (lab, record):
        before, after = faults.degrade(lab, record, a, b, **figures)
    document = {
        "schema": 1, "kind": "lab.degrade", "pair": sorted((a, b)),
        "before": before.as_dict(), "after": after.as_dict(),
    }  # fmt: skip
    output.emit(document, as_json=as_json, quiet=quiet)


@app.command()
def lastmile(
    node: NodeArg,
    kbit_s: Annotated[
        float | None, typer.Option("--kbit-s", min=1, help="Rate each way, headers counted.")
    ] = None,
    delay_ms: Annotated[float, typer.Option("--delay-ms", min=0, max=10_000, help="Delay one way.")] = 0.0,
    jitter_ms: Annotated[float, typer.Option("--jitter-ms", min=0, max=5_000, help="Jitter.")] = 0.0,
    loss: Annotated[float, typer.Option("--loss", min=0, max=1, help="Loss each way, 0 to 1.")] = 0.0,
    burst: Annotated[float, typer.Option("--burst", min=1, max=1_000, help="Mean losses in a row.")] = 1.0,
    queue_ms: Annotated[
        float, typer.Option("--queue-ms", min=0, max=10_000, help="What would wait longer is dropped.")
    ] = 500.0,
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Give every client of this edge a bad last mile, both ways. Synthetic; `lab restore NODE` takes it back."""
    from commcli.lab import faults, wan

    mile = wan.LastMile(kbit_s, delay_ms, jitter_ms, loss, burst, queue_ms)
    if mile == wan.LastMile(queue_ms=queue_ms):
        raise Usage("say what it is like: --kbit-s, --delay-ms, --jitter-ms or --loss (with --burst)")
    with _held(folder, state) as (lab, record):
        changed = faults.set_last_mile(lab, record, node, mile)
    document = {
        "schema": 1,
        "kind": "lab.lastmile",
        "node": node,
        "changed": changed,
        "last_mile": mile.entry(),
    }
    output.emit(document, as_json=as_json, quiet=quiet)


@app.command()
def restore(
    a: Annotated[
        str | None, typer.Argument(help="One end of the link (default: everything); alone: its last mile.")
    ] = None,
    b: Annotated[str | None, typer.Argument(help="The other end.")] = None,
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Set one link, the last mile of one node, or everything back to the lab's own figures."""
    from commcli.lab import faults

    with _held(folder, state) as (lab, record):
        miles = faults.restore_last_miles(lab, record, a) if b is None else []
        changed = faults.restore(lab, record, a, b) if a is None or b is not None else []
    document = {
        "schema": 1, "kind": "lab.restore", "restored": sorted(sorted(pair) for pair in changed),
        "last_miles": miles,
    }  # fmt: skip
    output.emit(document, as_json=as_json, quiet=quiet)


@app.command()
def kill(
    node: NodeArg,
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Cut a node's power: every process of it is gone at once, SSH too."""
    _power(node, "kill", folder, state, as_json=as_json, quiet=quiet)


@app.command()
def start(
    node: NodeArg,
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Give a node its power back: SSH, and the relay as at boot."""
    _power(node, "start", folder, state, as_json=as_json, quiet=quiet)


@app.command()
def demo(
    network: Annotated[
        str, typer.Option("--network", help="First three numbers of a loopback /24.")
    ] = "127.77.0",
    folder: FolderOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Tell the whole story on a lab of eight: provision, measure, decide, publish, forward. Ends with nothing left."""
    from commcli.lab.demo import tell
    from commcli.lab.stage import Stage
    from commcli.lab.story import STEPS
    from commcli.lab.up import check_network

    lab = LabFolder((folder or settings_from(None, state).state / "demo").resolve())
    missing = tuple(parent for parent in lab.path.parents if not parent.exists())
    document = tell(Stage(lab, check_network(network), silent=as_json, made=missing), STEPS)
    output.emit(document, as_json=as_json)
    if not document["true"]:
        raise typer.Exit(AnswerBad.exit_code)


def _power(
    node: str, verb: str, folder: Path | None, state: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from commcli.lab import control

    with _held(folder, state) as (lab, record):
        if node not in record.addresses:
            raise Usage(f'unknown node "{node}"; the lab has {", ".join(record.addresses)}')
        answer = control.ask(lab, verb, node=node)
    document = {"schema": 1, "kind": f"lab.{verb}", "node": node, **answer}
    document.pop("ok")
    output.emit(document, as_json=as_json, quiet=quiet)


@contextmanager
def _held(folder: Path | None, state: Path | None) -> Iterator[tuple[LabFolder, Record]]:
    """The lab, held alone while the body changes it."""
    lab = _lab(folder, state)
    record = _record(lab)
    with alone(lab):
        yield lab, record


def _lab(folder: Path | None, state: Path | None) -> LabFolder:
    return locate(settings_from(None, state).state, folder)


def _record(lab: LabFolder) -> Record:
    record = lab.read()
    if record is None:
        raise OutOfReach(f"there is no lab at {lab.path}", hint="commcli lab up")
    return record


def _nodes(record: Record) -> dict[str, Any]:
    nodes = [{"node": p.node, "city": p.city, "address": p.address} for p in record.places]
    return {"network": record.network, "ssh_port": record.ssh_port, "nodes": nodes}


def _quoted(value: str) -> str:
    import shlex

    return shlex.quote(value)
