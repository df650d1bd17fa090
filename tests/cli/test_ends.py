"""How a command line ends: stopped early, its reader gone, its output full, a bug; each with its code and one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commcli.cli import output

# A command line of which only the verb is made up: `act` is what `audit list` does.
PROGRAM = """
import os, signal, sys
from commcli import __main__
from commcli.store.sqlite import Store

def act(*_):
    {act}

Store.audits = act
sys.argv[0] = "commcli"
__main__.main()
"""


def commcli(act: str, *options: str, state: Path, **streams: object) -> subprocess.CompletedProcess[str]:
    """Run `commcli audit list` in a process of its own, its work being `act`."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", PROGRAM.format(act=act), "audit", "list", "--state", str(state), *options],
        text=True,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@pytest.mark.parametrize(
    "number, code, line", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]
)
def test_a_stop_is_one_line_or_one_document(number: int, code: int, line: str, tmp_path: Path) -> None:
    act = f"signal.raise_signal({number})"
    plain = commcli(act, state=tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr) == (code, "", f"{line}\n")
    error = json.loads(commcli(act, "--json", state=tmp_path).stdout)["error"]
    assert (error["exit_code"], error["messages"]) == (code, [line])


def test_a_background_job_of_a_script_ends_by_sigterm(tmp_path: Path) -> None:
    """A shell without job control starts it with SIGINT ignored."""
    act = "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.raise_signal(signal.SIGTERM)"
    done = commcli(act, state=tmp_path)
    assert (done.returncode, done.stderr) == (143, "ended by SIGTERM\n")


def test_a_stop_while_the_program_loads_waits_until_it_can_be_answered(tmp_path: Path) -> None:
    loading = (
        "import os, signal, sys\n"
        "from commcli import __main__\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'commcli.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "__main__.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", loading, "health", "check", "--plugin"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "UNKNOWN - interrupted\n", "")


def test_what_comes_after_two_dashes_is_the_command_of_somebody_else(tmp_path: Path) -> None:
    done = commcli("return []", "--", "--plugin", "--json", state=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "unexpected extra argument" in done.stderr


def test_bytes_that_are_no_text_are_wrong_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "commcli", "runs", "show", os.fsdecode(b"f\xfcr"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["messages"] == ["argument 'f\\udcfcr': is not UTF-8 text"]


def test_a_bug_is_a_document_too(tmp_path: Path) -> None:
    done = commcli("raise ZeroDivisionError('s3cret')", "--json", state=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"], error["kind"]) == (70, 70, "bug")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_who_left_changes_nothing(options: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = commcli("return []", *options, state=tmp_path, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["--help"], ["relay", "serve", "--help"], ["--version"]])
def test_a_reader_of_the_help_who_left_changes_nothing_either(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "commcli", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("act", ["return []", "signal.raise_signal(2)"])
def test_an_answer_that_is_lost_is_said(act: str, options: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = commcli(act, *options, state=tmp_path, stdout=full)
    if act == "return []" or options:
        assert done.returncode == 3
        assert done.stderr == "stdout: No space left on device: the answer is lost\n"
    else:
        assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_closed_streams_are_not_the_database(tmp_path: Path) -> None:
    line = PROGRAM.format(act="print('to stdout'); return []")
    shell = f'exec {sys.executable} -c "$1" audit list --json --state {tmp_path} <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, "sh", line], check=False)
    assert done.returncode == 0
    assert (tmp_path / "commcli.sqlite3").read_bytes().startswith(b"SQLite format 3")


def test_a_broken_off_change_names_the_nodes_that_it_was_at(capsys: pytest.CaptureFixture[str]) -> None:
    for busy, said in (
        ({"sg-1": "table 7", "ae-1": "table 7"}, "not known how far: ae-1 (table 7), sg-1 (table 7). "),
        ({}, ""),
    ):
        with pytest.raises(KeyboardInterrupt), output.naming_unknowns(busy):
            raise KeyboardInterrupt
        assert capsys.readouterr().err.startswith(said)
