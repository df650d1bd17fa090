"""`health check` on real hosts over real SSH, relays and all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.cli import execute
from commcli.fleet.loader import load
from commcli.lab.folder import LabFolder, Record
from tests.health.test_facts import STATUS, Relayish

Lab = tuple[LabFolder, Record]


@pytest.fixture
def answering(lab: Lab) -> Iterator[None]:
    """Every node of the lab has something that answers like a relay."""
    nodes = load(lab[0].inventory).nodes.values()
    peers = {"peers": {}, "version": _version()}
    relays = [Relayish(_base(node.base, lab[0], node.id), _line({**STATUS, **peers})) for node in nodes]
    yield
    for relay in relays:
        relay.stop()


def _version() -> str:
    from commcli import __version__

    return __version__


def _base(base: str, folder: LabFolder, node: str) -> Path:
    path = Path(base) if Path(base).is_relative_to(folder.path) else folder.root(node) / base.lstrip("/")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"


def check(lab: Lab, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = execute(["health", "check", "--inventory", str(lab[0].inventory), "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def verdicts(doc: dict[str, Any], check: str) -> dict[str, str]:
    return {
        row["node"]: finding["reason"]
        for row in doc["nodes"]
        for finding in row["findings"]
        if finding["check"] == check
    }


def test_nodes_without_a_relay_fail_and_say_so(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code, doc = check(lab, capsys)
    assert code == 1
    assert doc["counts"] == {"ok": 0, "warn": 0, "fail": 3, "unreachable": 0}
    assert {reason[:9] for reason in verdicts(doc, "relay").values()} == {"relay not"}
    [cause] = [cause for cause in doc["causes"] if cause["check"] == "relay" and cause["verdict"] == "fail"]
    assert len(cause["nodes"]) >= 1


@pytest.mark.usefixtures("answering")
def test_a_healthy_lab(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code, doc = check(lab, capsys)
    assert code == 0, doc["causes"]
    for row in doc["nodes"]:
        assert row["facts"]["relay"]["serial"] == 4
        clock = row["facts"]["clock"]
        # One machine has one clock, so the truth is known: 0.
        assert abs(clock["offset_s"]) <= clock["uncertainty_s"]


@pytest.mark.usefixtures("answering")
def test_one_node_away_does_not_hide_the_others(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    inventory = lab[0].inventory
    nodes = (inventory / "nodes.yaml").read_text()
    address = load(inventory).nodes["kr-1"].ssh.host
    # Nobody listens there: the lab's addresses end at .3.
    (inventory / "nodes.yaml").write_text(nodes.replace(address, address.rpartition(".")[0] + ".99"))
    code, doc = check(lab, capsys)
    assert code == 4, doc["causes"]
    assert doc["counts"]["unreachable"] == 1
    assert [(row["node"], row["state"]) for row in doc["nodes"]][-1] == ("kr-1", "unreachable")
    assert verdicts(doc, "reach")["kr-1"].startswith("unreachable: ")


@pytest.mark.usefixtures("answering")
def test_plugin_line(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code = execute(["health", "check", "--inventory", str(lab[0].inventory), "--plugin"])
    line = capsys.readouterr().out
    assert line.startswith(("OK - ", "WARNING - ")[code])
    assert line.count("\n") == 1
