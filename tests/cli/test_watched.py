"""What is said of a run that did not come to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from commcli.cli.watched import tell
from commcli.errors import BadInput, LockHeld
from commcli.store.door import StoreBroken


class Recording:
    """What `tell` asks of one."""

    run, log = "R1", Path("/state/runs/R1.jsonl")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadInput("nodes.yaml:3: unknown region"), ""),  # no node was touched
        (StoreBroken("commcli.db: disk full"), "run R1: log /state/runs/R1.jsonl\n"),
        (LockHeld("busy"), "run R1: log /state/runs/R1.jsonl\n"),
    ],
)
def test_a_run_is_named_where_nodes_may_have_been_touched(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def act() -> Any:
        raise error

    with pytest.raises(type(error)):
        tell(cast(Any, Recording()), act, quiet=False)
    assert capsys.readouterr().err == said
