"""What `commcli play run` shows of a document."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from commcli.report.play import DRAW


def row(node: str, state: str = "done", reason: str = "", *steps: dict[str, Any]) -> dict[str, Any]:
    changed = sum(step["state"] == "changed" for step in steps)
    return {
        "node": node, "state": state, "reason": reason, "seconds": 1.25, "changed": changed, "python": "3.11.2",
        "steps": list(steps),
    }  # fmt: skip


def step(name: str, state: str, text: str = "", diff: str = "", **more: Any) -> dict[str, Any]:
    plain = {"name": name, "section": "steps", "state": state, "text": text, "diff": diff, "seconds": 0.1}
    return {**plain, "item": None, "attempts": 1, "file": None, **more}


def drawn(*rows: dict[str, Any], check: bool = False) -> str:
    counts: dict[str, int] = {}
    for each in rows:
        counts[each["state"]] = counts.get(each["state"], 0) + 1
    doc = {
        "schema": 1, "kind": "play.run", "fleet": "lab", "play": "relay", "file": "relay.yml", "check": check,
        "exit_code": 0, "changed": sum(each["changed"] for each in rows), "counts": counts, "nodes": list(rows),
    }  # fmt: skip
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(DRAW["run"](doc))
    return captured.get()


def test_nothing_to_change_is_one_line() -> None:
    shown = drawn(row("a", "done", "", step("x", "ok")), row("b"))
    assert shown == "relay on lab: 2 of 2 nodes done, nothing to change, slowest 1.2 s\n"


def test_equal_changes_are_one_row_and_one_diff() -> None:
    change = step("config", "changed", "content, 3 -> 4 bytes", "-old\n+new1\n")
    shown = drawn(*(row(node, "done", "", change) for node in "abc"), check=True)
    assert shown.count("config") == 1 and "a, b, c" in shown and shown.count("+new1") == 1
    assert "would change 3 things on 3 nodes" in shown


def test_troubles_come_last_grouped_by_cause_with_the_next_command() -> None:
    shown = drawn(
        row("a", "unreachable", "connection refused"),
        row("b", "done", "", step("config", "changed", "mode")),
        row("c", "unreachable", "connection refused"),
        row("d", "failed", 'step "x": no [bold]markup[/bold] here'),
    )
    assert shown.index("config") < shown.index("failed") < shown.index("unreachable")
    assert "unreachable  a, c: connection refused" in shown and shown.count("connection refused") == 1
    assert "[bold]markup[/bold]" in shown and "commcli play run relay.yml 'd'" in shown
    assert shown.rstrip().endswith("1 of 4 nodes done, changed 1 things on 1 nodes, slowest 1.2 s")


def test_items_that_change_alike_are_one_row() -> None:
    alike = [step("tool", "changed", "install", item=item) for item in ("jq", "mtr")]
    shown = drawn(row("a", "done", "", *alike), row("b", "done", "", *alike), row("c", "done", "", alike[0]))
    assert shown.count("tool") == 2
    assert "tool: jq, mtr" in shown and "a, b" in shown


def test_failures_with_an_answer_and_files_that_came_are_told() -> None:
    shown = drawn(
        *(
            row(
                node, "done", "",
                step("build", "rescued", "no disk", attempts=3),
                step("probe", "ignored", "nobody", item="x"),
                step("slow", "ok", attempts=2),
                step("log", "ok", file=f"/evidence/{node}/relay.log"),
            )
            for node in ("a-1", "b-1")
        )
    )  # fmt: skip
    assert 'rescued  a-1, b-1: step "build": no disk (3 attempts)\n' in shown
    assert 'ignored  a-1, b-1: step "probe: x": nobody\n' in shown
    assert 'again  a-1, b-1: step "slow": 2 attempts\n' in shown
    assert "fetched  a-1, b-1: /evidence/NODE/relay.log\n" in shown
    assert "2 of 2 nodes done, nothing to change" in shown


def test_a_run_of_before_can_still_be_drawn() -> None:
    old = {"name": "x", "section": "steps", "state": "changed", "text": "mode", "diff": "", "seconds": 0.1}
    assert "mode" in drawn(row("a", "done", "", old))


def test_texts_that_differ_by_the_node_alone_are_one_line() -> None:
    shown = drawn(
        *(row(node, "failed", f"/nodes/{node}/x: disk full") for node in ("a", "b-1")),
        row("c", "failed", "/nodes/c-1/x: disk full"),
    )
    assert (
        "failed  a, b-1: /nodes/NODE/x: disk full" in shown and "failed  c: /nodes/c-1/x: disk full" in shown
    )
