"""Every TURN transport of the edges looked at as a client does, from here or from a node: plan, run, judge.

A door is one transport at one address of an edge: UDP, TCP and, where the edge has a port for it, TLS. At each a real
allocation is made and given back. What is wrong with a door is a value in the report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commcli.errors import BadInput, CommcliError, Usage
from commcli.fleet.model import Fleet, Node
from commcli.probe import certificate, told
from commcli.probe.credentials import mint, turn_secret
from commcli.probe.onnode import doors
from commcli.remote.bundle import bundle_of
from commcli.remote.outcome import Failed, TimedOut
from commcli.remote.program import Program
from commcli.remote.ssh import Pool

# The longest of a good door is five round trips (TCP, TLS, 401, allocation); over UDP four tries fit.
TIMEOUT_S = 8.0
PARALLEL = 64
# Nobody needs them for longer, and clocks may disagree a little.
CREDENTIAL_LIFETIME_S = 600.0
# As in `health check`: automatic renewal tries from a month before the end; after two weeks it needs a person.
WARN_DAYS, BAD_DAYS = 14.0, 1.0
# Half the samples must be on time, or the times are about this machine and not about the edges.
MAX_LAG_P50_MS = 20.0

ENTRY = "commcli.probe.onnode.doors:run"

GRAVITY = ("unmeasured", "good", "warn", "bad")
OnRow = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a certificate's end is near (days). Part of every report."""

    warn_days: float = WARN_DAYS
    bad_days: float = BAD_DAYS

    def row(self) -> dict[str, float]:
        return {"warn_days": self.warn_days, "bad_days": self.bad_days}


def edges_of(fleet: Fleet, word: str | None) -> list[Node]:
    """All edges of a market, one node, or (None) every edge of the fleet. Raises Usage or BadInput."""
    if word is None:
        wanted = fleet.client_nodes()
        found = [node for node in fleet.nodes.values() if node.id in wanted]
        if not found:
            raise BadInput(f"fleet {fleet.name}: no market has an edge")
        return found
    if word in fleet.nodes:
        return [fleet.nodes[word]]
    market = fleet.markets.get(word)
    if market is None:
        raise Usage(f"no market and no node is called {word!r}")
    if not market.edges:
        raise BadInput(f"market {word}: it has no edge")
    return [fleet.nodes[edge] for edge in market.edges]


