"""`group: {name, gid, system, state}`: a group of the node."""

from __future__ import annotations

import grp
from collections.abc import Mapping
from typing import Any, NamedTuple

from commcli.remote.onnode import change
from commcli.remote.onnode.change import Change, Run, Undo
from commcli.remote.onnode.step import Key, Place, Verdict

KEYS = {
    "name": Key("text", required=True),
    "gid": Key("number"),
    "system": Key("flag"),
    "state": Key("text", words=("present", "absent")),
}


class Group(NamedTuple):
    """A group that is there."""

    gid: int


def decide(args: Mapping[str, Any], have: Group | None) -> list[Change]:
    """The commands that make it so."""
    name = args["name"]
    if args.get("state") == "absent":
        return [] if have is None else [Run(("groupdel", name))]
    gid = args.get("gid")
    if have is None:
        wanted = [] if gid is None else ["--gid", str(gid)]
        system = ["--system"] if args.get("system") else []
        return [Run(("groupadd", *wanted, *system, name))]
    if gid in (None, have.gid):
        return []
    undo = Undo(("groupmod", "--gid", str(have.gid), name))
    return [Run(("groupmod", "--gid", str(gid), name), undo=undo)]


def look(name: str) -> Group | None:
    """The group that is there, None if there is none."""
    try:
        return Group(grp.getgrnam(name).gr_gid)
    except KeyError:
        return None


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the group with what is wanted."""
    return change.verdict(decide(args, look(args["name"])), place)
