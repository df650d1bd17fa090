"""Bare machines in a WAN: each with a network, a file system and processes of its own, and a real OpenSSH server.

    with Machines(wan, folder, {"sg-1": Kind(), "kr-1": Kind(user="ops", systemd=True)}) as machines:
        machines.root("sg-1") / "etc/passwd"            what is there, as files
        machines.power_off("sg-1")                      nothing runs there any more, its disk stays
        machines.power_on("sg-1")

A machine is this one seen through an overlay: what is installed here is installed there, and whatever a play does to
it, users and packages included, is gone with it. Its host key is certified by `authority`, whose line is all that
`known_hosts` has. Number 1 of its processes is its SSH server, or the systemd that is installed here, which starts the
server and whatever a play enables, at every start.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.relay.serving import need
from tests.remote.sshd import SSHD, keygen
from tests.wan.desk import PORT
from tests.wan.wan import Wan

SYSTEMD = Path("/lib/systemd/systemd")
_STEP_S, _ENDS_WITHIN_S = 0.01, 5.0

# $1 where its disk is mounted (an empty folder), $2 its name, $3 what is to be its /machine, $4 what it does at every
# start, $5 anything if it needs control groups of its own. The disk is a tmpfs of its own, as an overlay's upper folder
# must not lie in another overlay; another is at /root, since the rc files here are somebody's own. Each line of stdin
# is somebody who presses the button, its end the end.
_DISK = """\
mount -t tmpfs -o mode=755 machine "$1"
mkdir "$1/up" "$1/work" "$1/disk" "$1/groups"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" machine "$1/disk"
mount -t tmpfs -o mode=700 home "$1/disk/root"
cp -r "$3" "$1/disk/machine"
groups=
if [ "$5" ]; then
    mount -t cgroup2 groups "$1/groups"
    groups=$(mktemp -d "$1/groups/commcli-XXXXXX")
fi
while :; do
    (
        [ -z "$groups" ] || echo 0 >"$groups/cgroup.procs"
        exec setpriv --pdeathsig KILL unshare --mount --pid --uts --ipc ${groups:+--cgroup} --fork --kill-child -- \\
            sh -euc "$4" machine "$1" "$2" </dev/null
    ) || true
    [ -z "$groups" ] || find "$groups" -mindepth 1 -depth -type d -exec rmdir {} +
    read -r _ || break
done
[ -z "$groups" ] || rmdir "$groups"
"""

# What is not on the disk, and so is new at every start.
_BOOT_BARE = """\
mount --rbind /dev "$1/disk/dev"
mount -t proc proc "$1/disk/proc"
mount -t tmpfs -o mode=755 run "$1/disk/run"
hostname "$2"
exec chroot "$1/disk" sh -eu /machine/start
"""

# systemd needs devices that it may add to, and its root must be where the machine's is mounted, or a unit could have no
# view of its own.
_BOOT_SYSTEMD = f"""\
cd "$1/disk"
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "/proc/self/${{link#*:}}" "dev/${{link%%:*}}"; done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t cgroup2 cgroup2 sys/fs/cgroup
: >machine/log
mount --bind /proc/self/fd/2 machine/log
hostname "$2"
[ -e machine/installed ] || chroot . sh -eu /machine/install
: >machine/installed
pivot_root . mnt
umount -l /mnt
exec env -i container=commcli {SYSTEMD} --system
"""

# sudo and others ask for the machine's own name, and a name server would let them wait.
_INSTALL = """\
echo "127.0.0.1 localhost $(hostname)" >/etc/hosts
: >/etc/resolv.conf
"""

_START_BARE = f"""\
[ -e /machine/installed ] || sh -eu /machine/install
: >/machine/installed
mkdir -p /run/sshd
exec {SSHD} -D -e -f /machine/sshd_config
"""

# Nothing that is enabled here is there, and the kernel stays as it is: it is everybody's.
_INSTALL_SYSTEMD = f"""\
cd /etc/systemd/system
rm -rf -- *
cat >machine.service <<END
[Service]
RuntimeDirectory=sshd
ExecStart={SSHD} -D -e -f /machine/sshd_config
StandardError=append:/machine/log
[Install]
WantedBy=multi-user.target
END
systemctl -q enable machine.service
systemctl -q mask systemd-sysctl.service systemd-modules-load.service
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


def without_systemd() -> str | None:
    """Why no machine can have systemd here, or None if one can."""
    if not SYSTEMD.exists():
        return f"no systemd here: {SYSTEMD} is missing (Debian package systemd)"
    known = Path("/proc/filesystems").read_text().split()
    return None if "cgroup2" in known else "no systemd here: the kernel has no cgroup2"


