"""The story's accident: the power of an intermediate relay fails while a call crosses it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commcli.lab.folder import LabFolder
from commcli.lab.stage import NotTrue, Running
from commcli.relay import control

_POLL_S = 0.1
#: So much media has passed that both directions flow and the call's own start is behind us.
_FLOWING_PACKETS = 150


@dataclass(frozen=True, slots=True)
class Switch:
    """What an ingress did by itself: from one path to another, when, and why."""

    node: str
    unix: float
    before: str
    after: str
    reason: str


def await_media(folder: LabFolder, relay: str, call: Running, *, since_unix: float, timeout_s: float) -> None:
    """Until the relay itself has counted a good second of the call's packets passing through it, both ways."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not call.ended:
        flows = [
            flow
            for flow in ask(folder, relay, "flows")["flows"]
            if flow["role"] == "transit" and flow["first_unix"] >= since_unix
        ]
        if sum(flow["packets"] >= _FLOWING_PACKETS for flow in flows) >= 2:
            return
        time.sleep(_POLL_S)
    raise NotTrue(f"no media of the call passed {relay} within {timeout_s:g} s")


def switches(folder: LabFolder, edges: Sequence[str], *, since_unix: float) -> list[Switch]:
    """The switches of the two ingresses towards each other, in order of time."""
    found = []
    for node, egress in zip(edges, reversed(edges), strict=True):
        for switch in ask(folder, node, "paths")["paths"][egress]["switches"]:
            if switch["unix"] >= since_unix:
                found.append(Switch(node, switch["unix"], switch["from"], switch["to"], switch["reason"]))
    return sorted(found, key=lambda switch: switch.unix)


def ask(folder: LabFolder, node: str, word: str) -> dict[str, Any]:
    """One question to a node's relay, on its own control socket: asking through SSH would cost the call CPU."""
    try:
        answer = control.ask(folder.base(node) / "run/control.sock", {"cmd": word}, 5.0)
    except (OSError, ValueError) as error:
        raise NotTrue(f"{node}: the relay does not answer: {error}") from None
    if not answer.get("ok"):
        raise NotTrue(f"{node}: {word}: {answer.get('error')}")
    return answer
