"""`archive: {path, source | blob, creates, owner, group}`: unpack a tar (plain, gz, bz2, xz) or zip file into a folder.

`creates`: not needed when this path exists. Otherwise what was last unpacked there is remembered by its digest, in
`.commcli-archive` in the folder: of two archives for one folder each needs a `creates`. What is there keeps its owner.
A member that would land outside of the folder, a device and a set-id bit are refused.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from commcli.remote.onnode import change, files, owners
from commcli.remote.onnode.owners import Owner
from commcli.remote.onnode.step import Key, Place, StepFailed, Verdict

KEYS = {
    "path": Key("path", required=True),
    "source": Key("text"),
    "blob": Key("text"),
    "creates": Key("path"),
    "owner": Key("text"),
    "group": Key("text"),
}
NOTE = ".commcli-archive"


def check(args: Mapping[str, Any], place: Place) -> Verdict:
    """Compare what was last unpacked with what is to be."""
    path, digest = args["path"], args["digest"]
    if args.get("creates") and os.path.lexists(args["creates"]):
        return Verdict(skipped="what it creates is there")
    note = files.look(f"{path}/{NOTE}")
    if note is not None and (note.data or b"").decode("ascii", "replace").strip() == digest:
        return Verdict()
    owner = owners.of(args, place)

    def apply() -> None:
        _unpack(place.blobs[digest], path, owner, place)
        change.do(change.Write(f"{path}/{NOTE}", f"{digest}\n".encode(), 0o644, owner.uid, owner.gid), place)

    return Verdict(f"unpack {digest[:12]}, {len(place.blobs[digest])} bytes", apply=apply)


class Member(NamedTuple):
    """One of an archive: kind (file, directory, link), permission bits, and its content or, of a link, its target."""

    name: str
    kind: str
    mode: int
    data: bytes = b""


def members(data: bytes) -> Iterator[Member]:
    """What is in the archive, in its order. Raises StepFailed for what may not be unpacked."""
    try:
        # A tar with a zip at its end passes for a zip.
        is_zip = zipfile.is_zipfile(io.BytesIO(data)) and not tarfile.is_tarfile(io.BytesIO(data))
        found = _zipped(data) if is_zip else _tarred(data)
        for member in found:
            inside = os.path.normpath(member.name)
            if inside.startswith(("/", "..")) or member.mode & 0o7000:
                raise StepFailed(f"{member.name}: would land outside of the folder, or has set-id bits")
            if member.kind == "link":
                target = os.path.normpath(os.path.join(os.path.dirname(inside), member.data.decode()))  # noqa: PTH118, PTH120
                if target.startswith(("/", "..")):
                    raise StepFailed(f"{member.name}: points outside of the folder")
            yield member._replace(name=inside)
    except StepFailed:
        raise
    # Each way to compress has errors of its own, and LZMA's module is not in every python.
    except Exception as error:
        raise StepFailed(f"no archive that can be read: {error}") from None


def _tarred(data: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            mode = member.mode
            if member.isreg():
                file = archive.extractfile(member)
                yield Member(member.name, "file", mode, b"" if file is None else file.read())
            elif member.isdir():
                yield Member(member.name, "directory", mode)
            elif member.issym():
                yield Member(member.name, "link", 0, member.linkname.encode())
            else:
                raise StepFailed(f"{member.name}: neither file, folder nor symbolic link")


def _zipped(data: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            # What Windows made has no mode.
            mode = stat.S_IMODE(info.external_attr >> 16)
            if info.is_dir():
                yield Member(info.filename, "directory", mode or 0o755)
            elif stat.S_ISLNK(info.external_attr >> 16):
                yield Member(info.filename, "link", 0, archive.read(info))
            else:
                yield Member(info.filename, "file", mode or 0o644, archive.read(info))


def _unpack(data: bytes, path: str, owner: Owner, place: Place) -> None:
    _folder(path, 0o755, owner, place)
    root = os.path.realpath(path)
    for member in list(members(data)):  # all of it is looked at before any of it is written
        where = os.path.join(root, member.name)  # noqa: PTH118
        folder = os.path.dirname(where)  # noqa: PTH120
        if member.name != "." and os.path.commonpath([root, os.path.realpath(folder)]) != root:
            raise StepFailed(f"{member.name}: a link on the node leads outside of the folder")
        if not os.path.isdir(folder):  # noqa: PTH112
            _folder(folder, 0o755, owner, place)
        if member.kind == "directory":
            _folder(where, member.mode, owner, place)
        elif member.kind == "link":
            change.do(change.Link(where, member.data.decode()), place)
        else:
            have = files.look(where, content=False)
            kept = owner if have is None else owner.or_of(have)
            change.do(change.Write(where, member.data, member.mode, kept.uid, kept.gid), place)


def _folder(path: str, mode: int, owner: Owner, place: Place) -> None:
    """One that is there keeps its mode, and its owner unless another is asked for."""
    have = files.look(path, content=False)
    if have is None:
        change.do(change.Folder(path, mode, owner.uid, owner.gid), place)
    elif have.kind == "directory" and owner.differs(have):
        change.do(change.Attributes(path, None, owner.uid, owner.gid), place)
