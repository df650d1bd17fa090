from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.config import RelayConfig
from commcli.relay.table.files import TableFiles
from tests.relay.tables_on_disk import Signer, shard

IN_TIME = 1_768_000_000.0  # 2026-01-09
TOO_LATE = 1_800_000_000.0  # 2027


class _Node:
    """A node's folder and its TableFiles; every `step` waits for the verifying thread, not for a clock."""

    def __init__(self, base: Path) -> None:
        self.config = RelayConfig("ae-1", "192.0.2.1", 3478, (40000, 42000), "lab", base=base)
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.files = self.restarted()

    def restarted(self) -> TableFiles:
        self.files = TableFiles(self.config, lambda event, **fields: self.lines.append((event, fields)))
        return self.files

    def step(self, unix: float = IN_TIME) -> int | None:
        """Poll until what is on disk was judged; the serial now in force."""
        self.files.poll(unix)
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(10)
        self.files.poll(unix)
        return None if self.files.shard is None else self.files.shard.serial


@pytest.fixture
def node(tmp_path: Path) -> _Node:
    return _Node(tmp_path)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def test_no_table_is_no_trouble(node: _Node) -> None:
    assert node.files.start(IN_TIME) is None
    assert node.step() is None
    assert node.files.refused is None


def test_a_new_table_is_noticed(node: _Node, signer: Signer) -> None:
    node.files.start(IN_TIME)
    signer.push(shard(1))
    assert node.step() == 1
    signer.push(shard(2))
    assert node.step() == 2
    assert [fields["serial"] for event, fields in node.lines if event == "table_loaded"] == [1, 2]


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"serial": 4}, "serial"),
        ({"serial": 6, "expires": "2026-01-02T00:00:00Z"}, "expired"),
        ({"serial": 6, "node": "sg-1"}, "node"),
        ({"serial": 6, "routes": {"kr-1": {"primary": ["ae-1", "nowhere", "kr-1"]}}}, "path"),
        (
            {
                "serial": 6,
                "zones": [{"id": "z", "between": [["ae"], ["kr"]], "forbid": ["sg"], "allow": None}],
            },
            "zone",
        ),
    ],
)
def test_a_refused_table_leaves_the_last_good_one(
    node: _Node, signer: Signer, bad: dict[str, Any], word: str
) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(**bad))
    assert node.step() == 5
    assert node.files.refused is not None
    assert word in node.files.refused
    signer.push(shard(7))
    assert node.step() == 7
    assert node.files.refused is None


def test_a_changed_manifest_is_refused_also_after_a_restart(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6), spoil=True)
    assert node.step() == 5
    assert node.files.refused is not None and node.files.refused.startswith("signature")
    kept = node.restarted().start(IN_TIME)
    assert kept is not None and kept.serial == 5
    assert node.files.refused is not None and node.files.refused.startswith("signature")


def test_an_old_serial_is_refused_also_after_a_restart(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(4))
    kept = node.restarted().start(IN_TIME)
    assert kept is not None and kept.serial == 5
    assert node.files.refused is not None and node.files.refused.startswith("serial")


def test_a_table_in_force_outlives_its_expiry(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    assert node.step(TOO_LATE) == 5
    kept = node.restarted().start(TOO_LATE)
    assert kept is not None and kept.serial == 5
    assert node.files.refused is not None and node.files.refused.startswith("expired")


def test_the_signer_is_looked_for_under_the_configured_name(
    node: _Node, signer: Signer, tmp_path: Path
) -> None:
    signers = tmp_path / "etc/allowed_signers"
    signers.write_text(signers.read_text().replace("commcli-table ", "sre@example.org ", 1))
    signer.push(shard(5))
    assert node.files.start(IN_TIME) is None
    node.config = node.config._replace(principal="sre@example.org")
    loaded = node.restarted().start(IN_TIME)
    assert loaded is not None and loaded.serial == 5


def staged(node: _Node) -> int | None:
    return None if node.files.staged is None else node.files.staged.serial


def test_a_staged_table_is_held_ready_until_it_is_in_force(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6), link="staged")
    assert (node.step(), staged(node)) == (5, 6)
    assert ("table_staged", {"serial": 6}) in node.lines
    signer.push(shard(6))
    assert (node.step(), staged(node)) == (6, None)
    node.files.look_again()
    assert (node.step(), node.step(), staged(node)) == (6, 6, None), "the link may outlive the push"


def test_a_staged_table_can_be_withdrawn(node: _Node, signer: Signer, tmp_path: Path) -> None:
    node.files.start(IN_TIME)
    signer.push(shard(6), link="staged")
    assert (node.step(), staged(node)) == (None, 6)
    (tmp_path / "table/staged").unlink()
    assert (node.step(), staged(node)) == (None, None)


