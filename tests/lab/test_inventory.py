from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from commcli.fleet.loader import load
from commcli.lab import inventory, keys
from commcli.lab.folder import LabFolder, Record
from commcli.lab.up import SSH_PORT, Wish, places
from tests.lab import eight

EXAMPLE = inventory.example(Path("inventory"))


def record(nodes: int) -> Record:
    return Record("127.77.0", SSH_PORT, places(EXAMPLE, Wish(nodes, "127.77.0")))


@pytest.mark.parametrize("nodes", [2, 3, 8, 16])
def test_what_the_lab_writes_loads_clean(tmp_path: Path, nodes: int) -> None:
    folder = LabFolder(tmp_path)
    inventory.write(folder, EXAMPLE, record(nodes))
    fleet = load(folder.inventory)
    assert not fleet.production and len(fleet.nodes) == nodes
    for number, node in enumerate(fleet.nodes.values(), start=1):
        assert node.address == node.ssh.host == f"127.77.0.{number}" and node.ssh.port == SSH_PORT
        assert node.base == str(folder.base(node.id)) and Path(node.base).is_dir()
        assert node.country == EXAMPLE.regions[EXAMPLE.nodes[node.id].region].country
        assert node.state == EXAMPLE.nodes[node.id].state and node.tags == EXAMPLE.nodes[node.id].tags
        assert node.domain == f"{node.id}.lab.test" and node.ports.tls
    assert fleet.edge_nodes()
    assert fleet.tls_ca is not None and fleet.tls_ca.resolve() == folder.tls_ca.resolve()


def test_the_first_eight_are_those_of_the_demo() -> None:
    chosen = [place.node for place in places(EXAMPLE, Wish(8, "127.77.0"))]
    assert chosen == ["ae-1", "kr-1", "sg-1", "hk-1", "jp-1", "de-1", "br-1", "us-1"]


def test_every_city_of_the_example_has_figures() -> None:
    from commcli.lab import faults

    assert len(faults.figures(record(len(EXAMPLE.nodes)))) == 16 * 15 / 2


def test_zones_are_cut_down_to_the_markets_that_the_lab_has(tmp_path: Path) -> None:
    inventory.write(LabFolder(tmp_path), EXAMPLE, record(8))
    fleet = load(tmp_path / "inventory")
    zones = {zone.id: zone for zone in fleet.zones}
    original = {zone.id: zone for zone in EXAMPLE.zones}
    assert zones["gulf-to-asia"].forbid == original["gulf-to-asia"].forbid
    assert zones["gulf-to-asia"].between[1] == original["gulf-to-asia"].between[1] & set(fleet.markets)
    assert "india-domestic" not in zones  # there is no Indian edge among the eight


def test_text_from_the_example_is_quoted(tmp_path: Path) -> None:
    fleet = eight.fleet()
    files = inventory.files(
        LabFolder(tmp_path), fleet, Record("127.77.0", 2222, places(fleet, Wish(8, "127.77.0")))
    )
    assert '"a rule: with a colon"' in files["zones.yaml"]
    assert "in the clear" not in files["fleet.yaml"] and "{file: ../secrets/turn}" in files["fleet.yaml"]


def test_what_a_user_edited_stays(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path)
    inventory.write(folder, EXAMPLE, record(3))
    (folder.inventory / "zones.yaml").write_text("zones: {}\n")
    inventory.write(folder, EXAMPLE, record(3))
    assert (folder.inventory / "zones.yaml").read_text() == "zones: {}\n"


def test_keys_and_secrets_are_private_and_stay_the_same(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    folder = LabFolder(tmp_path)
    keys.make(folder, record(2), ["turn"])
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    private = [
        path
        for path in first
        if path.suffix != ".pub" and path.name not in ("known_hosts", "allowed_signers")
    ]
    assert {path.name for path in private} == {"operator", "signer", "ae-1", "kr-1", "turn"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in private)
    keys.make(folder, record(2), ["turn"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first


def test_half_a_key_pair_is_made_anew(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    folder = LabFolder(tmp_path)
    keys.make(folder, record(2), [])
    (folder.keys / "operator.pub").unlink()
    keys.make(folder, record(2), [])
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(folder.keys / "operator")], capture_output=True, text=True
    )
    assert (folder.keys / "operator.pub").read_text().split()[:2] == derived.stdout.split()[:2]
