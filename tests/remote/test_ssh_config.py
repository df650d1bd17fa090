"""The inventory's words, the ssh_config's and the defaults, on a real OpenSSH server: which one counts."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet.model import Node, SshDefaults, SshTarget
from commcli.remote import identities
from commcli.remote.outcome import HostKeyRefused, LoginRefused, Unreachable
from commcli.remote.ssh import Pool
from commcli.remote.sshconfig import way
from tests.remote import skagent
from tests.remote.sshd import Host, keygen
from tests.remote.test_ssh import true_on

UNSAID = ("host", "user", "port", "proxy_jump")


def configured(host: Host, text: str, **others: object) -> SshDefaults:
    """The host's settings with this ssh_config."""
    path = host.folder / "ssh_config"
    path.write_text(text)
    return replace(host.defaults(), config=path, **others)  # type: ignore[arg-type]


def plain(name: str = "sg-1", *unsaid: str, **words: object) -> Node:
    """A node of which the inventory says little: its address leads nowhere."""
    target = SshTarget("192.0.2.1", "", unsaid=unsaid or UNSAID)
    return Node(name, "sgp", "sg", "192.0.2.1", replace(target, **words))  # type: ignore[arg-type]


def block(host: Host, pattern: str = "sg-1") -> str:
    return f"Host {pattern}\n  HostName 127.0.0.1\n  Port {host.port}\n  User {getpass.getuser()}\n"


async def test_a_block_for_the_nodes_id_says_all_of_it(host: Host) -> None:
    text = block(host) + f"  IdentityFile {host.folder}/nothing\n  IdentityFile {host.key}\n"
    assert (await true_on(host, configured(host, text, identities=()), plain())).ok


@pytest.mark.parametrize(
    ("said", "cipher"),
    [("", "aes256-gcm@openssh.com"), ("  Ciphers aes256-ctr,aes256-gcm@openssh.com\n", "aes256-ctr")],
)
async def test_the_quick_ciphers_come_first_unless_the_config_says_which(
    host: Host, said: str, cipher: str
) -> None:
    node = plain()
    fleet = host.fleet(node, ssh=configured(host, block(host) + said))
    async with Pool(fleet) as pool:
        connection = await pool.connect(node)
        assert connection.tunnel().get_extra_info("send_cipher") == cipher


@pytest.mark.parametrize(
    ("config", "words", "unsaid", "expected"),
    [
        ("Host sg-1\n User a\n Port 2200\n HostName h", {}, UNSAID, ("h", 2200, "a", None)),
        ("Host 192.0.2.*\n User a\n ProxyJump b", {}, UNSAID, ("192.0.2.1", 22, "a", "b")),
        ("Host sg-1\n User a\nHost 192.*\n User b\n Port 9", {}, UNSAID, ("192.0.2.1", 9, "a", None)),
        ("Host *\n User a\n Port 9\n ProxyJump b", {"user": "me", "port": 7}, ("host", "proxy_jump"),
         ("192.0.2.1", 7, "me", "b")),
        ("Host *\n ProxyJump b", {"proxy_jump": None}, ("host", "user", "port"), ("192.0.2.1", 22, None, None)),
        ("Host far\n HostName 10.0.0.1\n User a", {"host": "far"}, ("user", "port"), ("10.0.0.1", 22, "a", None)),
        ("Host sg-1\n HostName 10.0.0.1", {"host": "far"}, ("user",), ("far", 22, None, None)),
    ],
)  # fmt: skip
def test_which_word_counts(
    tmp_path: Path,
    config: str,
    words: dict[str, object],
    unsaid: tuple[str, ...],
    expected: tuple[object, ...],
) -> None:
    # What OpenSSH makes of the same file is looked up with its own `ssh -G` below.
    host = Host(tmp_path, 22)
    node = plain("sg-1", *unsaid, **words)
    fleet = host.fleet(node, ssh=configured(host, config))
    jumps = {"b": Node("b", "sgp", "sg", "192.0.2.9", SshTarget("192.0.2.9", "x"))}
    login = way(replace(fleet, nodes={**fleet.nodes, **jumps}), node)[-1].login
    user = None if login.user == getpass.getuser() else login.user
    assert (login.host, login.port, user, login.jump) == expected


def test_openssh_reads_the_same_config_in_the_same_way(tmp_path: Path) -> None:
    host = Host(tmp_path, 22)
    text = "Host far\n HostName 10.0.0.1\n User a\nMatch host 10.*\n Port 2022\nHost *\n User b\n HostKeyAlias x\n"
    settings = configured(host, text)
    node = plain("sg-1", "user", "port", "proxy_jump", host="far")
    login = way(host.fleet(node, ssh=settings), node)[-1].login
    command = ["ssh", "-G", "-F", str(settings.config), "far"]
    said = dict(
        line.split(" ", 1)
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        if " " in line
    )
    assert (login.user, login.port, login.known_as) == (said["user"], int(said["port"]), said["hostkeyalias"])


