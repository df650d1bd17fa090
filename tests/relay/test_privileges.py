"""Root is given up in a child, whose /proc says what it is then (a whole relay: tests/wan/test_machines)."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

NOBODY = pwd.getpwnam("nobody")
BECOME = """
import os, resource, sys
from commcli.relay.config import ConfigError
from commcli.relay.process import privileges
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
try:
    privileges.become(sys.argv[1])
except ConfigError as error:
    sys.exit(f"{error}")
print(open("/proc/self/status").read())
print("Home:", os.environ["HOME"], os.getcwd())
print("Core:", *resource.getrlimit(resource.RLIMIT_CORE))
"""
BIND = "0000000000000400"  # CAP_NET_BIND_SERVICE and nothing else


def become(*words: str) -> tuple[dict[str, list[str]], str]:
    """What the child is in the end, and what it said on stderr."""
    done = subprocess.run([sys.executable, "-c", BECOME, *words], capture_output=True, text=True, check=False)
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return {name: value.split() for name, _, value in lines}, done.stderr


pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can give root up")


def test_nothing_of_root_is_left_but_low_ports() -> None:
    told, said = become("nobody")
    assert said == ""
    assert told["Uid"] == [str(NOBODY.pw_uid)] * 4 and told["Gid"] == [str(NOBODY.pw_gid)] * 4
    assert told["Groups"] == [str(NOBODY.pw_gid)]
    assert {told[f"Cap{kind}"][0] for kind in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {BIND}
    assert told["NoNewPrivs"] == ["1"] and told["Core"] == ["0", "0"]
    assert told["Home"] == [NOBODY.pw_dir, "/"]


def test_who_is_not_there_is_told_and_nobody_is_root_instead() -> None:
    assert become("nobody-of-this-name") == ({}, "there is no user nobody-of-this-name on this machine\n")


def test_who_is_not_root_stays_and_it_is_said() -> None:
    told, said = become("daemon", str(NOBODY.pw_uid))
    assert told["Uid"] == [str(NOBODY.pw_uid)] * 4
    assert said == f"commcli-relay: not root, so it runs as user {NOBODY.pw_uid}, not daemon\n"
    assert become("nobody", str(NOBODY.pw_uid))[1] == ""
