"""Connecting to a real OpenSSH server: who is let in, who is trusted, what waits how long."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet.model import Node, SshDefaults
from commcli.remote import adhoc, identities
from commcli.remote.outcome import HostKeyRefused, LoginRefused, TimedOut, Unreachable, each
from commcli.remote.run import run_play
from commcli.remote.ssh import Completed, Pool
from commcli.remote.survey import ask_all
from tests.remote.plays import play as written
from tests.remote.sshd import Host, free_port, keygen, serve


async def true_on(host: Host, ssh: SshDefaults | None = None, node: Node | None = None) -> Completed:
    node = node or host.node()
    async with Pool(host.fleet(node, ssh=ssh)) as pool:
        return await (await pool.connect(node)).run(["true"], timeout_s=10)


def known_hosts(host: Host, text: str) -> SshDefaults:
    host.known_hosts.write_text(text)
    return host.defaults()


async def test_runs_a_command_with_stdin_and_both_outputs(host: Host) -> None:
    node = host.node()
    async with Pool(host.fleet(node)) as pool:
        connection = await pool.connect(node)
        done = await connection.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=b"in", timeout_s=10)
        assert (done.exit_status, done.stdout, done.stderr, done.ok) == (3, b"in", b"err\n", False)
        assert await pool.connect(node) is connection


async def test_a_connection_that_drops_is_no_success(host: Host) -> None:
    async with Pool(host.fleet()) as pool:
        connection = await pool.connect(host.node())
        running = asyncio.create_task(connection.run(["sh", "-c", "echo begun; sleep 60"], timeout_s=30))
        await asyncio.sleep(0)
        process = await connection.start("echo ready; sleep 60")
        assert await process.read() == b"ready\n"
        connection.abort()
        assert await process.read() == b"" and await process.wait() is None
        done = await running
        assert done.exit_status is None and not done.ok
        assert (await (await pool.connect(host.node())).run(["true"], timeout_s=10)).ok  # a new connection


async def test_a_command_over_its_time_is_timed_out(host: Host) -> None:
    async with Pool(host.fleet()) as pool:
        with pytest.raises(TimedOut, match=r"sleep: no end after 0\.2 s"):
            await (await pool.connect(host.node())).run(["sleep", "60"], timeout_s=0.2)


async def test_a_strange_key_is_refused_login(host: Host, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    with pytest.raises(LoginRefused, match="login refused for"):
        await true_on(host, replace(host.defaults(), identities=(tmp_path / "other",)))


async def test_too_many_keys_are_told_as_such(host: Host, tmp_path: Path) -> None:
    keys = [tmp_path / f"k{n}" for n in range(5)]
    for key in keys:
        keygen(key)
    with pytest.raises(LoginRefused, match="too many keys were offered") as caught:
        await true_on(host, replace(host.defaults(), identities=(*keys, host.key)))
    assert caught.value.hint and "identities" in caught.value.hint


async def test_a_changed_host_key_is_refused(host: Host, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    text = f"[127.0.0.1]:{host.port} {(tmp_path / 'other.pub').read_text()}"
    with pytest.raises(HostKeyRefused, match="has changed") as caught:
        await true_on(host, known_hosts(host, text))
    assert caught.value.exit_code == 5 and caught.value.hint


async def test_the_key_of_another_port_makes_this_one_unknown_not_changed(host: Host, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    text = f"127.0.0.1 {(tmp_path / 'other.pub').read_text()}"
    with pytest.raises(HostKeyRefused, match="is not in"):
        await true_on(host, known_hosts(host, text))


async def test_a_host_key_of_another_type_has_changed_too(host: Host, tmp_path: Path) -> None:
    # asyncssh then finds no common algorithm, which must not read as a network problem.
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(tmp_path / "ec")]
    done = await asyncio.create_subprocess_exec(*command)
    assert await done.wait() == 0
    text = f"[127.0.0.1]:{host.port} {(tmp_path / 'ec.pub').read_text()}"
    with pytest.raises(HostKeyRefused, match="has changed"):
        await true_on(host, known_hosts(host, text))


async def test_what_is_known_of_an_address_is_not_known_of_the_name_that_leads_there(
    host: Host, tmp_path: Path
) -> None:
    node = host.node()
    node = replace(node, ssh=replace(node.ssh, host="localhost"))
    right, other = f"[127.0.0.1]:{host.port} {(host.folder / 'host_key.pub').read_text()}", tmp_path / "other"
    with pytest.raises(HostKeyRefused, match="is not in"):
        await true_on(host, known_hosts(host, right), node)
    keygen(other)
    pinned = f"[localhost]:{host.port} {other.with_suffix('.pub').read_text()}"
    with pytest.raises(HostKeyRefused, match="has changed"):
        await true_on(host, known_hosts(host, right + pinned), node)


@pytest.mark.parametrize("text", ["", "# nothing\n"])
async def test_an_unknown_host_key_is_refused(host: Host, text: str) -> None:
    with pytest.raises(HostKeyRefused, match=r"is not in .*known_hosts"):
        await true_on(host, known_hosts(host, text))


def test_a_name_server_that_does_not_answer_holds_nobody(tmp_path: Path) -> None:
    host = Host(tmp_path, 22)
    host.known_hosts.touch()
    answer = threading.Event()

    async def given_up() -> None:
        async with Pool(host.fleet(ssh=replace(host.defaults(), identities=()))):
            looking = asyncio.get_running_loop().run_in_executor(None, answer.wait)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(looking, 0.01)

    asyncio.run(given_up())  # would wait for the thread, and so for ever
    answer.set()


async def test_nobody_listens(host: Host) -> None:
    node = host.node()
    node = replace(node, ssh=replace(node.ssh, port=free_port()))
    with pytest.raises(Unreachable, match="connection refused"):
        await true_on(host, node=node)


@pytest.fixture(params=[b"", b"SSH-2.0-Silent\r\n"], ids=["never speaks", "sends its banner"])
async def silent_port(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A server that takes the connection, sends at most its banner and then nothing, for ever."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request.param)
        try:
            await asyncio.Event().wait()
        finally:
            writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_server_that_falls_silent_costs_one_deadline(host: Host, silent_port: int) -> None:
    node = host.node()
    node = replace(node, ssh=replace(node.ssh, port=silent_port))
    with pytest.raises(TimedOut, match=r"connected, but no login after 0\.5 s"):
        await true_on(host, host.impatient(), node)


@pytest.mark.parametrize("said", [b"x" * 4096, b"x" * 70 + b"\n", b"SSH-2.0-Mad\r\n" + b"x" * 4096])
async def test_a_server_that_floods_is_no_ssh_server(host: Host, said: bytes) -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(said)
                await writer.drain()
        except OSError:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        node = host.node()
        node = replace(node, ssh=replace(node.ssh, port=server.sockets[0].getsockname()[1]))
        with pytest.raises(Unreachable):
            await true_on(host, node=node)


async def test_an_address_that_swallows_packets_costs_one_deadline(host: Host) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # its queue is full after the first: further SYNs are dropped
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        node = host.node()
        node = replace(node, ssh=replace(node.ssh, port=full.getsockname()[1]))
        with pytest.raises(TimedOut, match=r"no TCP connection after 0\.5 s"):
            await true_on(host, host.impatient(), node)
        for filler in fillers:
            filler.close()


async def test_jump_hosts_are_connected_once_for_all(host: Host) -> None:
    jump = f"127.0.0.1:{host.port}"
    nodes = [host.node(f"n-{n}", proxy_jump=jump) for n in range(5)]
    async with Pool(host.fleet(*nodes)) as pool:
        connections = await asyncio.gather(*(pool.connect(node) for node in nodes))
        peers = await asyncio.gather(
            *(c.run(["sh", "-c", "echo $SSH_CONNECTION"], timeout_s=10) for c in connections)
        )
    # All five come from the jump host's own connections; the jump host itself was logged into once.
    assert len({peer.stdout for peer in peers}) == 5
    log = (host.folder / "log").read_text()
    assert len(re.findall("Accepted publickey", log)) == 6


async def test_twenty_nodes_behind_a_bastion_of_default_settings(host: Host, tmp_path: Path) -> None:
    # With a login a node MaxStartups (10:30:100, sshd_config(5)) drops some of them at random.
    async with serve(tmp_path / "bastion", "MaxStartups 10:30:100\nMaxSessions 10\n") as bastion:
        ours = (host.folder / "id.pub").read_text()
        (bastion.folder / "authorized_keys").write_text(ours)
        host.known_hosts.write_text(host.known_hosts.read_text() + bastion.known_hosts.read_text())
        nodes = [host.node(f"n-{n}", proxy_jump=f"127.0.0.1:{bastion.port}") for n in range(20)]
        async with Pool(host.fleet(*nodes)) as pool:
            outcomes = await each(nodes, pool.connect, parallel=pool.parallel)
            assert {outcome.reason or outcome.state for outcome in outcomes} == {"done"}
        assert (bastion.folder / "log").read_text().count("Accepted publickey") == 1


async def test_steps_and_questions_share_the_connection_of_a_node(host: Host, tmp_path: Path) -> None:
    node = host.node()
    play = written(tmp_path, "name: x\nsteps:\n  - name: y\n    command: {argv: ['true']}\n")
    async with Pool(host.fleet(node)) as pool:
        done = await asyncio.gather(
            run_play(play, [node], pool),
            adhoc.run_on([node], "true", pool),
            ask_all(host.fleet(node), [node], "status", pool=pool),
        )
    assert [outcomes[0].state for outcomes in done] == ["done", "done", "failed"]  # there is no relay
    assert (host.folder / "log").read_text().count("Accepted publickey") == 1


async def test_a_jump_host_in_trouble_is_named(host: Host) -> None:
    node = host.node(proxy_jump=f"127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match=r"jump host 127\.0\.0\.1:\d+: connection refused"):
        await true_on(host, node=node)


@pytest.fixture
def agent(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent that has the host's key."""
    path = str(tmp_path / "agent.sock")
    child = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        environment = {**os.environ, "SSH_AUTH_SOCK": path}
        while subprocess.run(
            ["ssh-add", "-q", str(host.key)], env=environment, stderr=subprocess.DEVNULL
        ).returncode:
            assert child.poll() is None
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        monkeypatch.setenv("HOME", str(tmp_path))  # no default keys there
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


