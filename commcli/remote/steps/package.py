"""`package: {names, state, update}`: packages of the node's own package manager, apt or dnf.

Of apt's, `name=version` is that version, in which `*` stands for anything. `state`: present (the default), absent, or
latest. `update`: apt's lists may be so many seconds old before something is
installed (by default a day); dnf sees to that itself.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from commcli.remote.onnode import change, command
from commcli.remote.onnode.change import Change, Run
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict

KEYS = {
    "names": Key("texts", required=True),
    "state": Key("text", words=("present", "absent", "latest")),
    "update": Key("number"),
}
LISTS_S = 86400
APT_LISTS = "/var/lib/apt/lists"
# Another installer at work is waited for; files that an operator changed stay.
_APT = (
    *("apt-get", "-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60"),
    *("-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"),
)
_DNF = ("dnf", "-y", "-q")


def decide(
    manager: str, names: Sequence[str], state: str, installed: Mapping[str, bool], lists_old: bool = False
) -> list[Change]:
    """The commands that make it so. `installed`: is it, and (for latest) is there nothing newer?"""
    if state == "absent":
        there = [name for name in names if installed[name]]
        remove = "remove" if manager == "dnf" else "purge"
        return [Run((*_of(manager), remove, *there))] if there else []
    missing = [name for name in names if not installed[name]]
    if not missing:
        return []
    update: list[Change] = [Run((*_APT, "update"))] if manager == "apt" and lists_old else []
    # dnf's install leaves an older version as it is.
    verb = "upgrade" if manager == "dnf" and state == "latest" else "install"
    install: list[Change] = [Run((*_of(manager), "install", *missing))]
    if verb == "upgrade":
        install.append(Run((*_of(manager), "upgrade", *missing)))
    return [*update, *install]


def _of(manager: str) -> tuple[str, ...]:
    return _APT if manager == "apt" else _DNF


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Ask the package manager, and compare with what is wanted."""
    manager = next((name for name, file in (("apt", "apt-get"), ("dnf", "dnf")) if shutil.which(file)), None)
    if manager is None:
        raise StepFailed("neither apt nor dnf on this node")
    state = args.get("state", "present")
    find = _apt if manager == "apt" else _dnf
    installed = find(args["names"], place, latest=state == "latest")
    changes = decide(manager, args["names"], state, installed, _lists_old(args.get("update", LISTS_S)))
    concerned = [name for name in args["names"] if installed[name] == (state == "absent")]
    return change.verdict(changes, place, f"{_TOLD[state]} {', '.join(concerned)}") if changes else Verdict()


_TOLD = {"present": "install", "latest": "install or upgrade", "absent": "remove"}


def _apt(names: Sequence[str], place: Place, *, latest: bool) -> dict[str, bool]:
    plain = [name.partition("=")[0] for name in names]
    asked = command.run(
        ["dpkg-query", "-W", "-f", "${binary:Package} ${db:Status-Status} ${Version}\\n", *plain], place
    )
    there = versions(asked.stdout)
    if not latest:
        return {name: is_there(name, there) for name in names}
    newest = {name: _candidate(name, place) for name in plain}
    return {name: is_there(name, there) and there[of] == newest[of] for name, of in zip(names, plain)}  # noqa: B905


def versions(told: str) -> dict[str, str]:
    """Of what dpkg-query tells, the version of each that is installed, by name, with its architecture and without."""
    rows = [line.split() for line in told.splitlines()]
    found = {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}
    return {**{name.partition(":")[0]: version for name, version in found.items()}, **found}


def is_there(name: str, installed: Mapping[str, str]) -> bool:
    """Whether NAME, NAME:ARCHITECTURE, or either with =VERSION (`*` in it stands for anything) is installed."""
    plain, _, wanted = name.partition("=")
    return plain in installed and (not wanted or fnmatch.fnmatchcase(installed[plain], wanted))


def _candidate(name: str, place: Place) -> str | None:
    told = command.run(["apt-cache", "policy", name], place).stdout.splitlines()
    return next((line.split()[1] for line in told if line.strip().startswith("Candidate:")), None)


def _dnf(names: Sequence[str], place: Place, *, latest: bool) -> dict[str, bool]:
    there = {name: command.run(["rpm", "-q", name], place).status == 0 for name in names}
    if not latest:
        return there
    # Exit status 100: there are updates.
    return {
        name: there[name] and command.run([*_DNF, "check-update", name], place).status != 100
        for name in names
    }


def _lists_old(most_s: float) -> bool:
    try:
        return time.time() - os.stat(APT_LISTS).st_mtime > most_s or not os.listdir(APT_LISTS)  # noqa: PTH116, PTH208
    except OSError:
        return True
