"""Bare machines in a WAN: each with a network, a file system and processes of its own, and a real OpenSSH server.

    with Machines(wan, folder, {"sg-1": Login(), "kr-1": Login(user="ops")}) as machines:
        machines.root("sg-1") / "etc/passwd"            what is there, as files

A machine is this one seen through an overlay: what is installed here is installed there, and whatever a play does to
it, users and packages included, is gone with it. Its host key is certified by `authority`, whose line is all that
`known_hosts` has.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.relay.serving import need
from tests.remote.sshd import SSHD, keygen
from tests.wan.desk import PORT
from tests.wan.wan import Wan

# $1 where it is mounted (an empty folder), $2 its name, $3 what is to be its /machine. A tmpfs of its own, as an
# overlay's upper folder must not lie in another overlay; another at /root, since the rc files here are somebody's own.
_BOOT = """\
mount -t tmpfs -o mode=755 machine "$1"
mkdir "$1/up" "$1/work" "$1/disk"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" machine "$1/disk"
mount --rbind /dev "$1/disk/dev"
mount -t proc proc "$1/disk/proc"
mount -t tmpfs -o mode=700 home "$1/disk/root"
hostname "$2"
cp -r "$3" "$1/disk/machine"
exec chroot "$1/disk" sh -eu /machine/start
"""

# sudo and others ask for the machine's own name, and a name server would let them wait.
_START = """\
echo "127.0.0.1 localhost $(hostname)" >/etc/hosts
: >/etc/resolv.conf
mkdir -p /run/sshd
"""

# Not a locked account ("!"), which sshd refuses without PAM.
_USER = """\
useradd --create-home --shell /bin/sh {user}
usermod --password '{password}' {user}
echo '{user} ALL=(ALL) {rights}ALL' >/etc/sudoers.d/{user}
chmod 0440 /etc/sudoers.d/{user}
"""

_SSHD_CONFIG = f"""\
Port {PORT}
HostKey /machine/host_key
HostCertificate /machine/host_key-cert.pub
AuthorizedKeysFile /machine/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in. Another than root may use sudo, with `password` or without being asked for one."""

    user: str = "root"
    password: str | None = None


class Machines:
    """A context manager: the machines are there while it is entered. `servers`: their first processes, by node."""

    def __init__(self, wan: Wan, folder: Path, logins: Mapping[str, Login]) -> None:
        self.servers: dict[str, subprocess.Popen[Any]] = {}
        self.authority, self.known_hosts, self.key = (
            folder / "ca",
            folder / "known_hosts",
            folder / "operator",
        )
        self._wan, self._folder, self._logins = wan, folder, logins
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for path in (self.authority, self.key):
            keygen(path, path.name)
        public = self.authority.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"@cert-authority * {public}")
        with ExitStack() as stack:
            stack.callback(self._end)
            for node, login in self._logins.items():
                self._start(node, login)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def log(self, node: str) -> Path:
        """What its sshd said."""
        return self._folder / f"{node}.log"

    def root(self, node: str) -> Path:
        """Its file system, from here."""
        return Path(f"/proc/{self._first(node)}/root")

    def _first(self, node: str) -> int:
        """The process that is the machine's number 1."""
        pid = self.servers[node].pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
            if (
                Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]
                == "1"
            ):
                return pid
        raise AssertionError(f"{node} does not run: {self.log(node).read_text()}")

    def _start(self, node: str, login: Login) -> None:
        files, place = self._folder / node, self._folder / f"{node}.mnt"
        place.mkdir()
        self._write(node, files, login)
        command: list[str | Path] = [
            need("unshare", "util-linux"), "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
            "--propagation", "private", "--", "sh", "-euc", _BOOT, "machine", place, node, files,
        ]  # fmt: skip
        with self.log(node).open("wb") as log:
            self.servers[node] = self._wan.popen(
                node, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _write(self, node: str, files: Path, login: Login) -> None:
        files.mkdir()
        keygen(files / "host_key", node)
        certify: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-s",
            self.authority,
            "-I",
            node,
            "-h",
            "-n",
            self._wan.nodes[node],
            "-V",
            "+1d",
        ]
        subprocess.run([*certify, files / "host_key.pub"], check=True)
        (files / "authorized_keys").write_bytes(self.key.with_suffix(".pub").read_bytes())
        (files / "sshd_config").write_text(_SSHD_CONFIG)
        start = _START
        if login.user != "root":
            rights, password = (
                ("NOPASSWD: ", "*") if login.password is None else ("", _hashed(login.password))
            )
            start += _USER.format(user=login.user, password=password, rights=rights)
        (files / "start").write_text(f"{start}exec {SSHD} -D -e -f /machine/sshd_config\n")

    def _end(self) -> None:
        # unshare waits for its child whatever it is told; killed, it takes the machine along.
        for server in self.servers.values():
            server.kill()
        for server in self.servers.values():
            server.wait()


def _hashed(password: str) -> str:
    command = ["openssl", "passwd", "-6", "-stdin"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()
