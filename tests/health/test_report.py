"""The drawing holds what the document says."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from commcli.health.answer import document
from commcli.health.facts import Disk, Load
from commcli.health.judge import Limits
from commcli.report.health import DRAW
from tests.health.nodes import FLEET, GIB, HEALTHY, VERSION, away, node

LIMPING = replace(HEALTHY, disk=Disk(GIB // 2, GIB), load=Load(9.5, 2))


def drawn(width: int = 100) -> str:
    nodes = [node(name) for name in ("ae-1", "sg-1", "hk-1", "jp-1")]
    known = [away("ae-1", "[odd] reason"), HEALTHY, LIMPING, away("jp-1", "[odd] reason")]
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(DRAW["check"](document(FLEET, nodes, known, Limits(), VERSION)))
    return capture.get()


def test_every_finding_shows_its_reason() -> None:
    shown = " ".join(drawn(width=300).replace("│", " ").split())
    for reason in (
        "relay 1.0 up 1 d 1 h; serial 7, expires in 5 d",
        "warn disk 512.0 MiB free of 1.0 GiB (warns under 1.0 GiB)",
        "warn load 9.5 on 2 CPUs (warns over 2 a CPU)",
        "fail unreachable: [odd] reason",
    ):
        assert reason in shown


def test_the_page_ends_with_the_causes_and_the_sum() -> None:
    lines = [line.rstrip() for line in drawn().splitlines()]
    assert lines[-7:] == [
        "fail ae-1, jp-1: unreachable: [odd] reason",
        "     next: commcli ssh ae-1 -v -- true",
        "warn hk-1: disk nearly full",
        "     next: commcli ssh hk-1 -- df -h -i /opt/commcli",
        "warn hk-1: load high",
        "     next: commcli ssh hk-1 -- top -bn1",
        "4 nodes: 1 ok, 1 warn, 2 out of reach",
    ]


def test_eighty_columns_are_enough() -> None:
    assert max(map(len, drawn(width=80).splitlines())) <= 80