async def test_the_agent_logs_in(host: Host, agent: None) -> None:
    assert (await true_on(host, replace(host.defaults(), identities=(), agent=True))).ok


async def test_no_key_of_the_agent_stands_in_for_those_that_are_named(
    host: Host, agent: None, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("Host *\n  IdentitiesOnly yes\n  IdentityFile /nonexistent/id\n")
    settings = replace(host.defaults(), identities=(), agent=True, config=tmp_path / "config")
    with pytest.raises(LoginRefused, match="login refused"):
        await true_on(host, settings)
    keygen(tmp_path / "other")
    with pytest.raises(LoginRefused, match="login refused"):
        await true_on(host, replace(host.defaults(), identities=(tmp_path / "other",), agent=True))


def test_a_key_that_signs_by_itself_is_not_offered_by_the_agent_once_more(host: Host) -> None:
    offered = identities.check(replace(host.defaults(), agent=True))
    assert offered is not None and len(offered.pairs) == 1 and offered.agent == ()


def test_a_key_that_nobody_can_find_in_an_agent_is_told(host: Host, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    make = ["ssh-keygen", "-q", "-m", "PEM", "-t", "rsa", "-N", "secret", "-f", str(locked)]
    subprocess.run(make, check=True)
    settings = replace(host.defaults(), identities=(locked,), agent=True)
    assert identities.check(settings) is not None, "the agent is asked for the .pub beside it"
    locked.with_name("locked.pub").unlink()
    with pytest.raises(BadInput, match=r"locked: has a passphrase, and no \.pub beside it"):
        identities.check(settings)


BROKEN = {
    "no known_hosts": ({"known_hosts": Path("/nonexistent/kh")}, "known hosts /nonexistent/kh: No such file"),
    "no identity": ({"identities": (Path("/nonexistent/id"),)}, "ssh identity /nonexistent/id: No such file"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_settings_are_checked_before_any_connection(host: Host, name: str) -> None:
    changed, reason = BROKEN[name]
    with pytest.raises(BadInput, match=reason):
        await true_on(host, replace(host.defaults(), **changed))  # type: ignore[arg-type]


def test_foreign_errors_have_no_way_out() -> None:
    """Every error that asyncssh can raise while connecting or reading is one of ours, or derives from Error."""
    import asyncssh

    raised = [
        value for value in vars(asyncssh).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    strangers = {
        value.__name__ for value in raised if not issubclass(value, asyncssh.Error | ValueError | OSError)
    }
    # Raised only by parts of asyncssh that are not used: listeners, terminals, password changes, SFTP's own.
    assert strangers <= {
        "BreakReceived", "ChannelListenError", "PasswordChangeRequired", "SignalReceived", "SoftEOFReceived",
        "TerminalSizeChanged",
    }  # fmt: skip
