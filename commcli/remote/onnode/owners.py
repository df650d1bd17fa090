"""Users and groups of the node, by name or number."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from typing import Any, NamedTuple

from commcli.remote.onnode.files import Have
from commcli.remote.onnode.step import Place, StepFailed


class Owner(NamedTuple):
    """User and group as numbers; None: not asked for. `unknown`: in check mode, who is still to be made."""

    uid: int | None = None
    gid: int | None = None
    unknown: tuple[str, ...] = ()

    def or_of(self, have: Have) -> Owner:
        """This, and where it says nothing, that of what is there."""
        uid, gid = (
            mine if mine is not None else its for mine, its in ((self.uid, have.uid), (self.gid, have.gid))
        )
        return Owner(uid, gid, self.unknown)

    def differs(self, have: Have) -> list[str]:
        """What is to change of what is there, one line each."""
        found = list(self.unknown)
        if self.uid is not None and have.uid != self.uid:
            found.append(f"owner {have.uid} -> {self.uid}")
        if self.gid is not None and have.gid != self.gid:
            found.append(f"group {have.gid} -> {self.gid}")
        return found


def of(args: Mapping[str, Any], place: Place) -> Owner:
    """The `owner` and `group` of a step. Raises StepFailed for one that does not exist.

    In check mode after a change one may be missing that an earlier step would have made.
    """
    unknown = []
    numbers = []
    for what, find in (("owner", _uid), ("group", _gid)):
        name = args.get(what)
        number = None if name is None else find(str(name))
        if name is not None and number is None:
            if not (place.checking and place.changed_before):
                raise StepFailed(f"no {'user' if what == 'owner' else 'group'} {name} on this node")
            unknown.append(f"{what} {name}")
        numbers.append(number)
    return Owner(numbers[0], numbers[1], tuple(unknown))


def _uid(name: str) -> int | None:
    try:
        return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str) -> int | None:
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def user_name(uid: int) -> str:
    """The user of this number, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group of this number, or the number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
