"""Is the manifest signed by one of ours? Stock `ssh-keygen -Y verify` says (SSHSIG, see PROTOCOL.sshsig).

No cryptography of our own: operators' keys, hardware keys and certificates work as far as the node's OpenSSH
does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Optional, Union

from commcli.relay.table.shard import ShardRefused

NAMESPACE = "commcli-table"
# Who may put a program first in the PATH of whoever started us must not be the judge of tables.
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"
MAX_MANIFEST_BYTES = 16 << 20
MAX_SIGNATURE_BYTES = 64 << 10

PathLike = Union[str, "os.PathLike[str]"]


class SignatureRefused(ShardRefused):
    """The manifest is not known to come from an operator. reason is always "signature"."""

    def __init__(self, detail: str) -> None:
        super().__init__("signature", detail)


def verify(
    manifest_path: PathLike,
    sig_path: PathLike,
    allowed_signers_path: PathLike,
    principal: str = NAMESPACE,
    *,
    ssh_keygen: Optional[str] = None,
    timeout_s: float = 10.0,
) -> bytes:
    """The manifest's bytes, if the signature over them is good. Raises SignatureRefused.

    `ssh_keygen` None: the system's own, and only if it has none the first in PATH. Go on with the bytes returned:
    the file may be another by the time that it is read again. Takes some 10 ms of a child process, so it belongs off
    the packet loop.
    """
    manifest = _read(manifest_path, MAX_MANIFEST_BYTES)
    _read(sig_path, MAX_SIGNATURE_BYTES)
    _read(allowed_signers_path, MAX_MANIFEST_BYTES)
    program = ssh_keygen or shutil.which("ssh-keygen", path=SYSTEM_PATH) or "ssh-keygen"
    command = [program, "-Y", "verify", "-f", os.fspath(allowed_signers_path), "-I", principal]
    command += ["-n", NAMESPACE, "-s", os.fspath(sig_path)]
    try:
        done = subprocess.run(
            command, input=manifest, capture_output=True, timeout=timeout_s, env={**os.environ, "LC_ALL": "C"}
        )
    except subprocess.TimeoutExpired:
        raise SignatureRefused("%s did not answer in %g s" % (program, timeout_s)) from None
    except OSError as error:
        raise SignatureRefused("cannot run %s: %s" % (program, error.strerror)) from None
    if done.returncode != 0:
        raise SignatureRefused(_words(done.stderr + done.stdout))
    return manifest


def _read(path: PathLike, limit_bytes: int) -> bytes:
    name = Path(path).name
    try:
        with Path(path).open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise SignatureRefused("%s: %s" % (name, error.strerror)) from None
    if len(content) > limit_bytes:
        raise SignatureRefused("%s: longer than %d bytes" % (name, limit_bytes))
    return content


def _words(output: bytes) -> str:
    """The first line of what ssh-keygen said, fit for a log."""
    lines = output.decode("utf-8", "replace").split("\n")
    said = "".join(letter for letter in lines[0] if letter.isprintable())[:200].strip()
    return said or "ssh-keygen refused it without a word"
