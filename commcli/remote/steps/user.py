"""`user: {name, uid, group, groups, home, shell, comment, system, state}`: a user of the node, without a password.

`group` is the first group, by name; `groups` are further ones, and others that the user is in stay. A home is made for
users that are not `system`. `state: absent`: no such user; the home stays, as what is in it may matter.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Mapping
from typing import Any, NamedTuple

from commcli.remote.onnode import change
from commcli.remote.onnode.change import Change, Run, Undo
from commcli.remote.onnode.step import Key, Place, Verdict

KEYS = {
    "name": Key("text", required=True),
    "uid": Key("number"),
    "group": Key("text"),
    "groups": Key("texts"),
    "home": Key("text"),
    "shell": Key("text"),
    "comment": Key("text"),
    "system": Key("flag"),
    "state": Key("text", words=("present", "absent")),
}
_OPTIONS = {
    "uid": "--uid",
    "group": "--gid",
    "home": "--home-dir",
    "shell": "--shell",
    "comment": "--comment",
}


class User(NamedTuple):
    """A user that is there. `group` and `groups` by name."""

    uid: int
    group: str
    groups: tuple[str, ...]
    home: str
    shell: str
    comment: str


def decide(args: Mapping[str, Any], have: User | None) -> list[Change]:
    """The commands that make it so."""
    name = args["name"]
    if args.get("state") == "absent":
        return [] if have is None else [Run(("userdel", name))]
    if have is None:
        return [Run(("useradd", *_wanted(args), *_kind(args), name))]
    differs = {key: args[key] for key in _OPTIONS if key in args and args[key] != getattr(have, key)}
    missing = [group for group in args.get("groups", ()) if group not in have.groups]
    words, back = _modified(differs), _modified({key: getattr(have, key) for key in differs})
    if missing:
        words += ["--append", "--groups", ",".join(missing)]
        back += ["--groups", ",".join(have.groups[1:])]
    return [Run(("usermod", *words, name), undo=Undo(("usermod", *back, name)))] if words else []


def _modified(args: Mapping[str, Any]) -> list[str]:
    # usermod calls the home otherwise than useradd does.
    return ["--home" if word == "--home-dir" else word for word in _wanted(args)]


def _wanted(args: Mapping[str, Any]) -> list[str]:
    words = [word for key, option in _OPTIONS.items() if key in args for word in (option, str(args[key]))]
    return [*words, "--groups", ",".join(args["groups"])] if args.get("groups") else words


def _kind(args: Mapping[str, Any]) -> list[str]:
    return ["--system"] if args.get("system") else ["--create-home"]


def look(name: str) -> User | None:
    """The user that is there, None if there is none."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    groups = tuple(sorted(each.gr_name for each in grp.getgrall() if name in each.gr_mem))
    try:
        first = grp.getgrgid(found.pw_gid).gr_name
    except KeyError:
        first = str(found.pw_gid)
    return User(found.pw_uid, first, (first, *groups), found.pw_dir, found.pw_shell, found.pw_gecos)


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare the user with what is wanted."""
    return change.verdict(decide(args, look(args["name"])), place)
