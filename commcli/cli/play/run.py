"""`commcli play run`: a playbook on nodes, all at once or in waves."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from commcli.cli import output
from commcli.cli.consent import agree, named
from commcli.cli.gauges import Gauges, TextfileOpt
from commcli.cli.options import (
    DeadlineOpt,
    InventoryOpt,
    JsonOpt,
    NodeTimeoutOpt,
    QuietOpt,
    ReasonOpt,
    SelectorArg,
    StateOpt,
    YesOpt,
    settings_from,
    span_s,
)
from commcli.cli.play import rollouts
from commcli.cli.play.loading import FileArg, SkipTagsOpt, TagsOpt, chosen, load, variables_of
from commcli.cli.watched import tell, watched
from commcli.errors import BadInput, Usage, gravest

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.answer import Document
    from commcli.remote.outcome import OnEvent, Outcome
    from commcli.remote.playbook import Play
    from commcli.remote.rollout import Act, Terms
    from commcli.remote.run import PlayResult, Variables
    from commcli.remote.ssh import Pool
    from commcli.settings import Settings
    from commcli.store.recorded import Recording


def run(
    file: FileArg,
    selector: SelectorArg = "all",
    check: Annotated[bool, typer.Option("--check", help="Change nothing; say what would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Show the changes of files, secrets masked.")] = False,
    tags: TagsOpt = None,
    skip_tags: SkipTagsOpt = None,
    limit: rollouts.LimitOpt = None,
    canary: rollouts.CanaryOpt = None,
    wave: rollouts.WaveOpt = None,
    max_fail: rollouts.MaxFailOpt = None,
    pause: rollouts.PauseOpt = None,
    gate: rollouts.GateOpt = None,
    drain: rollouts.DrainOpt = False,
    drain_timeout: rollouts.DrainTimeoutOpt = "10m",
    rollback_on_fail: rollouts.RollbackOpt = False,
    resume: rollouts.ResumeOpt = None,
    even_changed: rollouts.EvenChangedOpt = False,
    deadline: DeadlineOpt = None,
    node_timeout: NodeTimeoutOpt = None,
    splay: Annotated[
        str | None,
        typer.Option(
            "--splay", metavar="30s", help="Begin at a random moment within it, not all crons at once."
        ),
    ] = None,
    plugin: Annotated[
        bool,
        typer.Option(
            "--plugin", help="With --check: one line for monitoring systems; exits 0, 1, 2 or 3 only."
        ),
    ] = False,
    textfile: TextfileOpt = None,
    yes: YesOpt = False,
    reason: ReasonOpt = None,
    inventory: InventoryOpt = None,
    state: StateOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Run a playbook over SSH on the selected nodes, in one exchange each. Safe to run again.

    On a fleet in production one node first, then waves of a quarter, stopped when more than a tenth has failed.
    Elsewhere all at once, unless one of --canary, --wave, --max-fail, --pause, --gate, --drain is given. All at once
    in production: --canary 0 --wave 100%.
    """
    if plugin and not check:
        raise Usage("--plugin says whether nodes are as the play says: add --check")
    wish = rollouts.Wish(canary, wave, max_fail, pause, gate, drain, drain_timeout)
    gauges = Gauges(textfile, _gauges)
    with gauges.written():
        _wait_a_while(splay)
        fleet, play, nodes = load(file, selector, inventory, state)
        play = chosen(play, tags, skip_tags)
        told = {"file": play.file, "selector": selector}
        told |= {key: value for key, value in (("tags", tags), ("skip_tags", skip_tags)) if value}
        job = _Job(
            fleet, play, nodes, settings_from(inventory, state), told, wish, rollback_on_fail, diff,
            deadline, node_timeout, yes, reason, quiet or plugin,
        )  # fmt: skip
        job.narrow(limit, resume, even_changed=even_changed)
        gauges.doc = doc = job.looked() if check else job.done()
        gauges.code = doc["exit_code"]
    if plugin:
        from commcli.health.plugin import drift
        from commcli.report.printable import printable

        status, words = drift(doc)
        print(printable(words))
        raise typer.Exit(status)
    if quiet and doc["exit_code"] and not as_json and not sys.stdout.isatty():
        from commcli.report.playgauges import line
        from commcli.report.printable import printable

        output.emit_text(f"{printable(line(doc))}\n")
    else:
        output.emit(doc, as_json=as_json, quiet=quiet, good=doc["exit_code"] == 0)
    raise typer.Exit(gravest((doc["exit_code"], gauges.problem_code)))


