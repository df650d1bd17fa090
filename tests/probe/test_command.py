"""`commcli probe` as its users run it: one clear line and the documented exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet import samples


def commcli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inventory, state = samples.write(folder), folder / "state"
    for name in ("ssh/known_hosts", "secrets/turn"):
        (inventory / name).parent.mkdir(exist_ok=True)
        (inventory / name).write_text("x\n" if "turn" in name else "")
    options = ["--inventory", str(inventory), "--state", str(state)]
    return subprocess.run(
        [sys.executable, "-m", "commcli", "probe", *words, *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("call", "zz", "sg"), 2, "no market and no node is called 'zz'"),
        (
            ("call", "sg", "de", "--profile", "8k"),
            2,
            "no profile is called '8k' (known: hd, sd, audio, weak)",
        ),
        (("call", "sg", "br"), 3, "market br: none of its edges (br-1) is active"),
        (("call", "sg", "de"), 3, "no probe_python in the inventory"),
        (("mesh", "nowhere"), 3, "nowhere"),
        (("matrix", "sg", "zz"), 2, "no market is called 'zz'"),
        (("matrix", "sg"), 2, "a matrix needs two markets or more"),
        (("matrix", "sg", "de", "--budget", "soon"), 2, "--budget soon: must be a whole number"),
        (("matrix", "sg", "de", "--transport", "sctp"), 2, "no transport is called 'sctp'"),
        (("matrix", "--resume"), 3, "no matrix was left unfinished"),
        (("matrix", "--resume", "sg"), 2, "--resume goes on with what was asked for then"),
        (("edge", "zz"), 2, "no market and no node is called 'zz'"),
        (("edge", "sg", "--from", "zz"), 2, "no node is called 'zz'"),
    ],
)
def test_what_is_wrong_is_one_clear_line(
    tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    done = commcli(tmp_path, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_too(tmp_path: Path) -> None:
    done = commcli(tmp_path, "call", "zz", "sg", "--json")
    assert json.loads(done.stdout)["error"]["exit_code"] == 2
