"""What many rows have in common: the node that most of them name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

Row = TypeVar("Row")

LEAST, LEAST_SHARE = 2, 0.1
NAMED = 3


def by_culprit(suspects: Mapping[Row, Collection[str]], least: int = 0) -> list[tuple[str | None, list[Row]]]:
    """Rows by the node that most of those that are left name, again and again; last, under None, the others.

    suspects: the nodes that a row names. least: a node that fewer rows name is no culprit; 0: 2, or a tenth of all.
    """
    least = least or max(LEAST, round(LEAST_SHARE * len(suspects)))
    left, found = dict(suspects), list[tuple[str | None, list[Row]]]()
    while left:
        node, count = _commonest(left.values())
        if count < least:
            found.append((None, list(left)))
            break
        rows = [row for row, nodes in left.items() if node in nodes]
        found.append((node, rows))
        for row in rows:
            del left[row]
    return found


def _commonest(named: Iterable[Collection[str]]) -> tuple[str, int]:
    counts = Counter(node for nodes in named for node in dict.fromkeys(nodes))
    return counts.most_common(1)[0] if counts else ("", 0)


def named(names: Collection[str]) -> str:
    """A few names in brackets, of many none."""
    return f" ({', '.join(names)})" if len(names) <= NAMED else ""
