"""What relays are given, and the zipapp that reads it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commcli import __version__
from commcli.errors import BadInput
from commcli.fleet.model import Limits
from commcli.fleet.secrets import Secret
from commcli.relay import config as relay_config
from commcli.relay.mesh import neighbours
from commcli.relay.mesh.budget import Budget
from commcli.remote import playbook, relayfiles, zipapp
from commcli.remote.compile import compile_play
from tests.remote.sshd import Host

HOST = Host(Path("/srv/test"), 22)
FLEET = HOST.fleet(HOST.node("sg-1", address="127.0.0.1"), HOST.node("de-1", address="127.0.0.2"))
SECRETS = {
    "turn": Secret("turn-secret-one\nturn-secret-two!\n".replace("one", "one-long")),
    "overlay": Secret("ab" * 32),
}


def variables(node: str = "sg-1", changed: Mapping[str, Secret] | None = None) -> Mapping[str, object]:
    return relayfiles.variables(FLEET, FLEET.nodes[node], {**SECRETS, **(changed or {})}, b"zip", "signers\n")


def text(value: object) -> str:
    return value.reveal() if isinstance(value, Secret) else str(value)


def test_the_relay_reads_its_configuration(tmp_path: Path) -> None:
    node = replace(FLEET.nodes["sg-1"], base=str(tmp_path))
    given = relayfiles.variables(FLEET, node, SECRETS, b"zip", "signers\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/relay.json").write_text(text(given["relay_json"]))
    (tmp_path / "etc/turn.secret").write_text(text(given["turn_secret"]))
    config = relay_config.load(tmp_path / "etc/relay.json")
    assert (config.node, config.overlay_port, config.faults) == ("sg-1", 3479, True)
    assert config.secrets == ("turn-secret-one-long", "turn-secret-two!")


def test_a_budget_of_the_mesh_is_told_if_it_is_unusual(tmp_path: Path) -> None:
    node = replace(FLEET.nodes["sg-1"], base=str(tmp_path))
    assert "mesh" not in relayfiles.relay_config(FLEET, node)
    fleet = replace(FLEET, mesh=Budget(1000.0, 1.0))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/relay.json").write_text(json.dumps(relayfiles.relay_config(fleet, node)))
    (tmp_path / "etc/turn.secret").write_text("long enough to be one\n")
    assert relay_config.load(tmp_path / "etc/relay.json").mesh == fleet.mesh


def test_the_relay_looks_for_the_same_signer_as_the_controller() -> None:
    other = replace(FLEET, signing=replace(FLEET.signing, principal="sre@example.org"))
    node = FLEET.nodes["sg-1"]
    assert relayfiles.relay_config(other, node)["principal"] == "sre@example.org"
    assert "principal" not in relayfiles.relay_config(FLEET, node)


def test_what_a_node_does_not_say_is_in_no_configuration() -> None:
    """A new line in relay.json restarts every relay of the fleet."""
    said = relayfiles.relay_config(FLEET, FLEET.nodes["sg-1"])
    assert set(said) == {
        *("schema", "node", "base", "address", "realm", "turn_port", "relay_ports", "overlay_port"),
        *("stamp_port", "metrics_port", "allow_peers", "faults"),
    }


def test_the_relay_reads_the_client_side_of_its_node(tmp_path: Path) -> None:
    limits = Limits(user_quota=4, total_quota=100, session_kbit_s=2000, node_mbit_s=900)
    plain = FLEET.nodes["sg-1"]
    door: dict[str, Any] = {
        "address6": "2001:db8::1",
        "bind_address": "127.0.0.9",
        "bind_address6": "::1",
        "workers": 0,
        "ports": replace(plain.ports, tls=5349),
        "domain": "sg-1.test",
    }
    node = replace(plain, base=str(tmp_path), limits=limits, **door)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/relay.json").write_text(json.dumps(relayfiles.relay_config(FLEET, node)))
    (tmp_path / "etc/turn.secret").write_text("a-secret-that-is-long\n")
    config = relay_config.load(tmp_path / "etc/relay.json")
    assert (config.address6, config.tls_port, config.workers) == ("2001:db8::1", 5349, 0)
    assert config.bound == {node.address: "127.0.0.9", "2001:db8::1": "::1"}
    assert Limits(config.user_quota, config.total_quota, config.session_kbit_s, config.node_mbit_s) == limits


def test_both_ends_of_a_pair_get_the_same_keys_and_know_each_other() -> None:
    rows = {node: json.loads(text(variables(node)["peers_json"]))["peers"] for node in FLEET.nodes}
    assert set(rows["sg-1"]) == {"de-1"} and set(rows["de-1"]) == {"sg-1"}
    assert rows["sg-1"]["de-1"]["keys"] == rows["de-1"]["sg-1"]["keys"]
    assert neighbours.parse(rows["sg-1"])["de-1"].address == "127.0.0.2"


def test_the_pair_key_is_the_agreed_one() -> None:
    message = b"commcli-pair\0de-1\0sg-1"
    agreed = hashlib.blake2s(message, key=bytes.fromhex("ab" * 32), digest_size=32).digest()
    assert relayfiles.pair_key("ab" * 32, "sg-1", "de-1") == agreed
    assert relayfiles.pair_key("words of any length, more than thirty-two of them", "a", "b") != agreed


def test_during_a_rotation_the_first_key_sends_and_both_verify() -> None:
    both = json.loads(
        text(variables(changed={"overlay": Secret("cd" * 32 + "\n" + "ab" * 32)})["peers_json"])
    )
    [new, old] = both["peers"]["de-1"]["keys"]
    assert old == relayfiles.pair_key("ab" * 32, "sg-1", "de-1").hex() != new


def test_what_is_secret_is_typed_so() -> None:
    kinds = {name: isinstance(value, Secret) for name, value in variables().items()}
    assert {name for name, secret in kinds.items() if secret} == {
        "peers_json", "turn_secret", "tls_certificate", "tls_key",
    }  # fmt: skip


BAD = [
    ({"turn": Secret("short")}, "secret 'turn' is shorter than 16"),
    ({"turn": Secret("\n \n")}, "must have 1 to 4 lines"),
    ({"overlay": Secret("\n".join(["0123456789abcdef"] * 5))}, "must have 1 to 4 lines"),
]


@pytest.mark.parametrize(("changed", "reason"), BAD)
def test_bad_secrets_are_told_and_not_shown(changed: dict[str, Secret], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        variables(changed=changed)


def test_a_missing_secret_is_named() -> None:
    with pytest.raises(BadInput, match="secrets has no 'overlay'"):
        relayfiles.variables(FLEET, FLEET.nodes["sg-1"], {"turn": SECRETS["turn"]}, b"", "")


def test_the_zipapp_is_small_the_same_every_time_and_ours_alone() -> None:
    built = zipapp.build()
    zipapp.build.cache_clear()
    assert zipapp.build() == built and len(built) < zipapp.MAX_BYTES
    names = zipfile.ZipFile(io.BytesIO(built)).namelist()
    assert all(
        name in ("__main__.py", "commcli/__init__.py") or name.startswith("commcli/relay/") for name in names
    )


def test_the_zipapp_runs_without_site_packages(tmp_path: Path) -> None:
    (tmp_path / "relay.pyz").write_bytes(zipapp.build())
    command = [sys.executable, "-IS", str(tmp_path / "relay.pyz"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == __version__


@pytest.mark.parametrize(("variables_of_node", "has_unit"), [({}, True), ({"systemd": False}, False)])
def test_a_unit_unless_the_node_says_that_systemd_is_not_its_own(
    variables_of_node: Mapping[str, object], has_unit: bool
) -> None:
    """A lab on a machine with systemd, run by root, must not leave units in /etc."""
    node = replace(FLEET.nodes["sg-1"], variables=variables_of_node)
    play = playbook.load(Path(__file__).parents[2] / "playbooks/relay.yml")
    given = relayfiles.variables(FLEET, node, SECRETS, b"zip", "signers\n")
    steps = compile_play(play, node, given).body["steps"]
    (unit,) = [step["args"]["unit"] for step in steps if step["name"] == "relay runs"]
    assert ("[Unit]" in unit) == bool(unit.strip()) == has_unit


def test_the_unit_is_one_and_gives_the_relay_little(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    node = replace(FLEET.nodes["sg-1"], variables={})
    play = playbook.load(Path(__file__).parents[2] / "playbooks/relay.yml")
    given = relayfiles.variables(FLEET, node, SECRETS, b"zip", "signers\n")
    steps = compile_play(play, node, given).body["steps"]
    (text,) = [step["args"]["unit"] for step in steps if step["name"] == "relay runs"]
    unit = tmp_path / "commcli-relay.service"
    unit.write_text(text.replace("<python>", sys.executable))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    # It looks at the units of the machine too, some of which are none of ours.
    ours = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, ours) == (0, [])
    assert f"ReadWritePaths={node.base}/run {node.base}/state {node.base}/log\n" in text
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in text
    assert "Type=notify\nWatchdogSec=30\n" in text
    assert (
        f"ExecReload=<python> -I {node.base}/lib/relay.pyz ctl --socket {node.base}/run/control.sock reload\n"
        in text
    )
    assert "Restart=on-failure\n" in text


def test_a_certificate_comes_with_its_key_or_not_at_all() -> None:
    assert variables()["has_tls"] is False
    both = {"tls_certificate": Secret("chain"), "tls_key": Secret("key")}
    given = variables(changed=both)
    assert given["has_tls"] is True and given["tls_key"] == both["tls_key"]
    with pytest.raises(BadInput, match="secrets has 'tls_key' alone"):
        variables(changed={"tls_key": both["tls_key"]})
