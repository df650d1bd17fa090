"""What every verb of `commcli play` begins with: the playbook, the nodes, the variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from commcli.cli.options import settings_from
from commcli.errors import BadInput

if TYPE_CHECKING:
    from commcli.fleet.model import Fleet, Node
    from commcli.remote.playbook import Play
    from commcli.remote.run import Variables

T = TypeVar("T")

FileArg = Annotated[Path, typer.Argument(help="The playbook, for example playbooks/relay.yml.")]
TagsOpt = Annotated[
    str | None,
    typer.Option("--tags", help="Only steps with one of these tags (a,b), and those tagged always."),
]
SkipTagsOpt = Annotated[str | None, typer.Option("--skip-tags", help="No step with one of these tags (a,b).")]


def chosen(play: Play, tags: str | None, skip_tags: str | None) -> Play:
    """The play with the steps that these options leave in it."""
    from commcli.remote.tags import select

    only, skipped = (
        [tag.strip() for tag in (text or "").split(",") if tag.strip()] for text in (tags, skip_tags)
    )
    return select(play, only, skipped)


def left_out(whole: Play, play: Play) -> list[str]:
    """The steps of the `whole` play that are not in this one, by name."""
    left = {(step.section, step.name) for step in play.flat()}
    return [step.name for step in whole.flat() if (step.section, step.name) not in left]


def load(
    file: Path, selector: str, inventory: Path | None, state: Path | None
) -> tuple[Fleet, Play, list[Node]]:
    """Fleet, playbook and nodes; whatever is wrong in fleet and playbook is told together."""
    from commcli import fleet as fleets
    from commcli.fleet.selector import select
    from commcli.remote import playbook

    problems: list[str] = []
    fleet = _tried(lambda: fleets.load(settings_from(inventory, state).inventory), problems)
    play = _tried(lambda: playbook.load(file), problems)
    if fleet is None or play is None:
        raise BadInput(problems)
    return fleet, play, list(select(fleet, selector))


def _tried(act: Callable[[], T], problems: list[str]) -> T | None:
    try:
        return act()
    except BadInput as error:
        problems += error.errors
        return None


def variables_of(fleet: Fleet, play: Play, *, real: bool = True) -> Variables:
    """The variables that the play `uses`, for each node. Not `real`: made-up secrets, for a look at the playbook."""
    from commcli.fleet.secrets import Secret

    if "relay" not in play.uses:
        return lambda node: {}
    from commcli.remote import relayfiles, zipapp

    names = [name for name in relayfiles.SECRETS if name in fleet.secrets]
    secrets = {
        name: fleet.secrets[name].read() if real else Secret(f"made-up {name} secret") for name in names
    }
    pyz, signers = zipapp.build(), _text(fleet.signing.signers) if real else "made-up signers"
    made: dict[str, Mapping[str, object]] = {}

    def variables(node: Node) -> Mapping[str, object]:
        # A run asks for them several times, and a node's have a key for every other node.
        if node.id not in made:
            made[node.id] = relayfiles.variables(fleet, node, secrets, pyz, signers)
        return made[node.id]

    return variables


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"allowed signers {path}: {error.strerror}") from None
