"""prefixes.yaml: client networks, and the edges nearest to them. Optional.

What a network is, and how many a table may hold, is the relay's word (`relay/table/prefixes.py`).
"""

from __future__ import annotations

from collections.abc import Collection

from commcli.fleet.record import Record
from commcli.relay.table.prefixes import MAX_EDGES, MAX_PREFIXES, network


def read_prefixes(table: Record, node_ids: Collection[str] | None) -> dict[str, tuple[str, ...]]:
    """The edges of each network, in the file's order."""
    prefixes: dict[str, tuple[str, ...]] = {}
    for text, value, line in table.items():
        row = table.row(text, f"prefix {text[:60]}")
        edges = () if value is None else row.names("the list", value, node_ids, "node", line)
        if value in ([], None):
            row.problem("names no edge")
        if len(edges) > MAX_EDGES:
            row.problem(f"names more than {MAX_EDGES} edges")
        try:
            network(text)
        except ValueError as error:
            row.problem(str(error))
        prefixes[text] = edges
    if len(prefixes) > MAX_PREFIXES:
        table.problem(f"prefixes: more than {MAX_PREFIXES}")
    return prefixes
