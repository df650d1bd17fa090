from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commcli.routing import onnode

FILES = {"manifest.json": "{}\n", "manifest.json.sig": "sig\n", "shard.json": "ü\n"}


class FakeRelay:
    """A relay that reads `table/current` when told to, and gives its verdict after `slow` more questions."""

    def __init__(self, folder: Path, *, serial: int | None = None, verdict: str | None = None) -> None:
        self.folder, self.serial = folder, serial
        self.refused: str | None = None
        self.verdict, self.slow, self.asked = verdict, 2, list[str]()
        self.pending = False

    def __call__(self, word: str) -> Mapping[str, Any]:
        self.asked.append(word)
        if word == "reload":
            self.pending, self.slow = True, 2
        elif self.pending:
            self.slow -= 1
            if self.slow <= 0:
                self._look()
        return {"ok": True, "table": {"serial": self.serial, "refused": self.refused}}

    def _look(self) -> None:
        self.pending = False
        current = self.folder / "current"
        name = current.readlink().name if current.is_symlink() else None
        self.refused = None
        if name is not None and self.verdict is not None and name == "5":
            self.refused = self.verdict
        elif name is not None:
            self.serial = int(name)


def install(folder: Path, relay: Any, serial: int = 5, files: Mapping[str, str] = FILES) -> dict[str, Any]:
    now = iter(range(10**6))
    return onnode.install(
        folder, serial, files, ask=relay, wait_s=20, clock=lambda: next(now), sleep=lambda _: None
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's table folder with table 4 in force."""
    table = tmp_path / "table"
    (table / "4").mkdir(parents=True)
    (table / "current").symlink_to("4")
    return table


def test_a_table_comes_into_force(folder: Path) -> None:
    answer = install(folder, FakeRelay(folder, serial=4))
    assert answer == {"state": "confirmed", "serial": 5, "reason": ""}
    assert (folder / "current").readlink() == Path("5")
    assert {p.name: p.read_text("utf-8") for p in (folder / "5").iterdir()} == FILES
    assert sorted(p.name for p in folder.iterdir()) == ["4", "5", "current"]
    assert stat.S_IMODE((folder / "5" / "shard.json").stat().st_mode) == 0o644


def test_the_first_table_of_a_node(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    assert install(folder, FakeRelay(folder))["state"] == "confirmed"
    assert (folder / "current").readlink() == Path("5")


def test_what_the_relay_refuses_does_not_stay(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4, verdict="zone: backup breaks z")
    answer = install(folder, relay)
    assert answer == {"state": "refused", "serial": 4, "reason": "zone: backup breaks z"}
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]
    assert (folder / "current").readlink() == Path("4")
    assert relay.asked[-1] == "reload"


def test_a_refused_first_table_leaves_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "table"
    assert install(folder, FakeRelay(folder, verdict="signature: none"))["state"] == "refused"
    assert list(folder.iterdir()) == []


def test_a_stale_refusal_is_not_taken_for_the_verdict(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    relay.refused = "expired: table 3"
    assert install(folder, relay)["state"] == "confirmed"


def test_the_same_refusal_again_is_believed_in_the_end(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4, verdict="expired")
    relay.refused = "expired"
    assert install(folder, relay) == {"state": "refused", "serial": 4, "reason": "expired"}


def test_pushing_again_what_is_in_force_touches_nothing(folder: Path) -> None:
    relay = FakeRelay(folder, serial=5)
    assert install(folder, relay)["state"] == "confirmed"
    assert relay.asked == ["status"]
    assert not (folder / "5").exists()


def test_a_broken_off_push_is_replaced(folder: Path) -> None:
    (folder / "5").mkdir()
    (folder / "5" / "shard.json").write_text("half")
    (folder / ".5.99").mkdir()
    assert install(folder, FakeRelay(folder, serial=4))["state"] == "confirmed"
    assert (folder / "5" / "shard.json").read_text("utf-8") == "ü\n"
    assert not (folder / ".5.99").exists()


def test_only_the_newest_tables_are_kept(folder: Path) -> None:
    for serial in (1, 2, 3):
        (folder / str(serial)).mkdir()
    install(folder, FakeRelay(folder, serial=4))
    assert sorted(p.name for p in folder.iterdir()) == ["2", "3", "4", "5", "current"]


def test_without_a_relay_nothing_is_touched(folder: Path) -> None:
    def nobody(word: str) -> Mapping[str, Any]:
        raise ConnectionRefusedError("nobody there")

    answer = install(folder, nobody)
    assert answer["state"] == "down"
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]


def test_a_relay_that_never_comes_to_an_end(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    relay._look = lambda: None  # type: ignore[method-assign]  # a relay whose verifier hangs
    answer = install(folder, relay)
    assert (answer["state"], answer["serial"]) == ("failed", 4)
    assert "no word" in answer["reason"]


def test_a_full_disk_leaves_the_old_table_and_no_rubbish(folder: Path) -> None:
    # A name too long stands for the disk's no: it too comes in the middle of writing.
    answer = install(folder, FakeRelay(folder, serial=4), files={**FILES, "x" * 300: ""})
    assert (answer["state"], answer["serial"]) == ("failed", 4)
    assert answer["reason"].endswith("File name too long")
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]
    assert (folder / "current").readlink() == Path("4")


def test_two_pushes_at_once_do_not_mix(folder: Path) -> None:
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        answer = install(folder, FakeRelay(folder, serial=4))
    finally:
        os.close(handle)
    assert (answer["state"], answer["serial"]) == ("failed", 4)
    assert "another push is at work" in answer["reason"]
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]


def test_the_entry_answers_over_its_channel(tmp_path: Path) -> None:
    """Without a relay, which needs no more than the folder."""

    class Channel:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def send(self, message: Any) -> None:
            self.sent.append(message)

    channel = Channel()
    onnode.main({"base": str(tmp_path), "serial": 5, "files": FILES, "wait_s": 1}, channel)
    assert channel.sent[0]["state"] == "down"
