"""Files to nodes and from them, as plays of a few steps made here: checked, whole, and only where they differ."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commcli.errors import BadInput
from commcli.remote.play import Play, Step

TIMEOUT_S = 600.0
_TEMPLATE = ("{{", "{%", "{#")
Document = dict[str, Any]


def push(local: Path, path: str, attributes: Mapping[str, str]) -> Play:
    """The play that brings `local` to `path` on a node: a file, or all that is in a folder. Raises BadInput.

    A path that ends with / is the folder that the file goes into. `attributes`: mode, owner, group, for those that
    shall not be as here (a file's mode is that of the local one).
    """
    if not path.startswith("/"):
        raise BadInput(f"{path}: must be an absolute path on the node")
    sources: dict[str, bytes] = {}
    try:
        if local.is_dir():
            steps = tuple(_folder(local, path.rstrip("/") or "/", attributes, sources))
        else:
            target = path + local.name if path.endswith("/") else path
            steps = (_copy(local, target, attributes, sources),)
    except OSError as error:
        raise BadInput(f"{error.filename or local}: {error.strerror}") from None
    return Play("push", "", str(local), {}, steps, sources, chosen=True)


def fetch(path: str, local: Path) -> Play:
    """The play that brings the file `path` of each node to `local`/NODE/. Raises BadInput."""
    if not path.startswith("/"):
        raise BadInput(f"{path}: must be an absolute path on the node")
    step = _step(path, "fetch", {"path": path, "to": str(local.absolute())})
    return Play("fetch", "", path, {}, (step,), {}, chosen=True)


def _folder(
    local: Path, path: str, attributes: Mapping[str, str], sources: dict[str, bytes]
) -> Iterator[Step]:
    owners = {key: value for key, value in attributes.items() if key != "mode"}
    yield _step(path, "directory", {"path": path, "mode": _mode(local), **owners})
    for child in sorted(local.iterdir()):
        target = posixpath.join(path, child.name)
        if any(sign in child.name for sign in _TEMPLATE):
            raise BadInput(f"{child}: a name with {{{{, {{% or {{# can not be pushed")
        if child.is_symlink():
            yield _step(target, "link", {"path": target, "target": str(child.readlink())})
        elif child.is_dir():
            yield from _folder(child, target, attributes, sources)
        else:
            yield _copy(child, target, attributes, sources)


def _copy(local: Path, path: str, attributes: Mapping[str, str], sources: dict[str, bytes]) -> Step:
    if not stat.S_ISREG(local.stat().st_mode):
        raise BadInput(f"{local}: is neither a file nor a folder")
    sources[str(local)] = local.read_bytes()
    return _step(path, "copy", {"path": path, "source": str(local), "mode": _mode(local), **attributes})


def _mode(local: Path) -> str:
    return f"{stat.S_IMODE(local.stat().st_mode) & 0o777:04o}"


def _step(name: str, word: str, args: Mapping[str, object]) -> Step:
    return Step(name, word, "steps", args, 0, {}, timeout_s=TIMEOUT_S)


def document(ran: Mapping[str, Any], local: Path, path: str) -> Document:
    """`push` and `fetch`: what answer.ran says of the play, and what goes where. JSON-able."""
    return {**ran, "kind": f"{ran['play']}.files", "local": str(local), "path": path}
