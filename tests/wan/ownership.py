"""Who the relay of a bare machine runs as, what it may do, and what is its own, as the machine tells it."""

from __future__ import annotations

import re
import resource
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from commcli.relay.clients.udp import MAX_DESCRIPTORS
from tests.wan.globe import BASE

BIND, RESOURCE = 1 << 10, 1 << 24  # capabilities(7): CAP_NET_BIND_SERVICE, CAP_SYS_RESOURCE


@dataclass(frozen=True)
class Running:
    """The relay of a machine as /proc tells it. The figures of its supervisor are the same, where it has one."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: tuple[int, ...]  # every set that it has, as bits
    new_privileges: bool
    descriptors: int
    core: int


def running(root: Path) -> Running:
    unit = root / "sys/fs/cgroup/system.slice/commcli-relay.service/cgroup.procs"
    if unit.exists():  # process ids there are what they are here
        [pid] = unit.read_text().split()
        return process(Path("/"), int(pid))
    supervisor = int((root / BASE[1:] / "run/relay.pid").read_text())
    [child] = (root / f"proc/{supervisor}/task/{supervisor}/children").read_text().split()
    parent, relay = process(root, supervisor), process(root, int(child))
    assert replace(parent, pid=0) == replace(relay, pid=0)
    return relay


def process(root: Path, pid: int) -> Running:
    lines = (line.partition(":") for line in (root / f"proc/{pid}/status").read_text().splitlines())
    status = {name: value.split() for name, _, value in lines}
    limits = (root / f"proc/{pid}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits[1:]}
    [uid], [gid] = ({*map(int, status[name])} for name in ("Uid", "Gid"))
    sets = {int(status[f"Cap{kind}"][0], 16) for kind in ("Eff", "Prm", "Inh", "Amb", "Bnd")}
    return Running(
        pid,
        uid,
        gid,
        tuple(map(int, status["Groups"])),
        tuple(sorted(sets)),
        status["NoNewPrivs"] == ["0"],
        int(soft["Max open files"]),
        int(soft["Max core file size"]),
    )


def most_descriptors() -> int:
    """What a relay that root starts here may open: not even root may raise the limit where it lacks the power to."""
    raises = int(re.findall(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())[0], 16) & RESOURCE
    return MAX_DESCRIPTORS if raises else min(MAX_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def of_the_relay(root: Path) -> tuple[int, int] | None:
    """The numbers of its user and group on a machine, None where there is neither."""
    found = {}
    for name in ("passwd", "group"):
        for line in (root / "etc" / name).read_text().splitlines():
            if line.startswith("commcli-relay:"):
                found[name] = int(line.split(":")[2])
    assert len(found) in (0, 2)
    return (found["passwd"], found["group"]) if found else None


def owned(path: Path) -> tuple[int, int, int]:
    """User, group and mode of what is there itself."""
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


def must_be_its_users(root: Path) -> Running:
    """The relay runs as its own user, with what is its own, and none of the rest. Returns what runs."""
    who, base = of_the_relay(root), root / BASE[1:]
    assert who is not None and 0 not in who
    relay = running(root)
    assert relay == Running(relay.pid, *who, (who[1],), (BIND,), False, most_descriptors(), 0)
    secrets = [base / "etc" / name for name in ("turn.secret", "peers.json")]
    assert {path.name: owned(path) for path in secrets} == {path.name: (*who, 0o600) for path in secrets}
    assert owned(base / "etc") == (0, who[1], 0o750)
    assert [owned(base / name) for name in ("lib", "table")] == [(0, 0, 0o755)] * 2
    assert [owned(base / "etc" / name) for name in ("relay.json", "allowed_signers")] == [(0, 0, 0o644)] * 2
    assert owned(base / "runs") == (0, 0, 0o700)
    for name, mode in (("etc/tls", 0o700), ("state", 0o700), ("run", 0o750), ("log", 0o750)):
        assert owned(base / name) == (*who, mode)
        assert {owned(path)[:2] for path in (base / name).rglob("*")} <= {who}
    return relay
