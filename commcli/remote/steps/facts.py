"""`facts: {paths, units}`: look at the node again, after what the play has changed; later conditions ask the new facts.

`paths`: what is there, in `facts.paths["/etc/x"]`: `kind` (file, directory, link, other; null: nothing), `mode`,
`owner`, `group`, `size` and `target`, of a file of at most 1 MiB its `sha256`. `units`: what systemd calls them, in
`facts.units["ssh.service"]` (active, inactive, failed, ...).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from commcli.remote.onnode import command, facts, files, owners
from commcli.remote.onnode.step import Key, Place, Verdict, later

KEYS = {"paths": Key("paths"), "units": Key("texts")}
VERIFY = False
# Its result are the facts from now on.
IS_FACTS = True
LARGEST_READ = 1 << 20


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Look; nothing is changed. In check mode not at what an earlier step would have changed first."""
    if args and place.checking and place.changed_before:
        return Verdict(skipped=later())
    found = facts.gather(str(place.facts.get("base")), place.facts.get("clock_ahead_s"))
    if "paths" in args:
        found["paths"] = {**place.facts.get("paths", {}), **{path: _path(path) for path in args["paths"]}}
    if "units" in args:
        units = {unit: _unit(unit, place) for unit in args["units"]}
        found["units"] = {**place.facts.get("units", {}), **units}
    return Verdict(result=found)


def _path(path: str) -> dict[str, Any]:
    have = files.look(path, content=False)
    if have is None:
        return {"kind": None}
    size = os.lstat(path).st_size
    found = {"kind": have.kind, "mode": f"{have.mode:04o}", "size": size, "target": have.target or None}
    found["owner"], found["group"] = owners.user_name(have.uid), owners.group_name(have.gid)
    if have.kind == "file" and size <= LARGEST_READ:
        found["sha256"] = files.digest((files.look(path) or have).data or b"")
    return found


def _unit(name: str, place: Place) -> str:
    if not place.facts.get("systemd"):
        return "unknown"
    return command.run(["systemctl", "is-active", name], place).last_words() or "unknown"
