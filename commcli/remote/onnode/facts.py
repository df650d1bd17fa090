"""What a node is: told once at the start of every play, and asked about by `when` and `assert`.

From files and system calls alone: no program is started for a fact.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import Any

from commcli.remote.onnode import owners

FAMILIES = ("debian", "rhel", "alpine", "arch", "suse")
MANAGERS = (("apt", "apt-get"), ("dnf", "dnf"), ("yum", "yum"), ("apk", "apk"), ("pacman", "pacman"))
LARGEST_TABLE = 1 << 20


def gather(base: str, clock_ahead_s: float | None = None) -> dict[str, Any]:
    """The facts. Sizes in MB, `unix` in seconds; None is unknown. `disk_free_mb` is that of the place of `base`."""
    release, system = _os_release(), os.uname()
    return {
        "base": base,
        "python": sys.executable,
        "python_version": ".".join(map(str, sys.version_info[:3])),
        "hostname": system.nodename,
        "kernel": system.release,
        "machine": system.machine,
        "os": release.get("ID"),
        "os_version": release.get("VERSION_ID"),
        "os_family": family(release),
        "package_manager": next((name for name, program in MANAGERS if shutil.which(program)), None),
        "clock_ahead_s": clock_ahead_s,
        "cpus": os.cpu_count(),
        "memory_mb": _memory_mb(),
        "disk_free_mb": _disk_free_mb(base),
        "disks": disks(_text("/proc/mounts")),
        "addresses": [*addresses4(_text("/proc/net/fib_trie")), *addresses6(_text("/proc/net/if_inet6"))],
        "uptime_s": _uptime_s(),
        "uid": os.getuid(),
        "user": owners.user_name(os.getuid()),
        "systemd": os.path.isdir("/run/systemd/system"),  # noqa: PTH112  what sd_booted(3) asks
        "ssh_keygen": shutil.which("ssh-keygen"),
        "unix": time.time(),
    }


def family(release: dict[str, str]) -> str | None:
    """The system whose ways this one has, by /etc/os-release: debian of Ubuntu, rhel of Rocky; else its own id."""
    kin = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    aliases = {"fedora": "rhel", "centos": "rhel", "ubuntu": "debian"}
    found = [aliases.get(name, name) for name in kin]
    return next((name for name in found if name in FAMILIES), release.get("ID"))


def addresses4(trie: str) -> list[str]:
    """This node's IPv4 addresses but for loopback, out of /proc/net/fib_trie, where each follows its name."""
    found: dict[str, None] = {}
    last = ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"] and not last.startswith("127."):
            found[last] = None
    return list(found)


def addresses6(table: str) -> list[str]:
    """This node's IPv6 addresses but for loopback and link-local ones, out of /proc/net/if_inet6."""
    found = []
    for words in map(str.split, table.splitlines()):
        # scope 00 is global, as are unique local addresses (include/net/ipv6.h)
        if len(words) == 6 and words[3] == "00":
            import socket

            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])))
    return found


def disks(mounts: str) -> dict[str, dict[str, int]]:
    """Mount point -> its size and what is free, of the file systems on a disk of this node.

    Others are not asked: a network file system whose server is away would hold us for ever.
    """
    found = {}
    for line in mounts.splitlines():
        device, _, rest = line.partition(" ")
        where = rest.split(" ")[0].replace("\\040", " ")
        if device.startswith("/dev/") or where == "/":
            try:
                usage = shutil.disk_usage(where)
            except OSError:
                continue
            if os.path.isdir(where):  # noqa: PTH112  a container binds single files
                found[where] = {"size_mb": usage.total >> 20, "free_mb": usage.free >> 20}
    return found


def _os_release() -> dict[str, str]:
    pairs = (line.strip().partition("=") for line in _text("/etc/os-release").splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, _, value in pairs}


def _text(path: str) -> str:
    """A small file's text, "" where it can not be had."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read(LARGEST_TABLE)
    except OSError:
        return ""


def _uptime_s() -> float | None:
    words = _text("/proc/uptime").split()
    return float(words[0]) if words else None


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (ValueError, OSError):
        return None


def _disk_free_mb(path: str) -> int | None:
    while path and not os.path.isdir(path):  # noqa: PTH112
        path = os.path.dirname(path)  # noqa: PTH120
    try:
        return shutil.disk_usage(path).free >> 20
    except OSError:
        return None