def _gauges(doc: dict[str, Any] | None, code: int, unix: float, seconds: float, before: str) -> str:
    from commcli.report.playgauges import text

    return text(doc, code, unix, seconds, before)


def _wait_a_while(splay: str | None) -> None:
    if splay is not None:
        import random
        import time

        time.sleep(random.uniform(0, span_s("--splay", splay)))


@dataclass(slots=True)
class _Job:
    """A `play run`: what is to be done, where, and how carefully."""

    fleet: Fleet
    play: Play
    nodes: list[Node]
    settings: Settings
    told: dict[str, Any]
    wish: rollouts.Wish
    rollback_on_fail: bool
    diff: bool
    deadline_s: float | None
    node_timeout_s: float | None
    yes: bool
    reason: str | None
    quiet: bool
    before: dict[str, Any] | None = None
    earlier: list[tuple[str, list[str]]] = field(default_factory=list)
    variables: Variables = lambda node: {}

    @property
    def command(self) -> str:
        return f"play run {self.play.name}"

    def narrow(self, limit: str | None, resume: str | None, *, even_changed: bool) -> None:
        """Fewer nodes, by what became of the others in earlier runs."""
        from commcli.store.sqlite import Store

        self.variables = variables_of(self.fleet, self.play)
        if limit is None and resume is None:
            return
        with Store(self.settings.database) as store:
            if limit is not None:
                self.nodes = rollouts.limited(store, self.command, limit, self.nodes)
            if resume is None:
                return
            row = rollouts.resumed(store, self.command, resume)
        rollout = self.before = row["document"]["rollout"]
        rollouts.check_same(rollout, row["run"], self._digest(rollout["of"]), even_changed=even_changed)
        selected = {node.id for node in self.nodes}
        self.nodes = [node for node in rollouts.left_of(rollout, self.fleet) if node.id in selected]
        if not self.nodes:
            raise BadInput(f"of run {row['run']} no node is left among those selected")
        self.told["resumes"] = row["run"]
        self.earlier = [*rollout.get("earlier", []), (row["run"], rollouts.touched_by(row["document"]))]

    def _digest(self, of: Sequence[str]) -> str:
        """What is done on these nodes, as far as the inventory has them still."""
        from commcli.remote.rollout import digest

        nodes = [self.fleet.nodes[name] for name in of if name in self.fleet.nodes]
        return digest(self.play, nodes, self.variables)

    def looked(self) -> Document:
        """The document of a check of all nodes at once: nothing is changed."""
        from commcli.remote import answer

        async def work(pool: Pool, on_event: OnEvent) -> list[Outcome[PlayResult]]:
            return await self._play(self.nodes, pool, on_event, check=True)

        outcomes = watched(self.fleet, f"check {self.play.name}", work, quiet=self.quiet)
        return answer.ran(self.play, self.fleet.name, outcomes, check=True)

    def done(self) -> Document:
        """The document of the run, after it was agreed to."""
        from commcli.remote import runid
        from commcli.store.recorded import recorded

        before = None if self.before is None else self.before["terms"]
        terms = rollouts.terms_of(self.wish, self.fleet, before)
        if before is not None and self.wish.canary is None:
            terms = rollouts.with_canary(terms, self.nodes)
        waves = rollouts.waves_of(terms, self.fleet, self.nodes)
        how = rollouts.told_of(terms, waves)
        what = f"{self.command.replace(' run', '')} on {len(self.nodes)} nodes ({named(self.nodes)})"
        agree(
            self.fleet, f"{what}; {how}" if how else what, len(self.nodes), yes=self.yes,
            first=self._show_what_would_change, without_asking="add --yes (or --check)",
        )  # fmt: skip
        told = {**self.told, "nodes": [node.id for node in self.nodes]}
        with recorded(self.settings, runid.new(), self.command, self.reason, told) as recording:
            return cast(
                "Document", tell(recording, lambda: self._go(recording, terms, waves), quiet=self.quiet)
            )

    def _show_what_would_change(self) -> None:
        from commcli.report import play as drawn
        from commcli.report import terminal
        from commcli.report.printable import printable_document

        terminal.stderr().print(drawn.DRAW["run"](printable_document(self.looked())))

    async def _play(
        self, nodes: Sequence[Node], pool: Pool, on_event: OnEvent, *, check: bool = False, **more: Any
    ) -> list[Outcome[PlayResult]]:
        from commcli.remote.run import run_play

        how: Any = {
            "diff": self.diff,
            "deadline_s": self.deadline_s,
            "node_timeout_s": self.node_timeout_s,
            **more,
        }
        return await run_play(
            self.play, nodes, pool, check=check, variables=self.variables, on_event=on_event, **how
        )

    def _go(self, recording: Recording, terms: Terms, waves: Sequence[Sequence[Node]]) -> Document:
        """Wave by wave; whatever ends it, nobody stays drained unsaid."""
        from commcli.remote import answer
        from commcli.remote.rollout import Rollout, State

        given = self.before["of"] if self.before is not None else [node.id for node in self.nodes]
        about = {
            "terms": terms.row(), "digest": self._digest(given), "of": given, "earlier": self.earlier,
            "done_before": self._done_before(),
        }  # fmt: skip
        drained = [] if self.before is None else self.before["drained"]
        # From now on it can be resumed, whatever keeps it from its first node.
        begun = State([[node.id for node in wave] for wave in waves], drained=list(drained))
        recording.keep({"rollout": {**about, **begun.row()}})
        rollout: list[Rollout] = []

        async def work(pool: Pool, on_event: OnEvent) -> Document:
            act = self._act(pool, recording.run)
            rollout.append(
                Rollout(
                    self.fleet,
                    pool,
                    waves,
                    terms,
                    act,
                    gate=rollouts.gate_of(terms, self.fleet, pool, waves),
                    drained=drained,
                    keep=lambda state: recording.keep({"rollout": {**about, **state}}),
                    on_event=on_event,
                    deadline_s=self.deadline_s,
                )
            )
            course = await rollout[0].go()
            outcomes = sorted(course.outcomes, key=lambda outcome: order[outcome.node])
            doc = answer.ran(
                self.play, self.fleet.name, outcomes, check=False, run=recording.run, log=str(recording.log)
            )
            back = await self._back(doc, pool, on_event, recording) if course.stopped else None
            state = rollout[0].state
            if back is not None:
                state.done.clear()
                about["done_before"] = []
            return answer.rolled_out(doc, {**about, **state.row()}, course.stopped, course.not_tried, back)

        order = {node.id: at for at, node in enumerate(self.nodes)}
        try:
            return watched(self.fleet, f"play {self.play.name}", work, quiet=self.quiet, recording=recording)
        except BaseException:
            if rollout and (drained := rollout[0].state.drained):
                output.talk([f"still drained by this run: {', '.join(drained)}",
                             f"  next: commcli relay undrain {','.join(drained)}"])  # fmt: skip
            raise

    def _done_before(self) -> list[str]:
        """Who was done in the runs that this one goes on with."""
        before = self.before or {}
        return list(dict.fromkeys([*before.get("done_before", []), *before.get("done", [])]))

    def _act(self, pool: Pool, run: str) -> Act:
        """The play on one wave, in what is left of the deadline."""
        import time

        began = time.monotonic()

        async def act(nodes: Sequence[Node], on_event: OnEvent) -> list[Outcome[PlayResult]]:
            left_s = None if self.deadline_s is None else self.deadline_s - (time.monotonic() - began)
            return await self._play(nodes, pool, on_event, run=run, deadline_s=left_s)

        return act

    async def _back(
        self, doc: Document, pool: Pool, on_event: OnEvent, recording: Recording
    ) -> Document | None:
        if not self.rollback_on_fail:
            return None
        from commcli.errors import CommcliError
        from commcli.remote.rollback import readable

        secrets = readable(self.fleet.secrets, CommcliError)
        # Of a rollout that was resumed also what the runs before it had done, the newest first.
        runs = [(recording.run, rollouts.touched_by(doc)), *reversed(self.earlier)]
        return await rollouts.put_back(self.fleet, pool, runs, on_event, secrets, recording.also)
