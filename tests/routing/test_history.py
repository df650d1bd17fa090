from __future__ import annotations

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
