from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commcli.fleet.loader import load
from commcli.lab import compliance, inventory, keys
from commcli.lab.folder import LabFolder, Record
from commcli.lab.up import SSH_PORT, Wish, places
from commcli.relay.table import shard, signature
from commcli.routing import table as tables
from commcli.routing.publish import Package
from commcli.routing.rows import Route
from commcli.settings import Settings
from commcli.store.sqlite import Store
from tests.lab import eight

NOW = 1_800_000_000
RECORD = Record("127.77.0", SSH_PORT, places(eight.fleet(), Wish(3, "127.77.0")))


@pytest.fixture
def folder(tmp_path: Path) -> LabFolder:
    """A lab's files without its hosts."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    lab = LabFolder(tmp_path)
    keys.make(lab, RECORD, ["overlay", "turn"])
    inventory.write(lab, eight.fleet(), RECORD)
    return lab


def keep_table(lab: LabFolder, zones: tuple[dict[str, object], ...]) -> None:
    nodes = {
        place.node: {
            "address": place.address,
            "overlay_port": 3479,
            "relay_ports": [49152, 65535],
            "country": place.node[:2],
            "markets": [place.node[:2]],
        }
        for place in RECORD.places
    }
    table = tables.Table(
        "lab",
        4,
        NOW,
        NOW + 86400,
        {"measurements": "0" * 64, "policy": "0" * 64},
        nodes,
        zones,
        {("ae-1", "kr-1"): Route(("ae-1", "kr-1"))},
        frozenset(),
    )
    encoded = tables.encode(table)
    with Store(Settings(lab.inventory, lab.state).database) as store:
        store.record_table(4, encoded.manifest, "unsigned", encoded.shards, "published")


def taken(lab: LabFolder, package: Package) -> str:
    """What a relay makes of the package: "" if it takes it, else its reason."""
    place = lab.path / "pushed"
    place.mkdir()
    for name, text in package.files("ae-1").items():
        (place / name).write_text(text)
    signature.verify(place / "manifest.json", place / "manifest.json.sig", lab.keys / "allowed_signers")
    try:
        shard.load(
            package.manifest,
            package.shards["ae-1"],
            node="ae-1",
            unix=NOW + 60,
            highest_serial=4,
            shared=package.shards[shard.SHARED],
        )
    except shard.ShardRefused as refusal:
        return str(refusal)
    return ""


def test_only_the_zone_is_wrong_with_a_forged_table(folder: LabFolder) -> None:
    keep_table(folder, ({"id": "no-sg", "between": [["ae"], ["kr"]], "forbid": ["sg"], "allow": None},))
    package = compliance.forge(folder, ("ae-1", "sg-1", "kr-1"))
    assert package.serial == 5
    reason = taken(folder, package)
    assert reason.startswith("zone") and "no-sg" in reason


def test_without_the_zone_a_relay_would_take_it(folder: LabFolder) -> None:
    keep_table(folder, ())
    assert taken(folder, compliance.forge(folder, ("ae-1", "sg-1", "kr-1"))) == ""


def test_a_zone_is_added_to_the_others_once(folder: LabFolder) -> None:
    before = {zone.id for zone in load(folder.inventory).zones}
    for _ in range(2):
        zone = compliance.forbid(folder, ("ae", "kr"), "sg")
    zones = [found for found in load(folder.inventory).zones if found.id == zone.id]
    assert len(zones) == 1 and zones[0].forbid == {"sg"}
    assert zones[0].between == (frozenset({"ae"}), frozenset({"kr"}))
    assert {found.id for found in load(folder.inventory).zones} == before | {zone.id}
