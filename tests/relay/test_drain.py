from __future__ import annotations

from pathlib import Path

import pytest

from commcli.relay.process.drain import Drain


def test_done_at_the_threshold_and_only_while_it_drains() -> None:
    drain = Drain(None)
    assert not drain.done(0)
    drain.begin(5, False, 100.0)
    assert [drain.done(left) for left in (6, 5, 0)] == [False, True, True]
    drain.end()
    assert not drain.done(0)
    assert drain.document() is None


def test_to_ask_again_moves_the_aim_and_not_the_start() -> None:
    drain = Drain(None)
    drain.begin(5, False, 100.0)
    drain.begin(0, True, 200.0)
    assert drain.document() == {"sessions": 0, "stop": True, "since_unix": 100.0}


def test_a_restart_stays_drained_and_does_not_stop_again(tmp_path: Path) -> None:
    file = tmp_path / "state/drain"
    assert not Drain(file).restore(0)
    assert Drain(file).begin(7, True, 100.0) is None
    again = Drain(file)
    assert again.restore(0)
    assert again.document() == {"sessions": 7, "stop": False, "since_unix": 100.0}
    assert again.end() is None
    assert not Drain(file).restore(0)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b"[" * 60_000, b'{"sessions": -1}', b'{"sessions": true}']
)
def test_whatever_became_of_the_file_it_says_drained(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "drain").write_bytes(content)
    drain = Drain(tmp_path / "drain")
    assert drain.restore(3)
    assert drain.document() == {"sessions": 3, "stop": False, "since_unix": None}


def test_what_can_not_be_kept_still_holds(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    drain = Drain(tmp_path / "state/drain")
    assert str(tmp_path) in (drain.begin(0, False, 1.0) or "")
    assert drain.on
    drain.end()
    assert not drain.on
