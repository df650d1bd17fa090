"""From root to a user of the relay's own, and no way back: what a systemd unit does where there is none.

What is kept of root's powers is CAP_NET_BIND_SERVICE, for ports below 1024 (TLS on 443), and a limit of descriptors
that only root may raise. See capabilities(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import sys

from commcli.relay.clients.udp import MAX_DESCRIPTORS, raise_descriptor_limit
from commcli.relay.config import ConfigError

PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 8, 23, 24, 38, 47
PR_CAP_AMBIENT_RAISE = 2
CAP_NET_BIND_SERVICE = 10
VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3 of linux/capability.h: two words of 32 bits each


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Half(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def become(user: str) -> None:
    """Be this user from now on, we and all that we start; who is not root stays who he is, and it is said.

    Raises ConfigError when there is no such user, or root can not be left: nothing is ever run as root instead.
    """
    try:
        who = pwd.getpwnam(user)
    except KeyError:
        who = None
    if os.geteuid() != 0:
        if who is None or who.pw_uid != os.geteuid():
            print(f"commcli-relay: not root, so it runs as user {os.geteuid()}, not {user}", file=sys.stderr)
        return
    if who is None:
        raise ConfigError(f"there is no user {user} on this machine")
    _limit()
    try:
        _leave_root(who)
    except OSError as error:
        raise ConfigError(f"can not become user {user}: {error.strerror}") from error
    if os.getresuid() != (who.pw_uid,) * 3 or os.getresgid() != (who.pw_gid,) * 3:
        raise ConfigError(f"could not become user {user}")
    os.environ.update(HOME=who.pw_dir, USER=who.pw_name, LOGNAME=who.pw_name)
    os.chdir("/")  # where we are may be for root alone


def must_run(*paths: str) -> None:
    """Raises ConfigError for the first of these files that we can not read."""
    for path in paths:
        if not os.access(path, os.R_OK):
            raise ConfigError(f"user {os.geteuid()} can not read {path}, which it is to run")


def _limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard == resource.RLIM_INFINITY else max(hard, MAX_DESCRIPTORS)
    # Refused in containers without CAP_SYS_RESOURCE: then it is as many as may be.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, most))
    raise_descriptor_limit()
    # What the relay has in memory are secrets.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _leave_root(who: pwd.struct_passwd) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    number = 0
    while libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if number != CAP_NET_BIND_SERVICE:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
        number += 1
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.initgroups(who.pw_name, who.pw_gid)
    os.setgid(who.pw_gid)
    os.setuid(who.pw_uid)
    # All that root had is still permitted here, but for what a container has not.
    header, halves = _Header(VERSION_3, 0), (_Half * 2)()
    _checked(libc.capget(ctypes.byref(header), halves))
    kept = halves[0].permitted & 1 << CAP_NET_BIND_SERVICE
    halves[0], halves[1] = _Half(kept, kept, kept), _Half(0, 0, 0)
    _checked(libc.capset(ctypes.byref(header), halves))
    if kept:  # also over the start of the relay
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
