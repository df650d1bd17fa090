"""Runs on the node (python 3.9, standard library): which table the relay has in force, and the files of it.

The relay says its serial; the files are looked for where it keeps what it accepted, then where pushes put theirs:
`table/current` may be one that it refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from commcli.relay.process import control

ANSWER_S = 10.0
SHARED = "shared.json"  # a table of schema 1 has none
NAMES = ("manifest.json", SHARED, "shard.json")

Ask = Callable[[str], Mapping[str, Any]]


def main(argument: Mapping[str, Any], channel: Any) -> None:
    """The program's entry: {"base", "known": digests of files that need not come back} in, an answer of `held` out."""
    base = Path(argument["base"])
    socket_path = base / "run" / "control.sock"
    channel.send(
        held(base, argument["known"], ask=lambda word: control.ask(socket_path, {"cmd": word}, ANSWER_S))
    )


def held(base: Path, known: Collection[str], *, ask: Ask) -> dict[str, Any]:
    """{"state": "held" or "down" (no relay answers), "serial", "refused", "files", "reason"}.

    "files": {name: {"sha256", "text" (None where `known` has the digest)}}; None with a "reason" where there is no
    table, or its files are gone.
    """
    try:
        answer = ask("status")
        if not answer.get("ok"):
            raise ValueError(f"its answer to status: {answer.get('error')}")
        table = answer["table"]
    except (OSError, ValueError, KeyError) as error:
        return {"state": "down", "reason": f"no relay answers: {error}"}
    answer = {"state": "held", "serial": table["serial"], "refused": table["refused"]}
    if table["serial"] is None:
        return {**answer, "files": None, "reason": "no table"}
    for folder in (
        base / "state" / "good",
        base / "table" / str(table["serial"]),
        base / "table" / "current",
    ):
        found = _read(folder, table["serial"])
        if found is not None:
            return {**answer, "files": {n: _file(data, known) for n, data in found.items()}, "reason": ""}
    return {**answer, "files": None, "reason": f"the files of table {table['serial']} are nowhere here"}


def _read(folder: Path, serial: int) -> dict[str, bytes] | None:
    """Manifest, shared part (of schema 2) and shard of a folder, if it is that of this serial."""
    try:
        where = folder.resolve(
            strict=True
        )  # one folder for both reads, also when a push moves the link meanwhile
        found = {
            name: (where / name).read_bytes() for name in NAMES if name != SHARED or (where / name).exists()
        }
        manifest = json.loads(found["manifest.json"])
    except (OSError, ValueError, RecursionError, RuntimeError):
        return None
    return found if isinstance(manifest, dict) and manifest.get("serial") == serial else None


def _file(data: bytes, known: Collection[str]) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {"sha256": digest, "text": None if digest in known else data.decode("utf-8", "replace")}
