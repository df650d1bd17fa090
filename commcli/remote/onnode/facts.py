"""What a node is: told once at the start of every play, and asked about by `when` and `assert`."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import sys
import time
from typing import Any


def gather(base: str) -> dict[str, Any]:
    """The facts. Sizes in MB, `unix` in seconds; None is unknown. `disk_free_mb` is that of the place of `base`."""
    release = _os_release()
    return {
        "python": sys.executable,
        "python_version": platform.python_version(),
        "hostname": platform.node(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "os": release.get("ID"),
        "os_version": release.get("VERSION_ID"),
        "cpus": os.cpu_count(),
        "memory_mb": _memory_mb(),
        "disk_free_mb": _disk_free_mb(base),
        "uid": os.getuid(),
        "user": _user(),
        "systemd": os.path.isdir("/run/systemd/system"),  # noqa: PTH112  what sd_booted(3) asks
        "ssh_keygen": shutil.which("ssh-keygen"),
        "unix": time.time(),
    }


def _os_release() -> dict[str, str]:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:  # noqa: PTH123
            pairs = (line.strip().partition("=") for line in file if "=" in line)
            return {key: value.strip("\"'") for key, _, value in pairs}
    except OSError:
        return {}


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


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
