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

from commcli.errors import CommcliError, LockHeld
from commcli.fleet.model import Fleet, Node
from commcli.probe import hops, judge, told
from commcli.probe.ask import Ask, End, check
from commcli.probe.certificate import ca_pem
from commcli.probe.credentials import Credentials, mint, turn_secret
from commcli.probe.description import bounded
from commcli.probe.evidence import Evidence, measured
from commcli.probe.profiles import PROFILES, Profile
from commcli.remote import control
from commcli.remote.bundle import bundle_of
from commcli.remote.outcome import Failed, TimedOut, each
from commcli.remote.program import Program
from commcli.remote.ssh import Pool

CONNECT_TIMEOUT_S = 20.0
# Gathering, media and closing have bounds of their own in the endpoint; this is what they add up to, and some.
SET_UP_S = 60.0
FLOWS_TIMEOUT_S = 5.0
RESOLVE_TIMEOUT_S = 5.0
GOODBYE_S = 4.0
# Long enough for the longest call, and for clocks that disagree a little.
CREDENTIAL_LIFETIME_S = 3600.0

ENTRY = "commcli.probe.endpoint:run"
# Calls that one node is an end of at the same time, whoever made them.
MOST_CALLS_A_NODE = 4

__all__ = ["Ask", "call", "limits_of", "set_up_ms"]

