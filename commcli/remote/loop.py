"""`loop:` of a step: one step for every item of a list, or of a mapping ({key, value}), made before anything runs.

So an item can be anywhere in the step, and the plan that a node gets has no loops in it. What only the node knows
(facts, registered results) can not be looped over; it can be asked about by the `when` of each item.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from commcli.fleet.secrets import MASK, Secret
from commcli.remote import template
from commcli.remote.template import TemplateError

MOST_ITEMS = 1000
LONGEST_LABEL = 60
# What a mapping is called by, where it has one of these.
_NAMES = ("name", "key", "id", "path")


def items(loop: object, variables: Mapping[str, object]) -> list[object]:
    """The items, rendered. Raises TemplateError: unknown name, no list, too many."""
    written = isinstance(loop, str)
    found = template.value(_expression(str(loop)), variables) if written else _rendered(loop, variables)
    if isinstance(found, Mapping):
        found = [{"key": key, "value": value} for key, value in found.items()]
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise TemplateError("is neither a list nor a mapping")
    listed = list(islice(found, MOST_ITEMS + 1))  # a filter of Jinja gives a generator
    if len(listed) > MOST_ITEMS:
        raise TemplateError(f"has more than {MOST_ITEMS} items")
    return listed


def _rendered(value: object, variables: Mapping[str, object]) -> object:
    if isinstance(value, Mapping):
        return {key: _rendered(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    if (whole := template.expression(value)) is not None:
        return template.value(whole, variables)
    made = template.render(value, variables)
    return Secret(made.text) if made.secret else made.text


def names(loop: object) -> set[str]:
    """The variables that it asks for. Raises TemplateError."""
    if isinstance(loop, str):
        return template.names("{{" + _expression(loop) + "}}")
    return set().union(*map(template.names, texts(loop)))


def _expression(text: str) -> str:
    found = template.expression(text) or text
    if "{{" in found or "{%" in found:
        raise TemplateError("must be a list or one expression")
    return found


def texts(value: object) -> list[str]:
    """Every text in a value."""
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for item in inside for text in texts(item)]


def label(item: object) -> str:
    """What an item is called in reports: short, and without a secret in it."""
    if isinstance(item, Mapping):
        named = [item[key] for key in _NAMES if isinstance(item.get(key), str | int)]
        if named:
            return label(named[0])
    text = item if isinstance(item, str) else json.dumps(item, default=_shown, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _shown(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else MASK


def plain(item: object) -> Any:
    """The item as the node's conditions see it, JSON-able. Raises TemplateError for one with a secret in it."""
    try:
        return json.loads(json.dumps(item))
    except TypeError:
        raise TemplateError("a condition can not ask about a secret or a binary value") from None
