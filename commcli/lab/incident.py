"""The story's accident: the power of an intermediate relay fails while a call crosses it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.lab.folder import LabFolder, Record
from commcli.lab.stage import NotTrue, Running
from commcli.relay.process import control

_POLL_S = 0.1
#: So much media has passed that the call's own start is behind us.
_FLOWING_PACKETS = 150
_FRESH_S = 0.5

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Switch:
    """What an ingress did by itself: from one path to another, when, and why."""

    node: str
    unix: float
    before: str
    after: str
    reason: str


def await_transit(
    folder: LabFolder, record: Record, edges: Pair, call: Running, *, since_unix: float, timeout_s: float
) -> str:
    """The relay that the call's packets pass now, once it has itself counted a good second of them.

    Both directions need not take the same way; the one from edges[0] counts, as the relays between see it.
    """
    between = [node for node in record.addresses if node not in edges]
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not call.ended:
        for relay in between:
            if any(
                _flows_now(flow, (edges[0], relay, edges[1]), since_unix) for flow in _flows(folder, relay)
            ):
                return relay
        time.sleep(_POLL_S)
    raise NotTrue(f"no relay counted media of the call from {edges[0]} to {edges[1]} within {timeout_s:g} s")


def _flows_now(flow: Mapping[str, Any], path: Sequence[str], since_unix: float) -> bool:
    fresh = flow["first_unix"] >= since_unix and flow["last_unix"] >= time.time() - _FRESH_S
    return fresh and tuple(flow["path"]) == tuple(path) and flow["packets"] >= _FLOWING_PACKETS


def _flows(folder: LabFolder, relay: str) -> list[dict[str, Any]]:
    return [flow for flow in ask(folder, relay, "flows")["flows"] if flow["role"] == "transit"]


def switches(folder: LabFolder, edges: Pair, *, since_unix: float) -> list[Switch]:
    """The switches of the two ingresses towards each other since then, in order of time."""
    found = []
    for node, egress in (edges, edges[::-1]):
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


def ask_patiently(folder: LabFolder, node: str, word: str, *, timeout_s: float) -> dict[str, Any]:
    """`ask` a relay that is just starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask(folder, node, word)
        except NotTrue:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_S)
