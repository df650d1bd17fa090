"""What runs a play from here: ours, bare asyncssh, Ansible and pyinfra, each a process of its own that is measured.

Ansible and pyinfra live in an environment of their own outside of this checkout, made when first asked for. Each is set
up as its documentation says that it is fast: Ansible with pipelining, ControlPersist and a fork for every host, and
without facts that no step needs; pyinfra with a greenlet for every host, and not waiting between operations.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import ten_steps
from tests.bench.far_hosts import FarHost, FarHosts

ROOT = Path(__file__).parents[2]
RIVALS = ("ansible-core", "pyinfra")
LIMIT_S = 900.0
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Spent:
    """What one run cost: wall and CPU seconds of the process and its children, its most resident memory; by host,
    round trips and bytes (nothing where no proxy counts).
    """

    seconds: float
    cpu_s: float
    peak_bytes: int
    round_trips: Sequence[int] = ()
    up: Sequence[int] = ()
    down: Sequence[int] = ()
    code: int = 0
    stdout: str = ""


class Failure(RuntimeError):
    """A run that did not do what it was to do."""


def measured(
    command: Sequence[str],
    hosts: Sequence[FarHost],
    *,
    env: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
) -> Spent:
    """Run it to its end, in a thread: the proxies need the loop. Raises Failure unless it exits with one of `codes`."""
    before = _travelled(hosts)
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    told: dict[str, str] = {}
    readers = [
        threading.Thread(target=_keep, args=(told, name), kwargs={"stream": stream})
        for name, stream in (("out", process.stdout), ("err", process.stderr))
    ]
    for reader in readers:
        reader.start()
    peak = _watched(process.pid, begun + LIMIT_S)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    for reader in readers:
        reader.join(5)
    if process.returncode not in codes:
        raise Failure(f"{Path(command[0]).name} ended with {process.returncode}: {_why(**told)}")
    trips, up, down = (
        [now - then for now, then in zip(*pair, strict=True)]
        for pair in zip(_travelled(hosts), before, strict=True)
    )
    return Spent(
        seconds,
        usage.ru_utime + usage.ru_stime,
        peak,
        trips,
        up,
        down,
        process.returncode,
        told.get("out", ""),
    )


def _why(out: str = "", err: str = "") -> str:
    """What a run that failed said: of ours, how many nodes for each reason."""
    if out.startswith("{"):
        reasons = Counter(str(row.get("reason", row)) for row in json.loads(out).get("nodes", ()))
        return (
            "; ".join(f"{count} x {reason or 'done'}" for reason, count in reasons.most_common(5))
            or out[-500:]
        )
    return (err or out).strip()[-500:]


def _travelled(hosts: Sequence[FarHost]) -> tuple[list[int], list[int], list[int]]:
    """By host, all round trips and bytes up and down so far: a connection may outlive a run."""
    ways = [host.way.connections for host in hosts if host.way is not None]
    return (
        [sum(connection.round_trips for connection in way) for way in ways],
        [sum(connection.up for connection in way) for way in ways],
        [sum(connection.down for connection in way) for way in ways],
    )


def _keep(told: dict[str, str], name: str, *, stream: object) -> None:
    told[name] = stream.read()  # type: ignore[attr-defined]


def _watched(pid: int, until: float) -> int:
    """The most resident memory that it ever had, in bytes; back when it has ended, which is awaited so long."""
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.perf_counter() > until:
            os.kill(pid, 9)
        # Not the kernel's own figure at the end (ru_maxrss): it has the memory of who started the process in it.
        for row in Path(f"/proc/{pid}/status").read_text().splitlines():
            if row.startswith("VmHWM:"):
                peak = max(peak, int(row.split()[1]) * 1024)
        time.sleep(SAMPLE_S)
    return peak


TRUE = """
import asyncio, asyncssh, sys
user, key, known, *ports = sys.argv[1:]
async def one(port):
    options = dict(username=user, client_keys=[key], known_hosts=known, config=None, agent_path=None)
    async with asyncssh.connect("127.0.0.1", int(port), **options) as connection:
        assert (await connection.run("true")).exit_status == 0
async def main():
    await asyncio.gather(*map(one, ports))
