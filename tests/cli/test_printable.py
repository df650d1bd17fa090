"""What others say is shown, and steers no terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.cli import output
from commcli.errors import OutOfReach
from commcli.report.printable import printable, printable_document

EVIL = "\x1b]0;owned\x07\x1b[2J\u202egood\x9b1m"


@given(st.text())
def test_nothing_but_lines_and_tabs_is_left_of_control(text: str) -> None:
    shown = printable(text)
    assert {c for c in shown if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert len(shown) == len(text)
    assert printable(shown) == shown


def test_a_document_is_printable_through_and_through() -> None:
    shown = printable_document({"a\x1b": [EVIL, {"b": (EVIL, 1, None, True)}]})
    assert shown == {
        "a?": ["?]0;owned???[2J?good?1m".replace("???", "??"), {"b": [printable(EVIL), 1, None, True]}]
    }


def test_errors_and_answers_reach_the_terminal_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_error(OutOfReach(f"de-1: {EVIL}", hint=EVIL), as_json=False)
    row = {
        "node": EVIL,
        "region": EVIL,
        "country": "de",
        "address": EVIL,
        "state": EVIL,
        "markets": [EVIL],
        "tags": [],
    }
    document = {"schema": 1, "kind": "fleet.list", "fleet": EVIL, "nodes": [row]}
    output.emit_error(OutOfReach(EVIL), as_json=True)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x9b" not in said.out + said.err
    assert json.loads(said.out)["error"]["messages"] == [EVIL]
    assert "\x1b" not in json.dumps(printable_document(document))
