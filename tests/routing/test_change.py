"""A change that finds nobody to publish to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from commcli.errors import AnswerBad, CommcliError, OutOfReach, Refused
from commcli.fleet.model import Node
from commcli.remote.outcome import Failed, Unreachable
from commcli.remote.ssh import Pool
from commcli.routing.change import Change
from commcli.store.sqlite import Store
from tests.routing import worlds


class Deaf:
    """A pool without one connection: the first nodes' own errors, then connections refused."""

    def __init__(self, errors: Mapping[str, CommcliError]) -> None:
        self._errors = errors

    async def connect(self, node: Node) -> Any:
        raise self._errors.get(node.id, Unreachable("connection refused"))


@pytest.mark.parametrize(
    "error, ends_in",
    [
        (Unreachable("no route"), OutOfReach),
        (Failed("no python3 on the node"), AnswerBad),
        (Refused("host key has changed"), Refused),
    ],
)
async def test_nobody_answers_and_the_gravest_reason_is_told(
    error: CommcliError, ends_in: type[CommcliError], tmp_path: Path
) -> None:
    fleet = worlds.small_fleet()
    last = list(fleet.nodes)[-1]
    pool = cast(Pool, Deaf({last: error}))
    with Store(tmp_path / "db") as store, pytest.raises(CommcliError) as caught:
        await Change("route apply", fleet, store, pool).look(on_event=lambda event: None)
    assert type(caught.value) is ends_in
    if ends_in is not OutOfReach:
        assert f"{last}: " in str(caught.value)
        assert str(error) in str(caught.value)