async def test_without_a_config_of_the_fleet_the_operators_own_does_not_count(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host *\n  ProxyJump nowhere.invalid\n  HostName 192.0.2.7\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (await true_on(host)).ok


async def test_jump_hosts_of_the_config_are_shared_and_strict(host: Host) -> None:
    text = f"Host bastion\n  HostName 127.0.0.1\n  Port {host.port}\nHost *\n  ProxyJump bastion\n"
    node = replace(host.node(), ssh=replace(host.node().ssh, unsaid=("proxy_jump",)))
    assert (await true_on(host, configured(host, text), node)).ok
    assert len(re.findall("Accepted publickey", (host.folder / "log").read_text())) == 2
    (host.folder / "known_hosts").write_text("")
    with pytest.raises(HostKeyRefused, match="jump host bastion: host key of"):
        await true_on(host, configured(host, text), node)


def test_jump_hosts_in_a_circle_are_named() -> None:
    host = Host(Path("/nonexistent"), 22)
    nodes = [host.node("a", proxy_jump="b"), host.node("b", proxy_jump="a")]
    with pytest.raises(BadInput, match=r"jump hosts in a circle: a > b > a"):
        way(host.fleet(*nodes), nodes[0])


def test_a_config_that_is_wrong_is_bad_input(tmp_path: Path) -> None:
    host = Host(tmp_path, 22)
    with pytest.raises(BadInput, match=r"ssh_config line 2: Invalid Port integer value: many"):
        way(host.fleet(plain(), ssh=configured(host, "Host *\n Port many\n")), plain())


def system(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdin=subprocess.DEVNULL)


def signed(authority: Path, key: Path, *words: str) -> None:
    """A certificate by `authority` for `key`, beside it."""
    system("ssh-keygen", "-q", "-s", authority, "-I", "test", *words, key.with_suffix(".pub"))


async def believed(host: Host, settings: SshDefaults) -> bool:
    try:
        return (await true_on(host, settings)).ok
    except (HostKeyRefused, Unreachable):
        return False


def reload(host: Host, text: str) -> None:
    """Let sshd read its config again, with more in it. It starts itself anew, and is away for a moment."""
    path = host.folder / "sshd_config"
    path.write_text(path.read_text() + text)
    os.kill(int((host.folder / "sshd.pid").read_text()), signal.SIGHUP)


async def test_host_and_user_certificates_need_no_key_of_their_own(host: Host, tmp_path: Path) -> None:
    keygen(tmp_path / "ca")
    keygen(tmp_path / "me")
    signed(tmp_path / "ca", host.folder / "host_key", "-h", "-n", "127.0.0.1,sg-1")
    signed(tmp_path / "ca", tmp_path / "me", "-n", getpass.getuser())
    public = (tmp_path / "ca.pub").read_text()
    (host.folder / "authorized_keys").write_text(f"cert-authority {public}")
    host.known_hosts.write_text(f"@cert-authority * {public}")
    settings = replace(host.defaults(), identities=(tmp_path / "me",))
    with pytest.raises(HostKeyRefused):
        await true_on(host, settings)
    reload(host, f"HostCertificate {host.folder}/host_key-cert.pub\n")
    async with asyncio.timeout(30):
        while not await believed(host, settings):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    (tmp_path / "me-cert.pub").unlink()
    with pytest.raises(LoginRefused):
        await true_on(host, settings)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty ssh-agent."""
    path = str(tmp_path / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as child:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        monkeypatch.setenv("HOME", str(tmp_path))
        while subprocess.run(["ssh-add", "-l"], capture_output=True).returncode == 2:
            assert child.poll() is None
        yield
        child.terminate()


async def test_a_key_with_a_passphrase_signs_through_the_agent_and_no_other_is_offered(
    host: Host, agent: None, tmp_path: Path
) -> None:
    for number in range(5):  # MaxAuthTries is 3
        keygen(tmp_path / f"other{number}")
        system("ssh-add", "-q", tmp_path / f"other{number}")
    system("ssh-add", "-q", host.key)
    system("ssh-keygen", "-q", "-p", "-N", "secret", "-f", host.key)
    settings = replace(host.defaults(), agent=True)
    assert (await true_on(host, settings)).ok
    host.key.unlink()  # its public part says which one of the agent's
    assert (await true_on(host, settings)).ok
    with pytest.raises(LoginRefused, match="too many keys were offered"):
        await true_on(host, replace(settings, identities=()))
    with pytest.raises(BadInput, match=r"ssh identity .*: No such file"):
        await true_on(host, replace(settings, agent=False))


async def test_a_hardware_key_in_the_agent_logs_in(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = skagent.Token()
    (host.folder / "authorized_keys").write_text(token.public + "\n")
    (tmp_path / "id_sk").write_text(token.handle)
    (tmp_path / "id_sk.pub").write_text(token.public)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent.sock"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with skagent.serving(token, tmp_path / "agent.sock"):
        for named in ((), (tmp_path / "id_sk",), (tmp_path / "id_sk.pub",)):
            assert (await true_on(host, replace(host.defaults(), identities=named, agent=True))).ok
        assert identities.is_locked(tmp_path / "id_sk")
    assert token.signed == 3
    with pytest.raises(BadInput, match="id_sk: is on a token, which signs through the agent only"):
        await true_on(host, replace(host.defaults(), identities=(tmp_path / "id_sk",)))
