from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.routing import history
from commcli.routing import table as tables
from commcli.routing.history import StoreJournal, situation
from commcli.routing.publish import Package
from commcli.store.sqlite import Store
from tests.routing.worlds import decision


def package(serial: int) -> Package:
    encoded = tables.encode(decision(serial=serial).table)
    return Package(serial, encoded.manifest, "sig", encoded.shards)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "db")


def written(store: Store, *statuses: str) -> None:
    """Tables 1, 2, ... with these statuses; "publishing" is one whose rollout never came to its end."""
    with store:
        for serial, status in enumerate(statuses, 1):
            journal = StoreJournal(store)
            journal.intend(package(serial), {})
            if status != "publishing":
                journal.settle(serial, status, {})


@pytest.mark.parametrize(
    ("statuses", "in_force", "unfinished"),
    [
        ((), None, ()),
        (("publishing",), None, (1,)),
        (("published",), 1, ()),
        (("published", "partial"), 2, ()),
        (("published", "rolled-back", "published"), 3, ()),
        (("published", "rolled-back"), 1, ()),
        (("published", "interrupted", "publishing"), 1, (3, 2)),
        (("publishing", "published"), 2, ()),
        (("published", "unreached"), 1, ()),
    ],
)
def test_what_is_in_force(
    tmp_path: Path, statuses: tuple[str, ...], in_force: int | None, unfinished: tuple[int, ...]
) -> None:
    written(Store(tmp_path / "db"), *statuses)
    with Store(tmp_path / "db") as store:
        found = situation(store)
    assert (found.in_force.serial if found.in_force else None) == in_force
    assert found.unfinished == unfinished
    assert found.latest_serial == len(statuses)


def test_which_serial_is_in_force_is_known_though_the_table_is_damaged(tmp_path: Path) -> None:
    written(Store(tmp_path / "db"), "published", "publishing")
    with closing(sqlite3.connect(tmp_path / "db")) as db, db:
        db.execute("UPDATE shards SET body = x'7b7d' WHERE serial = 1")
    with Store(tmp_path / "db") as store:
        assert history.serial_in_force(store) == 1
        with pytest.raises(BadInput, match="not the one that was signed"):
            situation(store)


def test_a_kept_table_comes_back_whole(tmp_path: Path) -> None:
    written(Store(tmp_path / "db"), "published")
    with Store(tmp_path / "db") as store:
        assert history.kept(store, 1).same_routing(decision().table)
        with pytest.raises(BadInput, match="serial 7"):
            history.kept(store, 7)


def test_the_table_before(tmp_path: Path) -> None:
    written(Store(tmp_path / "db"), "published", "rolled-back", "partial", "published")
    with Store(tmp_path / "db") as store:
        assert history.before(store, 4) == 3
        assert history.before(store, 3) == 1
        with pytest.raises(BadInput, match="before serial 1"):
            history.before(store, 1)


@pytest.mark.parametrize(
    ("statuses", "backs", "serial"),
    [
        ((), {}, None),
        (("published",), {}, None),
        (("published", "rolled-back"), {}, 2),
        (("published", "rolled-back", "published"), {3: 2}, 2),
        (("published", "rolled-back", "partial"), {3: 2}, 2),
        (("published", "rolled-back", "published"), {}, None),
        (("published", "rolled-back", "published", "published"), {3: 2}, None),
        # Killed on the way back: the stop itself was not recorded.
        (("published", "publishing", "publishing"), {3: 2}, 2),
    ],
)
def test_the_last_rollout_was_stopped(
    tmp_path: Path, statuses: tuple[str, ...], backs: dict[int, int], serial: int | None
) -> None:
    written(Store(tmp_path / "db"), *statuses)
    with Store(tmp_path / "db") as store:
        for back, of in backs.items():
            store.set_table_status(back, statuses[back - 1], {"rollback_of": of})
        row = history.stopped(store)
    assert (row and row["serial"]) == serial


def test_a_person_went_back_until_somebody_publishes_again(tmp_path: Path) -> None:
    with Store(tmp_path / "db") as store:
        assert history.went_back(store) is None
        for serial, detail in ((1, {}), (2, {"routes_of": 1})):
            StoreJournal(store).intend(package(serial), detail)
        found = history.went_back(store)
        assert found is not None
        assert (found["serial"], found["detail"]["routes_of"]) == (2, 1)
        StoreJournal(store).intend(package(3), {})
        assert history.went_back(store) is None


@pytest.mark.parametrize(
    ("rows", "serial"),
    [
        ([("published", {}), ("published", {})], 1),
        # Broken off with Ctrl-C: what is to go is what never was in force.
        ([("published", {}), ("published", {}), ("interrupted", {})], 2),
        # Twice back is two back, not forth again.
        ([("published", {}), ("published", {}), ("published", {}), ("published", {"routes_of": 2})], 1),
        ([("published", {}), ("published", {}), ("rolled-back", {}), ("published", {"rollback_of": 3})], 1),
    ],
)
def test_where_a_way_back_leads(tmp_path: Path, rows: list[tuple[str, dict[str, int]]], serial: int) -> None:
    with Store(tmp_path / "db") as store:
        for number, (status, detail) in enumerate(rows, 1):
            StoreJournal(store).intend(package(number), {})
            StoreJournal(store).settle(number, status, detail)
        assert history.way_back(store) == serial


def test_an_emptied_record_knows_of_no_way_back(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "db") as store,
        pytest.raises(BadInput, match="no table is in force by this record"),
    ):
        history.way_back(store)


def test_there_is_no_way_back_from_the_first_routes(tmp_path: Path) -> None:
    with Store(tmp_path / "db") as store:
        for number, detail in ((1, {}), (2, {}), (3, {"routes_of": 1})):
            StoreJournal(store).intend(package(number), detail)
            StoreJournal(store).settle(number, "published", detail)
        with pytest.raises(BadInput, match="no table before serial 1 is kept"):
            history.way_back(store)
