"""`commcli runs`: what was run on the fleet, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli import output
from commcli.cli.options import JsonOpt, StateOpt, settings_from
from commcli.errors import BadInput

if TYPE_CHECKING:
    from commcli.store.sqlite import Row

app = typer.Typer(help="What was run on the fleet, and what came of it.", no_args_is_help=True)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows, the newest first.")] = 20,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """List the last runs, the newest first."""
    from commcli.store.sqlite import Store

    with Store(settings_from(None, state).database) as store:
        rows = [_summary(row) for row in store.runs(limit)]
    output.emit({"schema": 1, "kind": "runs.list", "rows": rows}, as_json=as_json)


@app.command()
def show(
    run: Annotated[
        str, typer.Argument(help="Its name, or how that begins; `last` is the last one.")
    ] = "last",
    node: Annotated[str | None, typer.Option("--node", help="Only what it did on this node.")] = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
) -> None:
    """Show what a run did, as it was shown when it ended."""
    from commcli.store import runlog
    from commcli.store.runs import only
    from commcli.store.sqlite import Store

    settings = settings_from(None, state)
    with Store(settings.database) as store:
        row = only(store.runs_named(run), run)
    nodes = row["document"].get("nodes") or []
    if node is not None and node not in [_id(each) for each in nodes]:
        raise BadInput(f"run {row['run']} was not on node {node}")
    chosen = [each for each in nodes if node in (None, _id(each))]
    log = settings.runs / f"{row['run']}.jsonl"
    heard = runlog.last_words(runlog.read(log))
    has_document = "kind" in row["document"]
    doc = {
        "schema": 1,
        "kind": "runs.show",
        **{word: row[word] for word in ("run", "started", "ended", "who", "command", "result")},
        "log": str(log) if log.exists() else None,
        "drained": row["document"].get("rollout", {}).get("drained", []),
        "nodes": [_id(each) for each in chosen],
        "document": {**row["document"], "nodes": chosen} if has_document else None,
        # Of a run that was killed no more is known than what it said before.
        "heard": [] if has_document else [line for line in heard if node in (None, line["node"])],
    }
    output.emit(doc, as_json=as_json)


def _id(node: Any) -> str:
    return str(node["node"] if isinstance(node, Mapping) else node)


def _summary(row: Row) -> dict[str, Any]:
    document = row.pop("document")
    nodes = document.get("nodes")
    return {**row, "nodes": None if nodes is None else len(nodes), "changed": document.get("changed")}
