"""Which nodes: `region:sgp,!drain`, `sg-1,hk-*`, `market:br`, `tag:hub,country:us`.

Terms of one kind widen (`sg-1,hk-1` is both), kinds narrow each other (`region:sgp,tag:hub`), `!` takes away.
`drain`, `active` and `no-transit` alone mean the state. "" and `all` are every node.
A word that nothing in the fleet answers to is an error, also after `!`: at 3 a.m. a typo must not mean "nobody".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase

from commcli.errors import BadInput
from commcli.fleet.model import Fleet, Node
from commcli.fleet.nodes import STATES
from commcli.fleet.record import nearest

ALL = "all"
_ID = "node"


def select(fleet: Fleet, selector: str) -> list[Node]:
    """The nodes that `selector` names, in the inventory's order. Raises BadInput: unknown word, or no node at all."""
    wanted: dict[str, list[str]] = {}
    unwanted: list[tuple[str, str]] = []
    for term in filter(None, (part.strip() for part in selector.split(","))):
        kind, value = _term(fleet, term.removeprefix("!").strip(), selector)
        if term.startswith("!"):
            unwanted.append((kind, value))
        else:
            wanted.setdefault(kind, []).append(value)
    nodes = [node for node in fleet.nodes.values() if _matches(fleet, node, wanted, unwanted)]
    if not nodes:
        raise BadInput(f'selector "{selector}": no node matches all of it')
    return nodes


def _matches(
    fleet: Fleet, node: Node, wanted: dict[str, list[str]], unwanted: Iterable[tuple[str, str]]
) -> bool:
    answers = {kind: _ANSWERS[kind](fleet, node) for kind in _ANSWERS}
    return all(
        any(_meets(answers[kind], value) for value in values) for kind, values in wanted.items()
    ) and not any(_meets(answers[kind], value) for kind, value in unwanted)


def _meets(answers: Collection[str], pattern: str) -> bool:
    return any(fnmatchcase(answer, pattern) for answer in answers)


# What a node answers to each kind of term.
_ANSWERS: dict[str, Callable[[Fleet, Node], Collection[str]]] = {
    _ID: lambda fleet, node: (node.id, ALL),
    "region": lambda fleet, node: (node.region,),
    "market": lambda fleet, node: fleet.markets_of(node.id),
    "country": lambda fleet, node: (node.country,),
    "continent": lambda fleet, node: (fleet.regions[node.region].continent,),
    "provider": lambda fleet, node: (node.provider,) if node.provider else (),
    "tag": lambda fleet, node: node.tags,
    "state": lambda fleet, node: (node.state,),
}


def _term(fleet: Fleet, term: str, selector: str) -> tuple[str, str]:
    """One term as (kind, value), after seeing that the value exists."""
    if term in STATES:
        return "state", term
    kind, colon, value = term.partition(":")
    if not colon:
        kind, value = _ID, term
    if kind not in _ANSWERS:
        raise BadInput(f'selector "{selector}": unknown kind "{kind}"{nearest(kind, _ANSWERS)}')
    known = _known(fleet, kind)
    if not _meets(known, value):
        raise BadInput(f'selector "{selector}": unknown {kind} "{value}"{nearest(value, known)}')
    return kind, value


def _known(fleet: Fleet, kind: str) -> set[str]:
    """Every value that a term of this kind can have. A region or a market without a node is known all the same."""
    answers = {answer for node in fleet.nodes.values() for answer in _ANSWERS[kind](fleet, node)}
    extra: dict[str, Iterable[str]] = {"region": fleet.regions, "market": fleet.markets, "state": STATES}
    return answers.union(extra.get(kind, ()))
