"""One question to many relays: every node's answer, or what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commcli.fleet.model import Fleet, Node
from commcli.remote import control
from commcli.remote.outcome import OnEvent, Outcome, each
from commcli.remote.ssh import Pool


async def ask_all(
    fleet: Fleet,
    nodes: Sequence[Node],
    command: str,
    *,
    pool: Pool | None = None,
    deadline_s: float | None = None,
    on_event: OnEvent | None = None,
    **arguments: Any,
) -> list[Outcome[dict[str, Any]]]:
    """Ask each node's relay `command` over its control socket; outcomes in the order of `nodes`.

    `pool` is used where the caller has one with live connections, otherwise one is opened for this survey.
    """
    if pool is None:
        async with Pool(fleet) as own:
            return await ask_all(
                fleet, nodes, command, pool=own, deadline_s=deadline_s, on_event=on_event, **arguments
            )

    async def one(node: Node) -> dict[str, Any]:
        return await control.ask(await pool.connect(node), node, command, **arguments)

    return await each(nodes, one, parallel=fleet.ssh.parallel, deadline_s=deadline_s, on_event=on_event)
