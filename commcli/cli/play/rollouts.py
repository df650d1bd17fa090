"""What `play run` asks of a rollout: its options, whom it is for, its gate, its way back, and what is left of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commcli.cli.options import span_s
from commcli.errors import BadInput, Refused, Usage

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.outcome import OnEvent
    from commcli.remote.rollout import Gate, Terms
    from commcli.remote.ssh import Pool
    from commcli.remote.waves import Share
    from commcli.store.sqlite import Row, Store

CanaryOpt = Annotated[
    str | None,
    typer.Option(
        "--canary", metavar="N|NODE", help="So many nodes first, or this one; 0: none. Any failure stops it."
    ),
]
WaveOpt = Annotated[
    str | None,
    typer.Option(
        "--wave", metavar="N|P%", help="Then so many nodes at a time, never all of a market or region."
    ),
]
MaxFailOpt = Annotated[
    str | None,
    typer.Option(
        "--max-fail", metavar="N|P%", help="Stop when more nodes have failed; being out of reach is failing."
    ),
]
PauseOpt = Annotated[str | None, typer.Option("--pause", metavar="30s", help="Wait so long between waves.")]
GateOpt = Annotated[
    str | None,
    typer.Option(
        "--gate",
        metavar="status|call",
        help="After each wave: its relays must serve; call: and carry a probe call.",
    ),
]
DrainOpt = Annotated[bool, typer.Option("--drain", help="Drain each node before, undrain it after.")]
DrainTimeoutOpt = Annotated[
    str,
    typer.Option(
        "--drain-timeout", metavar="10m", help="A node that is not drained by then is left as it is."
    ),
]
RollbackOpt = Annotated[
    bool,
    typer.Option("--rollback-on-fail", help="When it is stopped, put back what it has changed (exit 6)."),
]
ResumeOpt = Annotated[
    str | None,
    typer.Option(
        "--resume", metavar="RUN|last", help="Go on with a rollout, on its nodes that are not done."
    ),
]
EvenChangedOpt = Annotated[
    bool, typer.Option("--even-changed", help="Resume although playbook or variables are not what they were.")
]
LimitOpt = Annotated[
    str | None,
    typer.Option(
        "--limit",
        metavar="@failed|@unreachable|@RUN",
        help="Only the nodes that failed, or were out of reach, in the last run of this play; or failed in that run.",
    ),
]
# What a fleet in production gets when nothing is said, and what the other options are when one is.
CANARY, WAVE, MAX_FAIL = "1", "25%", "10%"
GATES = ("status", "call")


@dataclass(frozen=True, slots=True)
class Wish:
    """The options as they were typed."""

    canary: str | None = None
    wave: str | None = None
    max_fail: str | None = None
    pause: str | None = None
    gate: str | None = None
    drain: bool = False
    drain_timeout: str = "10m"

    @property
    def is_said(self) -> bool:
        """Whether any of it was asked for."""
        return self.drain or any((self.canary, self.wave, self.max_fail, self.pause, self.gate))


def terms_of(wish: Wish, fleet: Fleet, before: Mapping[str, Any] | None = None) -> Terms:
    """The terms. Nothing said: those of the rollout `before`, canary and waves in production, else all at once.

    Raises Usage.
    """
    from commcli.remote.rollout import Terms

    if not (wish.is_said or fleet.production or before):
        return Terms()
    old = dict(before or {})
    gate = wish.gate if wish.gate is not None else old.get("gate", "")
    if gate and gate not in GATES:
        raise Usage(f"--gate {gate}: none of {', '.join(GATES)}")
    pause_s = float(old.get("pause_s", 0.0)) if wish.pause is None else span_s("--pause", wish.pause)
    drain_s = span_s("--drain-timeout", wish.drain_timeout) if wish.drain else old.get("drain_s")
    return Terms(
        _canary(fleet, str(wish.canary or old.get("canary", CANARY))),
        _share("--wave", str(wish.wave or old.get("wave", WAVE))),
        _share("--max-fail", str(wish.max_fail or old.get("max_fail", MAX_FAIL))),
        pause_s, gate, drain_s,
    )  # fmt: skip


def _canary(fleet: Fleet, text: str) -> int | str:
    if text.isascii() and text.isdigit():
        return int(text[:6])
    if text not in fleet.nodes:
        raise Usage(f"--canary {text}: neither a number nor a node")
    return text


def _share(option: str, text: str) -> Share:
    from commcli.remote.waves import share

    found = share(text)
    if found is None or (option == "--wave" and not found.number):
        raise Usage(f"{option} {text}: must be a number of nodes, such as 5, or a share of them, such as 20%")
    return found


def with_canary(terms: Terms, nodes: Sequence[Node]) -> Terms:
    """What is left of a rollout goes on with one node as well, where its canary is done."""
    from dataclasses import replace

    names = {node.id for node in nodes}
    is_done = isinstance(terms.canary, str) and terms.canary not in names
    return replace(terms, canary=1) if is_done else terms


def waves_of(terms: Terms, fleet: Fleet, nodes: Sequence[Node]) -> list[list[Node]]:
    """Who comes when. Raises Usage for a canary that is not among the nodes."""
    from commcli.remote import waves

    if isinstance(terms.canary, str) and terms.canary not in {node.id for node in nodes}:
        raise Usage(f"--canary {terms.canary}: is none of the nodes that this is for")
    return waves.plan(fleet, nodes, canary=terms.canary, wave=max(1, terms.wave.of(len(nodes))))


def told_of(terms: Terms, waves: Sequence[Sequence[Node]]) -> str:
    """The rollout in a question: "canary de-1, then 3 waves of up to 5"; "" if it is none."""
    if len(waves) < 2:
        return ""
    canary = f"canary {', '.join(node.id for node in waves[0])}, then " if terms.canary else ""
    rest = waves[1:] if terms.canary else waves
    many = f"{len(rest)} waves of up to {max(map(len, rest))}" if len(rest) > 1 else f"{len(rest[0])} more"
    careful = [
        *(["drained"] if terms.drain_s is not None else []),
        *([f"gate {terms.gate}"] if terms.gate else []),
    ]
    return ", ".join([canary + many, *careful])


def limited(store: Store, command: str, limit: str, nodes: Sequence[Node]) -> list[Node]:
    """Those of `nodes` that --limit leaves. Raises Usage, BadInput: no such run, or nobody is left."""
    if not limit.startswith("@"):
        raise Usage(
            f"--limit {limit}: must be @failed, @unreachable or @RUN; nodes are named by the selector"
        )
    word = limit[1:]
    row = _run_of(store, command, "last" if word in ("failed", "unreachable") else word)
    states = ("unreachable",) if word == "unreachable" else ()
    ids = troubled(row["document"], states)
    left = [node for node in nodes if node.id in ids]
    if not left:
        raise BadInput(f"--limit {limit}: of run {row['run']} no such node is left among those selected")
    return left


def troubled(document: Mapping[str, Any], states: Sequence[str] = ()) -> set[str]:
    """The nodes of a run that were not done, or that ended in one of `states`. Of one that was killed: all that are
    not known to be done.
    """
    done = set(document.get("rollout", {}).get("done", ()))
    found = set()
    for row in document.get("nodes", ()):
        if isinstance(row, str):
            found |= {row} - done if not states else set()
        elif row["state"] in states or (not states and row["state"] != "done"):
            found.add(row["node"])
    return found


def _run_of(store: Store, command: str, name: str) -> Row:
    from commcli.store.runs import only

    if name != "last":
        row = only(store.runs_named(name), name)
        if row["command"] != command:
            raise Usage(f"run {row['run']} was `{row['command']}`, not `{command}`")
        return row
    last = store.last_run(command)
    if last is None:
        raise BadInput(f"no run of `{command}` is kept here", hint="See `commcli runs list`.")
    return last


def resumed(store: Store, command: str, name: str) -> Row:
    """The rollout to go on with. Raises BadInput, Usage: no such run, or one without waves, or one that is done."""
    row = _run_of(store, command, name)
    rollout = row["document"].get("rollout")
    if rollout is None:
        raise BadInput(
            f"run {row['run']} was no rollout; `--limit @failed` runs the play again where it failed"
        )
    return row


def left_of(rollout: Mapping[str, Any], fleet: Fleet) -> list[Node]:
    """The nodes of a rollout that are not done, in the order of its waves, as far as the inventory has them still.

    Raises BadInput when all are done.
    """
    done = {*rollout["done"], *rollout.get("done_before", [])}
    # Also whom a resumed one was not for: they are waited for all the same.
    every = dict.fromkeys([*(name for wave in rollout["waves"] for name in wave), *rollout["of"]])
    names = [name for name in every if name not in done]
    if not names:
        raise BadInput("that rollout is done on all of its nodes: there is nothing to resume")
    return [fleet.nodes[name] for name in names if name in fleet.nodes]


def check_same(rollout: Mapping[str, Any], run: str, digest: str, *, even_changed: bool) -> None:
    """Refused where the playbook or a variable is not what it was when the rollout began."""
    if rollout["digest"] != digest and not even_changed:
        raise Refused(
            f"playbook or variables have changed since run {run} began",
            hint="A fleet of two halves? Run it anew on all, or resume with --even-changed.",
        )


def gate_of(terms: Terms, fleet: Fleet, pool: Pool, waves: Sequence[Sequence[Node]]) -> Gate | None:
    """What forbids to go on after a wave. Raises Refused, before anything is done, where no call can be made."""
    if not terms.gate:
        return None
    from commcli.remote.rollout import serving

    if terms.gate == "call":
        from commcli.probe import gate as gates

        for wave in waves:
            gates.ask_for(fleet, wave)

    async def gate(wave: Sequence[Node]) -> str:
        why = await serving(fleet, wave, pool)
        return why or (await _called(fleet, pool, wave) if terms.gate == "call" else "")

    return gate


async def _called(fleet: Fleet, pool: Pool, wave: Sequence[Node]) -> str:
    from commcli.errors import CommcliError
    from commcli.probe import call
    from commcli.probe.gate import ask_for

    title = "call"
    try:
        ask = ask_for(fleet, wave)
        title = f"call {ask.a} to {ask.b}" + (f" via {ask.via}" if ask.via else "")
        doc = await call.call(fleet, pool, ask)
    except CommcliError as error:
        return f"{title}: {error}"
    if doc["verdict"] in ("good", "warn"):
        return ""
    return f"{title}: {doc['verdict']}: {'; '.join(doc['reasons']) or 'no reason was told'}"


def touched_by(document: Mapping[str, Any]) -> list[str]:
    """The nodes that a run may have changed, and that it has not put back itself. Of one that was killed: all."""
    back = (document.get("rollout") or {}).get("rolled_back") or {}
    clean = {row["node"] for row in back.get("nodes", ()) if row["state"] == "done"}
    rows = document["nodes"]
    touched = [row for row in rows if isinstance(row, str)]
    touched += [
        row["node"]
        for row in rows
        if not isinstance(row, str) and (row["steps"] or row["state"] in ("lost", "timeout"))
    ]
    return [name for name in touched if name not in clean]


async def put_back(
    fleet: Fleet,
    pool: Pool,
    runs: Sequence[tuple[str, Sequence[str]]],
    on_event: OnEvent,
    secrets: Sequence[str],
    also: Callable[[str, str, dict[str, Any]], None],
) -> dict[str, Any]:
    """Roll these runs back, one after the other, each on the nodes where it may have changed something. `also` is told
    of each rollback, a run of its own; the document of them all.
    """
    from commcli.remote import answer, rollback, runid

    outcomes, last = [], runid.new()
    for undoes, touched in runs:
        nodes = [fleet.nodes[name] for name in touched if name in fleet.nodes]
        gone = [rollback.missing(name) for name in touched if name not in fleet.nodes]
        last = runid.new()
        ended = await rollback.run_rollback(
            undoes, nodes, pool, run=last, secrets=secrets, on_event=on_event
        ) if nodes else []  # fmt: skip
        also(last, f"rollback {undoes}", answer.rolled_back(undoes, fleet.name, ended, check=False, run=last))
        outcomes += [*ended, *gone]
    return answer.rolled_back(runs[0][0], fleet.name, outcomes, check=False, run=last)
