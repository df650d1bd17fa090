"""A CSV file with a header -> hosts. Each column is a variable; `id` (or `name`) names the host."""

from __future__ import annotations

import csv
import io

from commcli.fleet.foreign import VAULT, Host, Source, is_vault

_NAMES = ("id", "node", "name", "hostname", "host")


def read(text: str, file: str) -> Source:
    """The hosts, in the file's order; `file` names it."""
    source = Source()
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=delimiter, strict=True)
    try:
        header = [column.strip().lower().replace(" ", "_") for column in next(rows, [])]
        named = next((column for column in _NAMES if column in header), None)
        if named is None:
            source.wrong.add(file, 1, f"needs a header with one of the columns {', '.join(_NAMES)}")
            return source
        for column in {column for column in header if header.count(column) > 1}:
            source.wrong.add(file, 1, f'column "{column}" is there twice')
        for row in rows:
            _host(row, header, named, rows.line_num, file, source)
    except csv.Error as error:
        source.wrong.add(file, rows.line_num, f"broken CSV: {error}")
    if not source.hosts and not source.wrong:
        source.wrong.add(file, 0, "has no host")
    return source


def _host(row: list[str], header: list[str], named: str, line: int, file: str, source: Source) -> None:
    if not any(cell.strip() for cell in row):
        return
    if len(row) != len(header):
        source.wrong.add(file, line, f"has {len(row)} columns, the header {len(header)}")
        return
    cells = {key: cell.strip() for key, cell in zip(header, row, strict=True) if key and cell.strip()}
    if named not in cells:
        source.wrong.add(file, line, f"has no {named}")
        return
    for key, cell in cells.items():
        if is_vault(cell):
            source.wrong.add(file, line, f"{key} {VAULT}")
    source.hosts.append(
        Host(cells.pop(named) if named != "host" else cells[named], file, line, (), dict(cells))
    )