asyncio.run(main())
"""


def true(far: FarHosts) -> list[str]:
    """Bare asyncssh: log in everywhere at once, run `true`, leave."""
    ports = [str(host.port) for host in far.hosts]
    return [sys.executable, "-c", TRUE, getpass.getuser(), str(far.key), str(far.known_hosts), *ports]


def commcli(far: FarHosts, count: int, *options: str) -> list[str]:
    """`commcli play run` of so many steps on all nodes of the inventory."""
    playbook = far.folder / f"steps-{count}.yml"
    playbook.write_text(ten_steps.ours(count))
    return [*ours(far), "play", "run", str(playbook), "--yes", "--json", *where(far, state=True), *options]


def ours(far: FarHosts) -> list[str]:
    """The start of our command lines."""
    return [sys.executable, "-m", "commcli"]


def where(far: FarHosts, *, state: bool = False) -> list[str]:
    """The options of our commands that name the inventory, and the state folder where they have one."""
    named = ["--inventory", str(far.folder / "inventory")]
    return [*named, "--state", str(far.folder / "state")] if state else named


def write_inventory(far: FarHosts, sick: Sequence[int] = (), *, login_timeout_s: float = 15.0) -> None:
    """Our inventory of the hosts, and of nodes at the ports `sick`."""
    folder = far.folder / "inventory"
    folder.mkdir(exist_ok=True)
    places = [(host.name, host.port, host.root) for host in far.hosts]
    places += [(f"sick{number}", port, far.folder / "sick") for number, port in enumerate(sick)]
    nodes = "".join(
        f"  {name}: {{region: lo, address: 127.77.{number // 250}.{number % 250 + 1}, base: {root}, "
        f"ssh: {{host: 127.0.0.1, port: {port}}}}}\n"
        for number, (name, port, root) in enumerate(places)
    )
    files = {
        "fleet": f"name: far\nrealm: far.test\nssh: {{known_hosts: {far.known_hosts}, identities: [{far.key}], "
        f"agent: false, login_timeout_s: {login_timeout_s:g}}}\nsigning: {{signers: signers}}\n",
        "regions": "regions:\n  lo: {city: Loopback, country: sg, continent: asia}\n",
        "nodes": f"defaults:\n  ssh: {{user: {getpass.getuser()}}}\n  variables: {{systemd: false}}\nnodes:\n{nodes}",
        "markets": f"markets:\n  sg: {{name: Singapore, edges: [{far.hosts[0].name}]}}\n",
        "zones": "zones: {}\n",
    }
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def environment() -> Path | None:
    """Where Ansible and pyinfra are, installed if need be; None (and said) where they can not be had."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(os.environ.get("COMMCLI_BENCH_ENV") or f"{cache}/commcli-bench").expanduser() / "rivals"
    pip = place / "bin/pip"
    try:
        if not (place / "bin/pyinfra").exists() or not (place / "bin/ansible-playbook").exists():
            print(f"plays: {' and '.join(RIVALS)} are installed into {place}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            subprocess.run([str(pip), "install", "-qq", "--disable-pip-version-check", *RIVALS], check=True)
        listed = subprocess.run(
            [str(pip), "list", "--format=json"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"plays: no Ansible and pyinfra here: {error}", flush=True)
        return None
    versions = {row["name"]: row["version"] for row in json.loads(listed)}
    print(f"plays: beside {', '.join(f'{name} {versions[name]}' for name in RIVALS)}", flush=True)
    return place


class Ansible:
    """ansible-playbook; its connections persist from one run to the next, until `leave`."""

    def __init__(self, place: Path, far: FarHosts, count: int) -> None:
        self._far = far
        self._sockets = far.folder / "cp"
        self.env = {**_plain(far), "ANSIBLE_CONFIG": str(far.folder / "ansible.cfg")}
        hosts = "".join(f"{host.name} ansible_port={host.port} root={host.root}\n" for host in far.hosts)
        (far.folder / "hosts.ini").write_text(
            f"{hosts}[all:vars]\nansible_host=127.0.0.1\nansible_user={getpass.getuser()}\n"
            f"ansible_ssh_private_key_file={far.key}\nansible_python_interpreter=/usr/bin/python3\n"
        )
        (far.folder / "ansible.cfg").write_text(
            f"[defaults]\nforks = {len(far.hosts)}\nremote_tmp = {far.folder}/ansible-tmp\n"
            "retry_files_enabled = false\n"
            "[ssh_connection]\npipelining = true\n"
            f"control_path_dir = {self._sockets}\n"
            "ssh_args = -o ControlMaster=auto -o ControlPersist=60s -o PreferredAuthentications=publickey "
            f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={far.known_hosts}\n"
        )
        playbook = far.folder / f"ansible-{count}.yml"
        playbook.write_text(ten_steps.ansible(count))
        inventory = str(far.folder / "hosts.ini")
        self.command = [str(place / "bin/ansible-playbook"), "-i", inventory, str(playbook)]

    def leave(self) -> None:
        """End the connections that it left open."""
        for socket in self._sockets.glob("*"):
            command = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "any"]
            subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Pyinfra:
    """pyinfra."""

    def __init__(self, place: Path, far: FarHosts, count: int) -> None:
        self.env = _plain(far)
        data = {
            "ssh_hostname": "127.0.0.1",
            "ssh_user": getpass.getuser(),
            "ssh_key": str(far.key),
            "ssh_known_hosts_file": str(far.known_hosts),
            "ssh_strict_host_key_checking": "yes",
            "ssh_allow_agent": False,
            "ssh_look_for_keys": False,
        }
        hosts = [(host.name, {**data, "ssh_port": host.port, "root": str(host.root)}) for host in far.hosts]
        (far.folder / "pyinfra_hosts.py").write_text(f"hosts = {hosts!r}\n")
        deploy = far.folder / f"pyinfra_{count}.py"
        deploy.write_text(ten_steps.pyinfra(count))
        how = ["-y", "--no-wait", "--parallel", str(len(far.hosts))]
        self.command = [str(place / "bin/pyinfra"), *how, str(far.folder / "pyinfra_hosts.py"), str(deploy)]

    def leave(self) -> None:
        """Nothing stays."""


def _plain(far: FarHosts) -> dict[str, str]:
    """An environment where nobody's own settings count."""
    home = far.folder / "home"
    home.mkdir(exist_ok=True)
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8"}
