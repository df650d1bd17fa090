"""One question to a node's relay, over SSH to its control socket: one exec, one JSON line back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from commcli.fleet.model import Node
from commcli.remote.outcome import Failed, Lost
from commcli.remote.program import PYTHONS
from commcli.remote.ssh import Completed, Connection

TIMEOUT_S = 10.0

# $1 the zipapp, $2 the socket, $3 the command, $4 its arguments as JSON, then pythons: the first there is taken.
_SHELL = (
    'z=$1 s=$2 c=$3 j=$4;shift 4;for p;do p=$(command -v "$p")||continue;'
    'exec "$p" -IS "$z" ctl --socket "$s" "$c" "$j";done;exit 127'
)


def command(node: Node, word: str, arguments: dict[str, Any]) -> Sequence[str]:
    """The command vector that asks `node`'s relay; `arguments` become members of the request."""
    pythons = (node.ssh.python,) if node.ssh.python else (*PYTHONS, "python3")
    zipapp, socket = f"{node.base}/lib/relay.pyz", f"{node.base}/run/control.sock"
    return ["sh", "-c", _SHELL, "commcli", zipapp, socket, word, json.dumps(arguments), *pythons]


async def ask(
    connection: Connection, node: Node, command_word: str, *, timeout_s: float = TIMEOUT_S, **arguments: Any
) -> dict[str, Any]:
    """The relay's answer, without judging more than its `ok`.

    Raises Failed (no relay, or it said no), Lost, TimedOut, Unreachable.
    """
    done = await connection.run(command(node, command_word, arguments), timeout_s=timeout_s)
    if done.exit_status is None:
        raise Lost(f"the connection ended before the relay answered {command_word}")
    answer = _parsed(done)
    if not answer.get("ok"):
        raise Failed(f"relay: {answer.get('error') or 'refused without a reason'}")
    return answer


def _parsed(done: Completed) -> dict[str, Any]:
    if done.exit_status == 127 and not done.stdout:
        raise Failed("no python3 on the node")
    try:
        answer = json.loads(done.stdout)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        return answer
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    raise Failed(f"relay: {shorten(said[-1]) if said else f'no answer, exit status {done.exit_status}'}")


def shorten(line: str, most: int = 200) -> str:
    """One line that fits a table."""
    return line if len(line) <= most else line[: most - 1] + "…"
