"""Files that come from nodes: each in the folder of its node, for us alone to read, and there only when it is whole."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from commcli.remote.outcome import Failed, Lost
from commcli.remote.steps.fetch import MOST_MB


def place_of(to: str, node_id: str, path: str) -> Path:
    """Where the file `path` of a node lies here: in a folder of the node's name, whatever the path is."""
    return Path(to) / node_id / Path(path).name


class Landing:
    """What one node sends: the pieces of one file after another. Use as a context; what is not whole does not stay.

    A node is not trusted with more than the content: where it goes, and how much it may be, the plan says.
    """

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._file: IO[bytes] | None = None
        self._aside = Path()
        self._size = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Landing:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def begin(self) -> None:
        """Another step begins; what an attempt before has sent is of no use."""
        self._drop()

    def take(self, step: Mapping[str, Any], piece: object) -> int:
        """The next piece for this step of the plan; how many bytes there are now.

        Raises Failed (more than it may be, no place here), Lost.
        """
        if step["module"] != "fetch":
            raise Lost("the node sends what it was not asked for")
        try:
            data = base64.b64decode(str(piece), validate=True)
        except binascii.Error:
            raise Lost("the program's answers arrived damaged") from None
        args = step["args"]
        most = args.get("most_mb", MOST_MB) << 20
        target = place_of(args["to"], self._node_id, args["path"])
        if self._size + len(data) > most:
            raise Failed(f"{args['path']}: more than {most >> 20} MB, the most that this step fetches")
        with _local(target):
            self._opened(target).write(data)
        self._size += len(data)
        self._digest.update(data)
        return self._size

    def end(self, step: Mapping[str, Any], result: Mapping[str, Any]) -> Path:
        """The step has ended well: where its file is now. Raises Failed, Lost (it is not what the node has read)."""
        target = place_of(step["args"]["to"], self._node_id, step["args"]["path"])
        with _local(target):
            file = self._opened(target)  # an empty file comes in no piece
            if (self._size, self._digest.hexdigest()) != (result.get("size"), result.get("sha256")):
                raise Lost(f"{step['args']['path']} arrived damaged")
            file.flush()
            os.fsync(file.fileno())
            file.close()
            self._aside.replace(target)
        self._file = None
        self._drop()
        return target

    def _opened(self, target: Path) -> IO[bytes]:
        if self._file is None:
            folder = target.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink():
                raise Failed(f"{folder}: is a link, so it is not known where the files would go")
            self._aside = folder / f".{target.name}.{secrets.token_hex(4)}"
            self._file = os.fdopen(os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        return self._file

    def _drop(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._aside.unlink()
        self._file, self._size, self._digest = None, 0, hashlib.sha256()


@contextmanager
def _local(target: Path) -> Iterator[None]:
    """Trouble of this machine's disk is said as such: it is not the node's."""
    try:
        yield
    except OSError as error:
        raise Failed(f"here, {target}: {(error.strerror or str(error)).lower()}") from None
