from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commcli.relay.watched import WatchedJson


class _Reader:
    """A watched file, and what became of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.applied: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self._file = WatchedJson(path, self._apply)

    def _apply(self, content: dict[str, Any]) -> None:
        if "bad" in content:
            raise ValueError("bad content")
        self.applied.append(content)

    def poll(self) -> None:
        self._file.poll(lambda _event, **fields: self.refused.append(fields["reason"]))


@pytest.fixture
def reader(tmp_path: Path) -> _Reader:
    return _Reader(tmp_path / "peers.json")


def test_a_file_is_applied_once_and_again_when_it_changed(reader: _Reader) -> None:
    reader.poll()
    reader.path.write_text('{"a": 1}')
    reader.poll()
    reader.poll()
    reader.path.write_text('{"a": 1, "b": 2}')
    reader.poll()
    assert reader.applied == [{"a": 1}, {"a": 1, "b": 2}]
    assert reader.refused == []


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "{", '{"bad": 1}', "\udcff", "[" * 60_000],
    ids=["empty", "list", "cut", "bad", "no text", "deep"],
)
def test_a_bad_file_is_told_once_and_the_next_good_one_taken(reader: _Reader, text: str) -> None:
    reader.path.write_bytes(text.encode("utf-8", "surrogateescape"))
    reader.poll()
    reader.poll()
    assert len(reader.refused) == 1
    reader.path.write_text(json.dumps({"a": "now it is good"}))
    reader.poll()
    assert reader.applied == [{"a": "now it is good"}]


def test_a_file_that_could_not_be_read_for_a_moment_is_read_later(reader: _Reader) -> None:
    reader.path.mkdir()  # stands for any error of the system: even root can not read it
    reader.poll()
    assert len(reader.refused) == 1
    mark = reader.path.stat()
    reader.poll()
    assert len(reader.refused) == 2, f"given up at {mark}"