def test_a_staged_table_is_found_after_a_restart(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    signer.push(shard(6), link="staged")
    node.restarted().start(IN_TIME)
    assert (node.step(), staged(node)) == (5, 6)


def test_a_bad_staged_table_is_refused_and_takes_nothing_away(node: _Node, signer: Signer) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6), link="staged", spoil=True)
    assert (node.step(), staged(node), node.files.refused) == (5, None, None)
    assert node.files.staged_refused is not None and node.files.staged_refused.startswith("signature")
    signer.push(shard(4), link="staged")
    assert (node.step(), staged(node)) == (5, None)
    assert node.files.staged_refused.startswith("serial")
    signer.push(shard(7), link="staged")
    assert (node.step(), staged(node)) == (5, 7)
    refused: str | None = node.files.staged_refused
    assert refused is None


def test_a_key_that_is_taken_out_takes_the_staged_table_along(
    node: _Node, signer: Signer, tmp_path: Path
) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6), link="staged")
    assert (node.step(), staged(node)) == (5, 6)
    (tmp_path / "etc/allowed_signers").write_text("")
    node.step()
    node.step()
    assert (staged(node), node.files.shard is not None) == (None, True), "what is in force stays"


def test_a_truncated_shard_is_refused(node: _Node, signer: Signer, tmp_path: Path) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6))
    path = tmp_path / "table/6/shard.json"
    path.write_bytes(path.read_bytes()[:100])
    assert node.step() == 5
    assert node.files.refused is not None and node.files.refused.startswith("hash")


def test_a_refused_table_does_not_take_the_place_of_the_good_one_however_often_we_restart(
    node: _Node, signer: Signer
) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    signer.push(shard(6), spoil=True)
    for _ in range(3):
        kept = node.restarted().start(IN_TIME)
        assert kept is not None and kept.serial == 5


@pytest.mark.parametrize("lost", ["unlink", "garbage", "older"])
def test_a_lost_serial_opens_no_way_back(node: _Node, signer: Signer, tmp_path: Path, lost: str) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    written = tmp_path / "state/serial"
    if lost == "unlink":
        written.unlink()
    else:
        written.write_bytes(b"\xff\0" if lost == "garbage" else b"2\n")
    signer.push(shard(4))
    kept = node.restarted().start(IN_TIME)
    assert kept is not None and kept.serial == 5
    assert node.files.refused is not None and node.files.refused.startswith("serial")


def test_a_lost_good_copy_opens_no_way_back(node: _Node, signer: Signer, tmp_path: Path) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    (tmp_path / "state/good").unlink()
    signer.push(shard(4))
    assert node.restarted().start(IN_TIME) is None
    signer.push(shard(6))
    assert node.step() == 6


def test_a_state_folder_that_takes_nothing_stops_nothing_and_opens_no_way_back(
    node: _Node, signer: Signer, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file is in the way")
    signer.push(shard(5))
    node.files.start(IN_TIME)
    assert "table_not_kept" in [event for event, _ in node.lines]
    signer.push(shard(4))
    assert node.step() == 5
    assert node.files.refused is not None and node.files.refused.startswith("serial")
    signer.push(shard(6))
    assert node.step() == 6


def test_what_is_kept_is_what_was_verified(node: _Node, signer: Signer, tmp_path: Path) -> None:
    """Another push moves `current` on while the table is being judged."""
    signer.push(shard(5))
    verdict = node.files._check("table/current", IN_TIME, 0)
    signer.push(shard(6), spoil=True)
    node.files._keep(verdict)
    kept = node.restarted().start(IN_TIME)
    assert kept is not None and kept.serial == 5
    assert (tmp_path / "state/good/manifest.json").read_bytes() == (
        tmp_path / "table/5/manifest.json"
    ).read_bytes()


def test_without_any_table_folder_the_kept_one_is_used(node: _Node, signer: Signer, tmp_path: Path) -> None:
    signer.push(shard(5))
    node.files.start(IN_TIME)
    (tmp_path / "table/current").unlink()
    kept = node.restarted().start(IN_TIME)
    assert kept is not None and kept.serial == 5


def test_a_loop_of_links_is_refused_and_the_next_table_taken(
    node: _Node, signer: Signer, tmp_path: Path
) -> None:
    signer.push(shard(5))
    (tmp_path / "state").mkdir()
    (tmp_path / "table/5/shard.json").unlink()
    (tmp_path / "table/5/shard.json").symlink_to("shard.json")
    assert node.files.start(IN_TIME) is None
    assert node.files.refused is not None
    signer.push(shard(6))
    assert node.step() == 6


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig", "shard.json"])
def test_a_pipe_in_a_file_s_place_is_refused_and_the_next_table_is_read(
    name: str, node: _Node, signer: Signer
) -> None:
    signer.push(shard(1))
    node.files.start(IN_TIME)
    signer.push(shard(2))
    pipe = node.config.path("table/current") / name
    pipe.unlink()
    os.mkfifo(pipe)
    assert node.step() == 1
    assert node.files.refused == f"{name} is not a file"
    signer.push(shard(3))
    assert node.step() == 3