_Readings = dict[str, hops.Reading | None]
OnEvent = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class _Side:
    """One end at work."""

    role: str
    end: End
    resolve_ms: float | None = None
    ssh_ms: float = 0.0
    program: Program | None = None
    phases: dict[str, float | None] = field(default_factory=dict)
    relayed: hops.Address | None = None
    connected_unix: float | None = None
    report: dict[str, Any] | None = None
    error: CommcliError | None = None
    untried: bool = False  # the error is the node's own, and says nothing of the network
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
    ends = check(fleet, ask)
    began = clock()
    credentials = mint(
        turn_secret(fleet),
        expires_unix=began + ask.seconds + CREDENTIAL_LIFETIME_S,
        direct=ask.direct,
        via=ask.via,
        plain=ask.plain,
    )
    run = _Run(fleet, pool, ask, ends, credentials, on_event)
    return _document(fleet, ask, began, run.sides, await run.go())


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
        self._ca_pem = ca_pem(fleet) if ask.transport == "tls" else None
        self.sides = {"from": _Side("offer", ends[0]), "to": _Side("answer", ends[1])}
        self._fleet = fleet
        self._pool = pool
        self._ask = ask
        self._credentials = credentials
        self._on_event = on_event
        self._settled = asyncio.Event()

    async def go(self) -> Evidence:
        """The whole call; whatever happens, no program of ours stays on a node."""
        pumps: list[asyncio.Task[None]] = []
        try:
            before = await _all([self._start(name) for name in self.sides], self._readings({}))
            pumps = [asyncio.create_task(self._pump(name)) for name in self.sides]
            await self._wait_settled(self._ask.seconds + SET_UP_S)
            self._raise_if_untried()
            # Asked when nothing is sent any more, so that what one relay counts and the next one does not was lost.
            await self._goodbye(pumps)
            after = await self._readings(before)
        finally:
            for pump in pumps:
                pump.cancel()
            programs = [side.program for side in self.sides.values() if side.program is not None]
            await asyncio.gather(*(program.close() for program in programs))
        first, second = self.sides["from"], self.sides["to"]
        return Evidence(
            profile=PROFILES[self._ask.profile],
            there=second.report,
            back=first.report,
            relayed=(first.relayed, second.relayed),
            edges=(first.end.node.id, second.end.node.id),
            before=before,
            after=after,
        )

    async def _start(self, name: str) -> None:
        side, node = self.sides[name], self.sides[name].end.node
        side.resolve_ms = await _resolve_ms(node)
        began = time.monotonic()
        try:
            connection = await self._pool.connect(node)
            side.program = await Program.start(
                connection,
                node.probe_python,
                bundle_of(ENTRY.partition(":")[0]),
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
        node, other, ask = self.sides[name].end.node, self._other(name).end.node, self._ask
        return {
            "role": self.sides[name].role,
            "turn": {
                "host": node.address,
                "port": node.ports.tls if ask.transport == "tls" else node.ports.turn,
                "transport": ask.transport,
                "server_name": node.domain or node.address,
                "ca_pem": self._ca_pem,
                "username": self._credentials.username,
                "password": self._credentials.password.reveal(),
            },
            "peers": [other.address],
            "profile": ask.profile,
            "seconds": ask.seconds,
            "connect_timeout_s": CONNECT_TIMEOUT_S,
            "limit_s": int(ask.seconds + SET_UP_S) + 30,
            "slots": {"folder": f"{node.base}/run", "most": MOST_CALLS_A_NODE},
        }

    def _other(self, name: str) -> _Side:
        return self.sides["to" if name == "from" else "from"]

    async def _pump(self, name: str) -> None:
        """Follow one endpoint to its end."""
        side = self.sides[name]
        assert side.program is not None
        try:
            while (event := await side.program.receive()) is not None:
                await self._believe(name, event)
                self._on_event(name, event)
                self._settle()
        except CommcliError as error:
            side.error = side.error or error
        finally:
            side.ended = True
            self._settle()

    async def _believe(self, name: str, event: Mapping[str, Any]) -> None:
        """Take what an endpoint says. Raises Failed for what no endpoint of ours would say."""
        try:
            await self._handle(name, event)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
            raise Failed(f"its endpoint said what can not be ({type(error).__name__})") from None

    async def _handle(self, name: str, event: Mapping[str, Any]) -> None:
        side, other = self.sides[name], self._other(name)
        match event["event"]:
            case "phase":
                side.phases[str(event["phase"])] = told.number_or_none(event["ms"])
            case "description":
                side.relayed = (str(event["relayed"][0]), int(event["relayed"][1]))
                message = {"do": "description", "type": event["type"], "sdp": bounded(event["sdp"])}
                if other.program is not None:
                    await other.program.send(message)
            case "connected":
                side.connected_unix = told.number(event["unix"])
            case "report":
                report = told.report(event["report"])
                _reckon(report, PROFILES[self._ask.profile])
                side.report = report
            case "error":
                side.error = (LockHeld if event["kind"] == "busy" else Failed)(str(event["reason"]))
                side.untried = event["kind"] != "call"

    def _settle(self) -> None:
        """Nothing more is to be expected: both have reported, or one ended without: the other hears nobody then."""
        sides = list(self.sides.values())
        gone = any(side.ended and side.report is None for side in sides)
        if gone or all(side.report is not None for side in sides):
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
            if side.error is not None and side.untried:
                raise type(side.error)(f"node {side.end.node.id}: {side.error}")
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

    async def _readings(self, before: hops.Readings) -> _Readings:
        """What every relay counted; None for one that cannot be asked. Who was away `before` is not asked again."""
        away = {node for node, told in before.items() if told is None}

        async def one(node: Node) -> hops.Reading:
            answer = await control.ask(
                await self._pool.connect(node), node, "flows", timeout_s=FLOWS_TIMEOUT_S
            )
            return told.reading(node.id, answer)

        nodes = [node for node in self._fleet.nodes.values() if node.id not in away]
        outcomes = await each(nodes, one, parallel=self._fleet.ssh.parallel, node_timeout_s=FLOWS_TIMEOUT_S)
        return {**dict.fromkeys(away), **{outcome.node: outcome.value for outcome in outcomes}}


async def _resolve_ms(node: Node) -> float | None:
    """How long the name of the node's SSH host took; None behind a bastion, which resolves it, or without an answer."""
    if node.ssh.proxy_jump is not None:
        return None
    began = time.monotonic()
    lookup = asyncio.get_running_loop().getaddrinfo(node.ssh.host, node.ssh.port)
    # What is wrong with the name, connecting will say.
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(lookup, RESOLVE_TIMEOUT_S)
        return 1000 * (time.monotonic() - began)
    return None


def _reckon(report: Mapping[str, Any], profile: Profile) -> None:
    """Try what the document needs of a report. Raises what a report of another shape makes of it."""
    alone = Evidence(profile, report, report, (None, None), ("", ""), {}, {})
    judge.verdict(True, True, measured(alone))


async def _all(starts: Sequence[Awaitable[None]], readings: Awaitable[_Readings]) -> _Readings:
    """All at once. The first error is raised when the others have come to their end, so none is left behind."""
    *errors, before = await asyncio.gather(*starts, readings, return_exceptions=True)
    for result in (*errors, before):
        if isinstance(result, BaseException):
            raise result
    return cast(_Readings, before)


# --- the document ---------------------------------------------------------------------------------------------------


def _document(
    fleet: Fleet, ask: Ask, began: float, sides: Mapping[str, _Side], evidence: Evidence
) -> dict[str, Any]:
    first, second = sides["from"], sides["to"]
    connected = any(side.connected_unix is not None for side in sides.values())
    figures = measured(evidence)
    valid, invalid_reason = judge.validity([(side.end.node.id, side.report) for side in sides.values()])
    setup_ms = set_up_ms(first.phases, second.phases)
    there, back = limits_of(fleet, first.end, second.end), limits_of(fleet, second.end, first.end)
    word, by_direction = judge.verdict(connected, valid, figures, setup_ms, there, back)
    for name, own in by_direction.items():
        figures["directions"][name].update(own.row())
    problems = [f"{side.end.node.id}: {side.error}" for side in sides.values() if side.error is not None]
    document = {
        "schema": 1,
        "kind": "probe.call",
        "unix": began,
        "from": first.end.row(),
        "to": second.end.row(),
        **ask.row(),
        "connected": connected,
        "connected_unix": max((s.connected_unix for s in sides.values() if s.connected_unix), default=None),
        "problems": problems,
        "valid": valid,
        "invalid_reason": invalid_reason or ("no end sent a report" if connected and valid is None else None),
        "verdict": word.word,
        "reasons": [*word.reasons, *problems],
        "limits": {
            "there": {name: limit.row() for name, limit in there.items()},
            "back": {name: limit.row() for name, limit in back.items()},
        },
        "setup_ms": setup_ms,
        "phases_ms": {
            name: {"resolve": side.resolve_ms, "ssh": side.ssh_ms, **side.phases}
            for name, side in sides.items()
        },
        **figures,
    }
    rounded: dict[str, Any] = _rounded(document)
    return rounded


def limits_of(fleet: Fleet, src: End, dst: End) -> judge.Limits:
    """What holds for media from one end's market to the other's, published or the inventory's own."""
    return judge.limits(fleet.probes.overrides(src.market, dst.market))


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
