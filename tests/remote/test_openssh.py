"""`commcli ssh`: OpenSSH's own client, with the fleet's settings."""

from __future__ import annotations

import shlex
import sqlite3
from dataclasses import replace
from pathlib import Path

from commcli.remote.openssh import arguments
from tests.remote.ops import desk_of
from tests.remote.sshd import Host
from tests.remote.test_ssh_config import configured, plain


async def test_a_command_on_a_node_and_its_exit_status(host: Host, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, host, ["a-1"])
    ended = await desk.type("a-1", "--", "echo $((6*7)); exit 9", noun="ssh")
    assert (ended.code, ended.out) == (9, "42\n")
    with sqlite3.connect(tmp_path / "state/commcli.sqlite3") as database:
        assert database.execute("SELECT command, result FROM audit").fetchall() == [("ssh", "begun")]
    database.close()
    shown = await desk.type("a-1", "--print", noun="ssh")
    settings = replace(host.defaults(), connect_timeout_s=10, login_timeout_s=15)
    assert shlex.split(shown.out) == arguments(host.fleet(host.node(), ssh=settings), host.node())
    assert (await desk.type("a-2", "--print", noun="ssh")).code == 3


async def test_jump_hosts_are_as_strict(host: Host, tmp_path: Path) -> None:
    odd = tmp_path / "100% odd"
    odd.mkdir()
    (odd / "known_hosts").write_bytes(host.known_hosts.read_bytes())
    jump = f"127.0.0.1:{host.port}"
    desk = desk_of(tmp_path, host, ["a-1"], ssh=f", proxy_jump: '{jump},{jump}'")
    fleet = tmp_path / "inventory/fleet.yaml"
    fleet.write_text(fleet.read_text().replace(str(host.known_hosts), f'"{odd}/known_hosts"'))
    there = await desk.type("a-1", "--", "echo", "a  b", noun="ssh")
    assert (there.code, there.out) == (0, "a  b\n"), there.err
    assert (host.folder / "log").read_text().count("Accepted publickey") == 3
    (odd / "known_hosts").write_text("")
    refused = await desk.type("a-1", "--", "true", noun="ssh")
    assert refused.code == 255 and "Host key verification failed" in refused.err


def test_the_config_says_what_the_inventory_leaves_open(tmp_path: Path) -> None:
    host = Host(tmp_path, 22)
    node = plain("sg-1", "host", "user", "proxy_jump", port=2022)
    settings = configured(host, "Host sg-1\n HostName 10.0.0.7\n User ops\n Port 9\n HostKeyAlias sg\n")
    argv = arguments(host.fleet(node, ssh=replace(settings, agent=True, identities=())), node)
    assert argv[:3] == ["ssh", "-F", str(settings.config)] and argv[-2:] == ["--", "sg-1"]
    options = dict(word.split("=", 1) for word in argv[3:-2] if word != "-o")
    assert {key: options[key] for key in ("HostName", "Port", "User", "HostKeyAlias", "ProxyJump")} == {
        "HostName": "10.0.0.7", "Port": "2022", "User": "ops", "HostKeyAlias": "sg", "ProxyJump": "none",
    }  # fmt: skip
    assert not {"IdentityFile", "IdentitiesOnly", "IdentityAgent"} & options.keys()
