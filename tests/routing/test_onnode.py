from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commcli.routing import onnode

FILES = {"manifest.json": "{}\n", "manifest.json.sig": "sig\n", "shard.json": "ü\n"}
DIGEST = hashlib.sha256(b"{}\n").hexdigest()


class FakeRelay:
    """A relay that reads `table/current` and `table/staged` when told to, and gives its verdict on table 5 after two
    more questions. `stages` False: one of before there were staged tables.
    """

    def __init__(
        self, folder: Path, *, serial: int | None = None, verdict: str | None = None, stages: bool = True
    ) -> None:
        self.folder, self.serial, self.stages = folder, serial, stages
        self.staged: int | None = None
        self.refused: str | None = None
        self.staged_refused: str | None = None
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
        table: dict[str, Any] = {"serial": self.serial, "refused": self.refused}
        if self.stages:
            table.update(staged=self.staged, staged_refused=self.staged_refused)
        return {"ok": True, "table": table}

    def _look(self) -> None:
        self.pending = False
        serial, self.refused = self._judge("current")
        self.serial = serial or self.serial
        self.staged, self.staged_refused = self._judge("staged")
        if self.staged is not None and self.staged <= (self.serial or 0):
            self.staged = None

    def _judge(self, link: str) -> tuple[int | None, str | None]:
        path = self.folder / link
        name = path.readlink().name if path.is_symlink() else None
        if name is None or not path.exists():
            return None, None
        return (None, self.verdict) if self.verdict is not None and name == "5" else (int(name), None)


def push(
    folder: Path, relay: Any, serial: int = 5, files: Mapping[str, str] | None = FILES, manifest: str = DIGEST
) -> onnode.Push:
    now = iter(range(10**6))
    return onnode.Push(
        folder,
        serial,
        files,
        manifest=manifest,
        ask=relay,
        wait_s=20,
        clock=lambda: next(now),
        sleep=lambda _: None,
    )


def install(folder: Path, relay: Any, **how: Any) -> dict[str, Any]:
    return push(folder, relay, **how).install()


def stage(folder: Path, relay: Any, **how: Any) -> dict[str, Any]:
    return push(folder, relay, **how).stage()


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


@pytest.mark.parametrize("where", ["table/5", "state/good"])
@pytest.mark.parametrize("verb", [install, stage])
def test_another_table_of_the_same_serial_is_not_taken_for_ours(folder: Path, where: str, verb: Any) -> None:
    place = folder.parent / where
    place.mkdir(parents=True)
    relay = FakeRelay(folder, serial=5)
    (place / "manifest.json").write_text("{}\n")
    assert verb(folder, relay)["state"] == "confirmed"
    (place / "manifest.json").write_text("theirs")
    answer = verb(folder, relay)
    assert (answer["state"], relay.asked) == ("failed", ["status"] * 2)
    assert "another table 5 is in force: somebody else publishes, too" in answer["reason"]


def test_nobody_else_pushes_before_the_verdict(folder: Path) -> None:
    class Meddled(FakeRelay):
        def __call__(self, word: str) -> Mapping[str, Any]:
            if word == "reload" and not self.asked.count("reload"):
                others.append(install(folder, FakeRelay(folder, serial=4), serial=6))
            return super().__call__(word)

    others: list[dict[str, Any]] = []
    assert install(folder, Meddled(folder, serial=4))["state"] == "confirmed"
    assert "another push is at work" in others[0]["reason"]


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
    assert (answer["state"], answer["serial"]) == ("failed", None)
    assert "another push is at work" in answer["reason"]
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]


def test_a_staged_table_is_held_ready_and_not_in_force(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    assert stage(folder, relay) == {"state": "confirmed", "serial": 5, "reason": ""}
    assert ((folder / "current").readlink(), (folder / "staged").readlink()) == (Path("4"), Path("5"))
    assert (relay.serial, relay.staged) == (4, 5)


def test_what_was_staged_comes_into_force_without_being_sent_again(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    stage(folder, relay)
    assert install(folder, relay, files=None) == {"state": "confirmed", "serial": 5, "reason": ""}
    assert sorted(p.name for p in folder.iterdir()) == ["4", "5", "current"]


@pytest.mark.parametrize("other", [{"manifest": "0" * 64}, {"serial": 6}])
def test_what_was_not_staged_must_be_sent(folder: Path, other: dict[str, Any]) -> None:
    relay = FakeRelay(folder, serial=4)
    stage(folder, relay)
    answer = install(folder, relay, files=None, **other)
    assert (answer["state"], relay.serial) == ("unstaged", 4)
    assert (folder / "current").readlink() == Path("4")


def test_staging_again_writes_nothing(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    stage(folder, relay)
    relay.asked.clear()
    assert stage(folder, relay) == {"state": "confirmed", "serial": 5, "reason": ""}
    assert relay.asked == ["status"]


def test_what_the_relay_will_not_hold_ready_does_not_stay(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4, verdict="expired: yesterday")
    assert stage(folder, relay) == {"state": "refused", "serial": 4, "reason": "expired: yesterday"}
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]


def test_a_refused_table_leaves_the_one_that_was_staged_before(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4, verdict="expired: yesterday")
    stage(folder, relay, serial=6)
    assert stage(folder, relay)["state"] == "refused"
    assert (folder / "staged").readlink() == Path("6")


def test_an_older_relay_is_left_as_it_is(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4, stages=False)
    assert stage(folder, relay)["state"] == "older"
    assert sorted(p.name for p in folder.iterdir()) == ["4", "current"]
    assert install(folder, relay)["state"] == "confirmed"


def test_what_is_in_force_already_is_not_staged(folder: Path) -> None:
    relay = FakeRelay(folder, serial=5)
    assert stage(folder, relay)["state"] == "confirmed"
    assert not (folder / "staged").is_symlink()


def test_a_newer_table_ends_an_older_staged_one(folder: Path) -> None:
    relay = FakeRelay(folder, serial=4)
    stage(folder, relay)
    install(folder, relay, serial=6)
    assert sorted(p.name for p in folder.iterdir()) == ["4", "5", "6", "current"]


def test_the_entry_answers_over_its_channel(tmp_path: Path) -> None:
    """Without a relay, which needs no more than the folder."""

    class Channel:
        def __init__(self) -> None:
            self.sent: list[Any] = []

        def send(self, message: Any) -> None:
            self.sent.append(message)

    channel = Channel()
    argument = {
        "base": str(tmp_path),
        "do": "install",
        "serial": 5,
        "files": FILES,
        "manifest": DIGEST,
        "wait_s": 1,
    }
    onnode.main(argument, channel)
    assert channel.sent[0]["state"] == "down"
