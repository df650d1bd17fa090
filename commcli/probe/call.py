"""A probe call: two real WebRTC endpoints on two nodes, started over SSH, judged from here.

The controller mints credentials, streams the endpoint program to both nodes, carries their SDP from one to the
other (there is no signalling server), and asks the relays before and after what they forwarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from commcli.errors import BadInput, CommcliError, Usage
from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import Secret
from commcli.probe import hops, judge
from commcli.probe.credentials import Credentials, mint
from commcli.remote import control
from commcli.remote.outcome import Failed, TimedOut, each
from commcli.remote.program import Program, bundle, source_of
from commcli.remote.ssh import Pool

PROFILES = ("hd", "sd", "audio")
TURN_SECRET = "turn"
CONNECT_TIMEOUT_S = 20.0
# Gathering, media and closing have bounds of their own in the endpoint; this is what they add up to, and some.
SET_UP_S = 60.0
FLOWS_TIMEOUT_S = 5.0
GOODBYE_S = 4.0
# Long enough for the longest call, and for clocks that disagree a little.
CREDENTIAL_LIFETIME_S = 3600.0

ENTRY = "commcli.probe.endpoint:run"
STREAMED = tuple(
    f"commcli.probe.{name}"
    for name in ("clock", "description", "endpoint", "host", "media", "pings", "quality", "stream", "tap")
)

OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """What to call: markets or node ids. `direct` has the relays bypass the overlay."""

    a: str
    b: str
    direct: bool = False
    seconds: float = 8.0
    profile: str = "sd"


@dataclass(frozen=True, slots=True)
class End:
    """One end as it was asked for, and the edge that it means."""

    asked: str
    market: str | None
    node: Node

    def row(self) -> dict[str, Any]:
        return {"asked": self.asked, "market": self.market, "node": self.node.id}


def resolve(fleet: Fleet, word: str) -> End:
    """A node by its id, or a market's first edge that is active. Raises Usage or BadInput with one line."""
    if word in fleet.nodes:
        return End(word, None, fleet.nodes[word])
    market = fleet.markets.get(word)
    if market is None:
        raise Usage(f"no market and no node is called {word!r}")
    for edge in market.edges:
        if fleet.nodes[edge].state == "active":
            return End(word, market.id, fleet.nodes[edge])
    raise BadInput(f"market {word}: none of its edges ({', '.join(market.edges) or 'it has none'}) is active")


@dataclass(slots=True)
class _Side:
    """One end at work."""

    role: str
    end: End
    ssh_ms: float = 0.0
    program: Program | None = None
    phases: dict[str, float | None] = field(default_factory=dict)
    relayed: hops.Address | None = None
    connected_unix: float | None = None
    report: dict[str, Any] | None = None
    error: CommcliError | None = None
    ended: bool = False


