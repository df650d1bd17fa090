"""`relay.pyz ctl`: what is wrong with its words is not what is wrong with the relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.relay.__main__ import main


@pytest.mark.parametrize("arguments", ["{", "[]", "null", "drain", "[" * 60_000])
def test_arguments_that_are_no_json_object_are_wrong_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    assert main(["ctl", "--socket", str(tmp_path / "absent"), "drain", arguments]) == 2
    assert capsys.readouterr().err == "commcli-relay: the arguments are no JSON object\n"


def test_a_relay_that_is_not_there_gives_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ctl", "--socket", str(tmp_path / "absent"), "drain", "{}"]) == 4
    assert str(tmp_path / "absent") in capsys.readouterr().err
