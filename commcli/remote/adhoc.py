"""One command line on many nodes, by their own shells: nothing but SSH and `sh` is needed there.

The channel's stdin stays open while the command runs. When it ends (we were stopped, or the connection went) a watcher
kills the command and all that it has started. The command itself reads nothing.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from commcli.fleet.model import Fleet, Node
from commcli.remote.onnode.command import Kept
from commcli.remote.outcome import Event, Failed, Lost, OnEvent, Outcome, each, exit_code
from commcli.remote.ssh import Connection, Pool, Process

# $1 the command line. A session of its own is a process group of its own; TERM first, a second later KILL.
_SHELL = (
    'exec 3<&0 </dev/null;s=${SHELL:-sh};if command -v setsid >/dev/null;then setsid "$s" -c "$1" 3<&- & p=$!;g=-$p;'
    'else "$s" -c "$1" 3<&- & p=$!;g=$p;fi;{ cat <&3;kill -TERM "$g";sleep 1;kill -KILL "$g";} '
    ">/dev/null 2>&1 & w=$!;wait $p;e=$?;kill $w 2>/dev/null;exit $e"
)

Stream = Literal["stdout", "stderr"]
OnOutput = Callable[[str, Stream, bytes], None]
Document = dict[str, Any]


class Said(NamedTuple):
    """What a command said so far, the middle of a long output cut out. No `exit_status`: its end is not known."""

    exit_status: int | None = None
    stdout: str = ""
    stderr: str = ""


def line_of(words: Sequence[str]) -> str:
    """The line for the node's shell: one word is one already, more are a command and its arguments, as they are."""
    return words[0] if len(words) == 1 else shlex.join(words)


async def run_on(
    nodes: Sequence[Node],
    line: str,
    pool: Pool,
    *,
    deadline_s: float | None = None,
    node_timeout_s: float | None = None,
    on_event: OnEvent | None = None,
    on_output: OnOutput = lambda node, stream, data: None,
    ended: dict[str, Outcome[Said]] | None = None,
) -> list[Outcome[Said]]:
    """Run `line` on `nodes`; outcomes in their order. A value is there as far as a node came; an exit status that is
    not 0 is `failed`. `ended` gets each node's outcome as it ends, for who is interrupted.
    """
    said: dict[str, _Saying] = {node.id: _Saying(node.id, on_output) for node in nodes}

    began = time.monotonic()

    def told(event: Event) -> None:
        if event.state and ended is not None:
            seconds, value = time.monotonic() - began, said[event.node].so_far()
            ended[event.node] = Outcome(event.node, event.state, value, event.text, seconds)
        if on_event is not None:
            on_event(event)

    async def work(node: Node) -> Said:
        def tell(text: str) -> None:
            told(Event(node.id, text))

        tell("login")
        connection = await pool.connect(node)
        tell("at work")
        await _run(connection, line, said[node.id])
        return said[node.id].so_far()

    outcomes = await each(
        nodes, work, parallel=pool.parallel, deadline_s=deadline_s, node_timeout_s=node_timeout_s,
        on_event=told,
    )  # fmt: skip
    return [replace(o, value=said[o.node].so_far()) if o.value is None else o for o in outcomes]


async def run_line(connection: Connection, line: str) -> Said:
    """Run `line` on one node. Raises Failed with its last word when it does not end well, Lost, LoginRefused."""
    saying = _Saying(connection.node_id, lambda node, stream, data: None)
    try:
        await _run(connection, line, saying)
    except Failed as error:
        words = saying.so_far().stderr.strip().splitlines()
        raise Failed(": ".join([str(error), *words[-1:]])) from None
    return saying.so_far()


class _Saying:
    """What one node's command says while it says it."""

    def __init__(self, node: str, on_output: OnOutput) -> None:
        self.exit_status: int | None = None
        self._node, self._on_output = node, on_output
        self._kept: Mapping[Stream, Kept] = {"stdout": Kept(), "stderr": Kept()}

    async def follow(self, stream: Stream, read: Callable[[], Awaitable[bytes]]) -> None:
        while data := await read():
            self._kept[stream].add(data)
            self._on_output(self._node, stream, data)

    def so_far(self) -> Said:
        return Said(self.exit_status, self._kept["stdout"].text(), self._kept["stderr"].text())


async def _run(connection: Connection, line: str, saying: _Saying) -> None:
    process: Process = await connection.start(shlex.join(["sh", "-c", _SHELL, "commcli", line]))
    reading = asyncio.gather(
        saying.follow("stdout", process.read), saying.follow("stderr", process.read_error)
    )
    try:
        await reading
        saying.exit_status = await process.wait()
    finally:
        reading.cancel()
        process.close()
    if saying.exit_status is None:
        raise Lost("the connection ended before the command did")
    if saying.exit_status:
        so_far = saying.so_far()
        if not so_far.stdout:
            process.raise_if_refused(saying.exit_status, so_far.stderr.encode())
        raise Failed("killed by a signal" if saying.exit_status < 0 else f"exit status {saying.exit_status}")


def document(fleet: Fleet, line: str, outcomes: Sequence[Outcome[Said]]) -> Document:
    """`run`: what every node said. JSON-able."""
    rows = [_row(outcome) for outcome in outcomes]
    return {
        "schema": 1,
        "kind": "run.command",
        "fleet": fleet.name,
        "command": line,
        "exit_code": exit_code(outcomes),
        "counts": dict(Counter(row["state"] for row in rows)),
        "nodes": rows,
    }


def _row(outcome: Outcome[Said]) -> Document:
    said = outcome.value or Said()
    return {**outcome.row(), **said._asdict()}