async def call(
    fleet: Fleet,
    pool: Pool,
    ask: Ask,
    *,
    on_event: OnEvent = lambda side, event: None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Make one call and return its document ({"kind": "probe.call", ...}).

    `on_event` hears every event of the endpoints ("from" or "to", the event) as it happens. A call that does not
    connect is an answer (verdict bad, with the reason). Raises CommcliError when the call could not be tried.
    """
    if ask.profile not in PROFILES:
        raise Usage(f"no profile is called {ask.profile!r} (known: {', '.join(PROFILES)})")
    ends = resolve(fleet, ask.a), resolve(fleet, ask.b)
    _check_pythons(ends)
    began = clock()
    credentials = mint(
        _secret(fleet), expires_unix=began + ask.seconds + CREDENTIAL_LIFETIME_S, direct=ask.direct
    )
    run = _Run(fleet, pool, ask, ends, credentials, on_event)
    evidence = await run.go()
    return _document(ask, began, run.sides, evidence)


def _check_pythons(ends: tuple[End, End]) -> None:
    missing = {end.node.id for end in ends if not end.node.probe_python}
    if missing:
        raise BadInput(
            [f"node {node}: no probe_python in the inventory" for node in sorted(missing)],
            hint="A probe call needs a python on the node that has aiortc.",
        )


def _secret(fleet: Fleet) -> Secret:
    if TURN_SECRET not in fleet.secrets:
        raise BadInput(f"fleet {fleet.name}: secrets has no {TURN_SECRET!r}, which makes TURN credentials")
    return fleet.secrets[TURN_SECRET].read()


class _Run:
    """The part that touches the world."""

    def __init__(
        self,
        fleet: Fleet,
        pool: Pool,
        ask: Ask,
        ends: tuple[End, End],
        credentials: Credentials,
        on_event: OnEvent,
    ) -> None:
        self.sides = {"from": _Side("offer", ends[0]), "to": _Side("answer", ends[1])}
        self._fleet = fleet
        self._pool = pool
        self._ask = ask
        self._credentials = credentials
        self._on_event = on_event
        self._settled = asyncio.Event()

    async def go(self) -> judge.Evidence:
        """The whole call; whatever happens, no program of ours stays on a node."""
        pumps: list[asyncio.Task[None]] = []
        try:
            before = await _all([self._start(name) for name in self.sides], self._flows({}))
            pumps = [asyncio.create_task(self._pump(name)) for name in self.sides]
            await self._wait_settled(self._ask.seconds + SET_UP_S)
            self._raise_if_untried()
            after = await self._flows(before)
            await self._goodbye(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            programs = [side.program for side in self.sides.values() if side.program is not None]
            await asyncio.gather(*(program.close() for program in programs))
        first, second = self.sides["from"], self.sides["to"]
        return judge.Evidence(
            there=second.report,
            back=first.report,
            relayed=(first.relayed, second.relayed),
            edges=(first.end.node.id, second.end.node.id),
            flows_before=before,
            flows_after=after,
        )

    async def _start(self, name: str) -> None:
        side, node = self.sides[name], self.sides[name].end.node
        began = time.monotonic()
        try:
            connection = await self._pool.connect(node)
            side.program = await Program.start(
                connection,
                node.probe_python,
                bundle({module: source_of(module) for module in STREAMED}),
                ENTRY,
                self._argument(name),
                site=True,
                secrets=[self._credentials.password.reveal()],
            )
        except CommcliError as error:
            raise type(error)(f"node {node.id}: {error}", hint=error.hint) from None
        side.ssh_ms = 1000 * (time.monotonic() - began)
        self._on_event(name, {"event": "phase", "phase": "ssh", "ms": side.ssh_ms})

    def _argument(self, name: str) -> dict[str, Any]:
        """The endpoint's argument. It goes over stdin; the password is on no command line."""
        node, other = self.sides[name].end.node, self._other(name).end.node
        return {
            "role": self.sides[name].role,
            "turn": {
                "host": node.address,
                "port": node.ports.turn,
                "username": self._credentials.username,
                "password": self._credentials.password.reveal(),
            },
            "peers": [other.address],
            "profile": self._ask.profile,
            "seconds": self._ask.seconds,
            "connect_timeout_s": CONNECT_TIMEOUT_S,
            "limit_s": int(self._ask.seconds + SET_UP_S) + 30,
        }

    def _other(self, name: str) -> _Side:
        return self.sides["to" if name == "from" else "from"]

    async def _pump(self, name: str) -> None:
        """Follow one endpoint to its end."""
        side = self.sides[name]
        assert side.program is not None
        try:
            while (event := await side.program.receive()) is not None:
                await self._handle(name, event)
                self._on_event(name, event)
                self._settle()
        except CommcliError as error:
            side.error = side.error or error
        finally:
            side.ended = True
            self._settle()

    async def _handle(self, name: str, event: Mapping[str, Any]) -> None:
        side, other = self.sides[name], self._other(name)
        match event["event"]:
            case "phase":
                side.phases[event["phase"]] = event["ms"]
            case "description":
                side.relayed = (str(event["relayed"][0]), int(event["relayed"][1]))
                if other.program is not None:
                    message = {"do": "description", "type": event["type"], "sdp": event["sdp"]}
                    await other.program.send(message)
            case "connected":
                side.connected_unix = float(event["unix"])
            case "report":
                side.report = event["report"]
            case "error":
                side.error = Failed(str(event["reason"]))

    def _settle(self) -> None:
        """Nothing more is to be expected: both have reported or ended, or one ended before the other connected."""
        sides = list(self.sides.values())
        done = [side.report is not None or side.ended for side in sides]
        hopeless = any(side.ended and side.report is None for side in sides) and any(
            side.connected_unix is None for side in sides
        )
        if all(done) or hopeless:
            self._settled.set()

    async def _wait_settled(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled.wait()
        except TimeoutError:
            for side in self.sides.values():
                if side.report is None and side.error is None:
                    side.error = TimedOut(f"no report after {timeout_s:g} s")

    def _raise_if_untried(self) -> None:
        for side in self.sides.values():
            # Whichever of aiortc and what it needs is imported first.
            if side.error is not None and re.search(r"No module named '(aiortc|aioice|av)'", str(side.error)):
                node = side.end.node
                raise Failed(
                    f"node {node.id}: {node.probe_python} has no aiortc",
                    hint=f"{node.probe_python} -m pip install 'aiortc>=1.16'",
                )

    async def _goodbye(self, pumps: list[asyncio.Task[None]]) -> None:
        """Let both ends give their allocations back; who does not answer is cut off by `close`."""
        for side in self.sides.values():
            if side.program is not None and not side.ended:
                with contextlib.suppress(CommcliError):
                    await side.program.send({"do": "stop"})
        if all(side.report is not None for side in self.sides.values()):
            await asyncio.wait(pumps, timeout=GOODBYE_S)

    async def _flows(self, before: hops.Flows) -> dict[str, Any]:
        """Every relay's flows; None for one that cannot be asked. Who was away `before` is not waited for again."""
        away = {node for node, rows in before.items() if rows is None}

        async def one(node: Node) -> list[dict[str, Any]]:
            answer = await control.ask(
                await self._pool.connect(node), node, "flows", timeout_s=FLOWS_TIMEOUT_S
            )
            return list(answer["flows"])

        nodes = [node for node in self._fleet.nodes.values() if node.id not in away]
        outcomes = await each(nodes, one, parallel=self._fleet.ssh.parallel, node_timeout_s=FLOWS_TIMEOUT_S)
        return {**dict.fromkeys(away), **{outcome.node: outcome.value for outcome in outcomes}}


async def _all(starts: Sequence[Awaitable[None]], flows: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """All at once. The first error is raised when the others have come to their end, so none is left behind."""
    *errors, before = await asyncio.gather(*starts, flows, return_exceptions=True)
    for result in (*errors, before):
        if isinstance(result, BaseException):
            raise result
    return cast(dict[str, Any], before)


# --- the document ---------------------------------------------------------------------------------------------------


def _document(ask: Ask, began: float, sides: Mapping[str, _Side], evidence: judge.Evidence) -> dict[str, Any]:
    first, second = sides["from"], sides["to"]
    connected = any(side.connected_unix is not None for side in sides.values())
    figures = judge.measured(evidence)
    valid, invalid_reason = judge.validity([(side.end.node.id, side.report) for side in sides.values()])
    word, reasons = judge.verdict(connected, valid, figures)
    problems = [f"{side.end.node.id}: {side.error}" for side in sides.values() if side.error is not None]
    document = {
        "schema": 1,
        "kind": "probe.call",
        "unix": began,
        "from": first.end.row(),
        "to": second.end.row(),
        "direct": ask.direct,
        "profile": ask.profile,
        "seconds": ask.seconds,
        "connected": connected,
        "connected_unix": max((s.connected_unix for s in sides.values() if s.connected_unix), default=None),
        "problems": problems,
        "valid": valid,
        "invalid_reason": invalid_reason or ("no end sent a report" if connected and valid is None else None),
        "verdict": word,
        "reasons": reasons + problems,
        "setup_ms": set_up_ms(first.phases, second.phases),
        "phases_ms": {name: {"ssh": side.ssh_ms, **side.phases} for name, side in sides.items()},
        **figures,
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def set_up_ms(caller: Mapping[str, float | None], callee: Mapping[str, float | None]) -> float | None:
    """Until the caller hears: both ends' gathering, ICE, DTLS and the first audio; without SDP's way through SSH."""
    parts = [caller.get(phase) for phase in ("gather", "ice", "dtls", "first_audio")] + [callee.get("gather")]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _rounded(value: Any) -> Any:
    """Microseconds of a unix time, and far less than a packet of a loss; what is beyond is noise."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