@dataclass(frozen=True, slots=True)
class Kind:
    """Who logs in: another than root may use sudo, with `password` or without being asked for one. What runs there."""

    user: str = "root"
    password: str | None = None
    systemd: bool = False


class Machines:
    """A context manager: the machines are there while it is entered. `servers`: what ends when they fail, by node."""

    def __init__(self, wan: Wan, folder: Path, kinds: Mapping[str, Kind]) -> None:
        self.servers: dict[str, subprocess.Popen[Any]] = {}
        self.authority, self.known_hosts, self.key = (
            folder / "ca",
            folder / "known_hosts",
            folder / "operator",
        )
        self._wan, self._folder, self._kinds = wan, folder, kinds
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for path in (self.authority, self.key):
            keygen(path, path.name)
        public = self.authority.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"@cert-authority * {public}")
        with ExitStack() as stack:
            stack.callback(self._end)
            for node, kind in self._kinds.items():
                self._start(node, kind)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def has_systemd(self, node: str) -> bool:
        """Whether systemd is the first of its processes."""
        return self._kinds[node].systemd

    def log(self, node: str) -> Path:
        """What its sshd said."""
        return self._folder / f"{node}.log"

    def root(self, node: str) -> Path:
        """Its file system, from here. It must have power."""
        return Path(f"/proc/{self._first(node)}/root")

    def written(self, node: str) -> Path:
        """The part of its disk that is its own: what was written there and is not /root. With power or without."""
        return Path(f"/proc/{self.servers[node].pid}/root{self._place(node)}/up")

    def run(self, node: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there as root, with all that is the machine's own around it."""
        argv = [need("nsenter", "util-linux"), "--all", f"--target={self._first(node)}", "--", *command]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def processes(self, node: str) -> dict[int, str]:
        """What runs there: process id, as it is called here -> command line."""
        found = {}
        for pid in self._wan.inhabitants(node):
            # Gone meanwhile.
            with contextlib.suppress(OSError):
                line = (
                    Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
                space = Path(f"/proc/{pid}/ns/pid").readlink()
                if line and space != Path("/proc/self/ns/pid").readlink():
                    found[pid] = line.strip()
        return found

    def power_off(self, node: str) -> None:
        """All its processes are gone at once. What they have written, synced or not, is on the disk."""
        first = self._first(node)
        os.kill(first, signal.SIGKILL)
        while self._children(self.servers[node].pid):
            time.sleep(_STEP_S)

    def power_on(self, node: str) -> None:
        """Start it again. It may take a moment until it answers."""
        button = self.servers[node].stdin
        assert button is not None
        button.write(b"\n")
        button.flush()

    def _first(self, node: str) -> int:
        """The process that is the machine's number 1."""
        pid = self.servers[node].pid
        while children := self._children(pid):
            pid = children[0]
            if (
                Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1]
                == "1"
            ):
                return pid
        raise AssertionError(f"{node} does not run: {self.log(node).read_text()}")

    @staticmethod
    def _children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def _place(self, node: str) -> Path:
        return self._folder / f"{node}.mnt"

    def _start(self, node: str, kind: Kind) -> None:
        files, place = self._folder / node, self._place(node)
        place.mkdir()
        self._write(node, files, kind)
        command: list[str | Path] = [
            need("unshare", "util-linux"), "--mount", "--propagation", "private", "--",
            "sh", "-euc", _DISK, "machine", place, node, files,
            *((_BOOT_SYSTEMD, "groups") if kind.systemd else (_BOOT_BARE, "")),
        ]  # fmt: skip
        with self.log(node).open("wb") as log:
            self.servers[node] = self._wan.popen(node, command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def _write(self, node: str, files: Path, kind: Kind) -> None:
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
        install = _INSTALL + (_INSTALL_SYSTEMD if kind.systemd else "")
        if kind.user != "root":
            rights, password = ("NOPASSWD: ", "*") if kind.password is None else ("", _hashed(kind.password))
            install += _USER.format(user=kind.user, password=password, rights=rights)
        (files / "install").write_text(install)
        (files / "start").write_text(_START_BARE)

    def _end(self) -> None:
        for node, server in self.servers.items():
            with contextlib.suppress(AssertionError):
                os.kill(self._first(node), signal.SIGKILL)
            assert server.stdin is not None
            server.stdin.close()
        for server in self.servers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(_ENDS_WITHIN_S)
            # Killed, it takes the machine along.
            server.kill()
            server.wait()


def _hashed(password: str) -> str:
    command = ["openssl", "passwd", "-6", "-stdin"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip()