def doors_of(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    """Every transport at every address of these edges; a certificate must be for the edge's domain, or its address."""
    found = []
    for node in nodes:
        ports = {"udp": node.ports.turn, "tcp": node.ports.turn, "tls": node.ports.tls}
        for address in filter(None, (node.address, node.address6)):
            for transport, port in ports.items():
                if port is not None:
                    name = (node.domain or address) if transport == "tls" else None
                    door = {"node": node.id, "transport": transport, "address": address, "port": port}
                    found.append({**door, "server_name": name})
    return found


async def look(
    fleet: Fleet,
    nodes: Sequence[Node],
    *,
    word: str | None = None,
    origin: Node | None = None,
    pool: Pool | None = None,
    limits: Limits | None = None,
    on_row: OnRow = lambda _row: None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Look at all doors of these edges, from this machine or (with `pool`) from the node `origin`; the document.

    `word`: how they were asked for. `on_row` hears of each door as it is known. Raises BadInput when the inventory
    lacks something, and what the SSH connection raises.
    """
    began, limits = clock(), limits or Limits()
    argument = _argument(fleet, nodes, began)
    rows: list[dict[str, Any]] = []
    trouble: str | None = None

    def heard(row: Mapping[str, Any]) -> None:
        rows.append(judged(row, fleet.nodes[row["node"]], limits, clock()))
        on_row(rows[-1])

    if origin is None:
        trust = doors.Trust(argument["ca_pem"])
        lag_ms = await doors.knock_all(argument, trust, heard)
    else:
        assert pool is not None
        lag_ms, trouble = await _from_node(pool, origin, argument, heard)
    order = {told.door_key(door): at for at, door in enumerate(argument["doors"])}
    rows.sort(key=lambda row: order[told.door_key(row)])
    return _document(fleet, nodes, rows, began, word, origin, limits, lag_ms, trouble)


def _argument(fleet: Fleet, nodes: Sequence[Node], unix: float) -> dict[str, Any]:
    """What doors.run takes. It goes over stdin; the password is on no command line."""
    credentials = mint(turn_secret(fleet), expires_unix=unix + CREDENTIAL_LIFETIME_S)
    found = doors_of(nodes)
    has_tls = any(door["transport"] == "tls" for door in found)
    turns = -(-len(found) // PARALLEL)
    return {
        "doors": found,
        "username": credentials.username,
        "password": credentials.password.reveal(),
        "ca_pem": certificate.ca_pem(fleet) if has_tls else None,
        "timeout_s": TIMEOUT_S,
        "parallel": PARALLEL,
        "limit_s": turns * (TIMEOUT_S + doors.GOODBYE_S) + 5.0,
    }


async def _from_node(
    pool: Pool, origin: Node, argument: Mapping[str, Any], heard: OnRow
) -> tuple[list[float], str | None]:
    """The node's lag, and what is wrong with what it told; of each door that was asked it is `heard` once."""
    listening = _Listening(argument["doors"], heard)
    try:
        connection = await pool.connect(origin)
    except CommcliError as error:
        raise type(error)(f"{origin.id}: {error}", hint=error.hint) from None
    streamed = bundle_of(ENTRY.partition(":")[0])
    program = await Program.start(
        connection, origin.ssh.python, streamed, ENTRY, argument, secrets=[argument["password"]]
    )
    async with program:
        try:
            async with asyncio.timeout(argument["limit_s"] + 10.0):
                while (message := await program.receive()) is not None:
                    if listening.take(message):
                        return listening.lag_ms, listening.trouble and f"{origin.id}: {listening.trouble}"
        except Failed as error:
            raise Failed(f"{origin.id}: {error}") from None
        except TimeoutError:
            raise TimedOut(f"{origin.id}: not finished after {argument['limit_s']:g} s") from None
    raise Failed(f"{origin.id}: the look ended before its time")


class _Listening:
    """What a node tells of the doors that it was asked to look at. `trouble`: the first thing that can not be."""

    def __init__(self, asked: Iterable[Mapping[str, Any]], heard: OnRow) -> None:
        self.lag_ms: list[float] = []
        self.trouble: str | None = None
        self._left = {told.door_key(door): door for door in asked}
        self._heard = heard

    def take(self, message: object) -> bool:
        """Whether it was the last one. Raises Failed when the node would not look."""
        word = message if isinstance(message, dict) else {}
        if "refused" in word:
            raise Failed(str(word["refused"])[: told.MOST_CHARACTERS])
        try:
            if "lag_ms" not in word:
                self._take_door(word.get("door"))
                return False
            self.lag_ms = told.lags(word["lag_ms"])
        except Failed as error:
            self.trouble = self.trouble or str(error)
            return "lag_ms" in word
        if self._left:
            self.trouble = self.trouble or f"it told nothing of {len(self._left)} doors"
        return True

    def _take_door(self, raw: object) -> None:
        row = told.door(raw, self._left)
        del self._left[told.door_key(row)]
        self._heard(row)


# --- the judgement --------------------------------------------------------------------------------------------------


def judged(row: Mapping[str, Any], node: Node, limits: Limits, unix: float) -> dict[str, Any]:
    """One door's row with its certificate read, "verdict" (good, warn, bad, unmeasured) and "reasons"."""
    found = None if row["certificate"] is None else certificate.read(row["certificate"])
    problems = []
    if row["tls"] is not None:
        problems = certificate.problems(found, row["tls"], row["server_name"], unix)
    findings = _of_reach(row, node) + [("bad", text) for _, text in problems] + _of_days(found, limits, unix)
    return {
        **row,
        "reached": row["challenge_ms"] is not None,
        "certificate": None if found is None else found.row(unix),
        "certificate_problems": [word for word, _ in problems],
        "verdict": max([word for word, _ in findings] or ["good"], key=GRAVITY.index),
        "reasons": [text for _, text in findings],
    }


def _of_reach(row: Mapping[str, Any], node: Node) -> list[tuple[str, str]]:
    state, error = row["state"], row["error"]
    if state == "allocated":
        return (
            []
            if row["given_back"]
            else [("warn", "the allocation was not given back: no answer to the Refresh")]
        )
    if state == "no route":
        # One family may be missing where we stand: that says nothing of the edge.
        return [("unmeasured", f"no way to {row['address']} from here: {error}")]
    if state == "redirected":
        return [("good", f"sends clients from here to {row['alternate']} (300)")]
    if row["code"] == 486 and node.state == "drain":
        return [("good", "drains: takes no new client (486)")]
    return [("bad", f"{state}: {error}")]


def _of_days(found: certificate.Certificate | None, limits: Limits, unix: float) -> list[tuple[str, str]]:
    if found is None:
        return []
    days = (found.not_after_unix - unix) / certificate.DAY_S
    for word, limit in (("bad", limits.bad_days), ("warn", limits.warn_days)):
        if 0 < days < limit:
            return [(word, f"the certificate ends in {days:.1f} days ({word} under {limit:g})")]
    return []


def _document(
    fleet: Fleet,
    nodes: Sequence[Node],
    rows: Sequence[Mapping[str, Any]],
    began: float,
    word: str | None,
    origin: Node | None,
    limits: Limits,
    lag_ms: Sequence[float],
    trouble: str | None,
) -> dict[str, Any]:
    lag_p50_ms = sorted(lag_ms)[len(lag_ms) // 2] if lag_ms else None
    if trouble is None and lag_p50_ms is not None and lag_p50_ms > MAX_LAG_P50_MS:
        trouble = f"probe host starved: event-loop lag p50 {lag_p50_ms:.0f} ms"
    worst = max((row["verdict"] for row in rows), key=GRAVITY.index, default="unmeasured")
    return {
        "schema": 1,
        "kind": "probe.edge",
        "unix": began,
        "asked": word,
        "from": None if origin is None else origin.id,
        "edges": [
            {
                "node": node.id,
                "state": node.state,
                "markets": list(fleet.markets_of(node.id)),
                "tls": node.ports.tls,
            }
            for node in nodes
        ],
        "doors": list(rows),
        "limits": limits.row(),
        "lag_p50_ms": lag_p50_ms,
        "valid": trouble is None,
        "invalid_reason": trouble,
        "verdict": "invalid" if trouble is not None or worst == "unmeasured" else worst,
        "counts": {name: sum(row["verdict"] == name for row in rows) for name in reversed(GRAVITY)},
    }
