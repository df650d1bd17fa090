"""`commcli fleet`: data on stdout, talk on stderr, and the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commcli.cli import execute
from tests.fleet import samples


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document: dict[str, Any] = json.loads(self.out)
        return document


class Commcli:
    """`commcli fleet …` on the sample inventory, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Answer:
        code = execute(["fleet", *arguments, "--inventory", str(self.folder)])
        said = self._capsys.readouterr()
        return Answer(code, said.out, said.err)


@pytest.fixture
def commcli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commcli:
    return Commcli(samples.write(tmp_path), capsys)


def test_list_draws_one_line_a_node(commcli: Commcli) -> None:
    answer = commcli("list")
    assert (answer.code, answer.err) == (0, "")
    head, *rows, foot = answer.out.splitlines()
    assert head.split() == [
        "node",
        "region",
        "city",
        "country",
        "address",
        "state",
        "provider",
        "markets",
        "tags",
    ]
    assert [row.split()[0] for row in rows] == ["sg-1", "de-1", "de-2", "br-1"]
    assert foot.strip() == "sample: 4 nodes"
    assert "\x1b" not in answer.out, "no colour into a pipe"


def test_list_takes_a_selector(commcli: Commcli) -> None:
    answer = commcli("list", "region:fra,!drain")
    assert [line.split()[0] for line in answer.out.splitlines()[1:-1]] == ["de-1"]
    assert answer.out.splitlines()[-1].strip() == "sample: 1 of 4 nodes"


def test_list_as_json(commcli: Commcli) -> None:
    answer = commcli("list", "tag:hub", "--json")
    assert (answer.code, answer.document["schema"], answer.document["kind"]) == (0, 1, "fleet.list")
    assert [node["id"] for node in answer.document["nodes"]] == ["sg-1", "de-1"]


def test_a_selector_that_names_nobody(commcli: Commcli) -> None:
    answer = commcli("list", "region:sgb")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == 'selector "region:sgb": unknown region "sgb"; did you mean "sgp"?\n'


def test_show(commcli: Commcli) -> None:
    answer = commcli("show", "br-1")
    assert (answer.code, answer.err) == (0, "")
    for text in (
        "br-1 (no-transit)",
        "Sao Paulo, br",
        "ops@10.0.0.4:2022 by way of ops@bastion.test:22",
        "contract",
    ):
        assert text in answer.out
    assert commcli("show", "br-1", "--json").document["node"]["ssh"]["port"] == 2022


def test_show_of_an_unknown_node(commcli: Commcli) -> None:
    answer = commcli("show", "br1")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == 'unknown node "br1"; did you mean "br-1"?\n'


def test_check_of_a_good_inventory(commcli: Commcli) -> None:
    answer = commcli("check")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("ok  sample: 3 regions, 4 nodes, 4 markets, 2 zones, 1 secrets")
    assert "warn  market br: only br-1 takes its calls" in answer.out
    assert commcli("check", "--quiet").out == ""


def test_check_of_a_bad_inventory_tells_all_of_it(commcli: Commcli, tmp_path: Path) -> None:
    samples.write(
        tmp_path,
        *("nodes.yaml", "region: fra", "region: frb"),
        fleet=samples.FILES["fleet.yaml"].replace("{file: secrets/turn}", "hunter2"),
    )
    answer = commcli("check")
    assert (answer.code, answer.out) == (3, "")
    first, *nodes = answer.err.splitlines()
    assert first.startswith(f"{commcli.folder}/fleet.yaml:8: secrets: turn stands here in the clear")
    assert nodes == [
        f'{commcli.folder}/nodes.yaml:{line}: node {node}: unknown region "frb"; did you mean "fra"?'
        for line, node in ((5, "de-1"), (6, "de-2"))
    ]
    assert "hunter2" not in answer.err


def test_errors_as_json(commcli: Commcli) -> None:
    (commcli.folder / "zones.yaml").write_text("zones: [\n")
    answer = commcli("list", "--json")
    assert answer.code == 3
    assert answer.document["error"]["exit_code"] == 3
    (message,) = answer.document["error"]["messages"]
    assert message.startswith(f"{commcli.folder}/zones.yaml:2: broken YAML: ")


def test_no_inventory(commcli: Commcli) -> None:
    commcli.folder = commcli.folder / "nowhere"
    answer = commcli("list")
    assert answer.code == 3
    assert answer.err.splitlines()[0] == f"{commcli.folder}: no such inventory"


@pytest.mark.parametrize("arguments", [["list", "all", "too-many"], ["show"], ["list", "--jsn"], ["lst"]])
def test_wrong_use(commcli: Commcli, arguments: list[str]) -> None:
    answer = commcli(*arguments)
    assert (answer.code, answer.out) == (2, "")


def test_names_that_look_like_markup_are_only_names(commcli: Commcli, tmp_path: Path) -> None:
    samples.write(tmp_path, "regions.yaml", "city: Sao Paulo", 'city: "[bold]Sao[/nope] Paulo"')
    for arguments in (["list"], ["show", "br-1"]):
        answer = commcli(*arguments)
        assert (answer.code, answer.err) == (0, "")
        assert "[bold]Sao[/nope]" in answer.out


def test_from_the_shell_with_paths_as_typed_and_nothing_heavy(tmp_path: Path) -> None:
    samples.write(tmp_path, "nodes.yaml", "region: sgp", "region: sgb")
    code = (
        "import sys; from commcli.cli import execute; code = execute(sys.argv[1:])\n"
        "heavy = {'asyncssh', 'numpy', 'aiortc', 'av', 'httpx', 'cryptography', 'jinja2'} & set(sys.modules)\n"
        "print(code, sorted(heavy))"
    )
    environment = {key: os.environ[key] for key in ("PATH",) if key in os.environ} | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "fleet", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == 'inventory/nodes.yaml:4: node sg-1: unknown region "sgb"; did you mean "sgp"?\n'
    assert done.stdout == "3 []\n"
