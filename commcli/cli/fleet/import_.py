"""`commcli fleet import`: nodes.yaml out of what another tool knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from commcli.cli import output
from commcli.cli.options import InventoryOpt, JsonOpt, QuietOpt, settings_from
from commcli.errors import BadInput, Usage

if TYPE_CHECKING:
    from commcli.fleet.imported import Imported

_LISTED = "ansible-inventory -i INVENTORY --list | commcli fleet import -"


def import_(
    source: Annotated[Path, typer.Argument(help="The file of the other tool; - is stdin.")],
    form: Annotated[
        Literal["ansible", "csv"] | None,
        typer.Option(
            "--from", help="What it is: ansible (INI, YAML, or the JSON of ansible-inventory --list) or csv."
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Write nodes.yaml here, and not to stdout.")] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="The region of hosts that name none.")
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="Ask DNS for the addresses of names.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --to.")] = False,
    inventory: InventoryOpt = None,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Make nodes.yaml of an inventory of Ansible's, or of a CSV. What has no place there is told, line by line.

    Exits 1 when a host had to be left out. Regions are those of the inventory.
    """
    import getpass

    from commcli.fleet import ansible, csvlist
    from commcli.fleet.imported import nodes_of
    from commcli.fleet.loader import regions_of

    text, name = _source(source)
    is_csv = form == "csv" or (form is None and source.suffix.lower() in (".csv", ".tsv"))
    read = (csvlist if is_csv else ansible).read(text, name)
    for folder in ("group_vars", "host_vars"):
        if not is_csv and str(source) != "-" and (source.parent / folder).is_dir():
            read.told.add(name, 0, f"{folder}/ beside it is not read: {_LISTED}")
    regions = regions_of(settings_from(inventory, None).inventory)
    made = nodes_of(
        read,
        regions,
        region=region,
        user=getpass.getuser(),
        ansible=not is_csv,
        resolve=_looked_up if resolve else lambda name: None,
    )
    if to is not None:
        _write(to, made.text, force=force)
    code = 1 if made.left_out else 0
    if to is None and not as_json:
        output.emit_text(made.text)
        output.talk(made.told)
    else:
        output.emit(_imported(name, to, made, code), as_json=as_json, quiet=quiet, good=not made.told)
    raise typer.Exit(code)


def _looked_up(name: str) -> str | None:
    """The address that DNS has for the name, of IPv4 if there is one."""
    import socket

    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])


def _imported(source: str, to: Path | None, made: Imported, code: int) -> output.Document:
    return {
        "schema": 1,
        "kind": "fleet.import",
        "exit_code": code,
        "source": source,
        "to": None if to is None else str(to),
        "nodes": list(made.nodes),
        "left_out": list(made.left_out),
        "told": list(made.told),
        "text": made.text if to is None else None,
    }


def _source(path: Path) -> tuple[str, str]:
    """The text, and how to name it."""
    import sys

    from commcli.fleet.yamlfile import shown

    name = "stdin" if str(path) == "-" else shown(path)
    try:
        return (sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")), name
    except IsADirectoryError:
        raise BadInput(f"{name}: is a folder: {_LISTED}") from None
    except OSError as error:
        raise BadInput(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{name}: is not UTF-8 text") from None


def _write(path: Path, text: str, *, force: bool) -> None:
    if path.exists() and not force:
        raise Usage(f"{path} is there already", hint="--force overwrites it.")
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
