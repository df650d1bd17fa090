"""One end of a probe call. This program runs on a node: the controller streams it there and carries its SDP.

`run` is its entry. It is told `{"do": "description", "type", "sdp"}` and `{"do": "stop"}`, and tells
`{"event": "phase"|"description"|"connected"|"report"|"error"|"end", ...}`. When the controller goes away the channel
ends this process (remote/onnode/channel.py); whatever else happens, an alarm of the kernel ends it after its limit.

Argument: {"role": "offer"|"answer", "turn": {"host", "port", "username", "password", "transport": "udp"|"tcp"|"tls",
"server_name": str|None, "ca_pem": str|None}, "peers": [addresses that the other end may relay from], "profile": str,
"seconds": float, "connect_timeout_s": float, "limit_s": int, "slots": {"folder": str, "most": int}|None}. May be left
out: transport (udp), server_name (the host), ca_pem (the machine's CAs), slots (as many calls as are asked for).
An `error` event has a "kind" (see ending.py): only "call" says something of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import aioice.stun
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import vpx
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from commcli.probe import media
from commcli.probe.arrival import Arrivals
from commcli.probe.assembly import Assembly
from commcli.probe.association import mend
from commcli.probe.description import bounded, only_relays, relayed_addresses
from commcli.probe.ending import Ended
from commcli.probe.feedback import Feedback
from commcli.probe.host import CpuClock, LoopLag, kernel_clock, starved
from commcli.probe.pings import Pinger
from commcli.probe.profiles import PROFILES, Profile
from commcli.probe.quality import percentile
from commcli.probe.slots import slot
from commcli.probe.stream import Frame, Window, spread, summarize
from commcli.probe.tap import Tap, send_times_on_audio
from commcli.probe.turn import Turn, abandon, allocate_bare, connection, trust

# Whatever the controller asks for, a call ends.
MOST_SECONDS = 600.0
MOST_LIMIT_S = 720
MEDIA_TIMEOUT_S = 5.0
# Of a packet to the edge: IPv4, UDP, ChannelData.
HEADERS = 20 + 8 + 4
CLOSE_TIMEOUT_S = 3.0

# Browsers send their first ICE checks some 50 ms apart. aioice waits 500 ms, and one check is always lost while the
# other edge has no permission for us yet: half of all set-up times would be aioice's and not the network's.
CHECK_RTO_S = 0.1
# The same constant is all the time that an answer to a consent check may take, which aioice asks only once: on a
# path with more RTT than that every call would end after half a minute.
CONSENT_RTO_S = 3.0


class Channel(Protocol):
    """The part of remote/onnode/channel.py that is used here."""

    def send(self, message: Any) -> None: ...
    def receive(self, timeout: float | None = None) -> Any: ...


class Controller:
    """The controller, seen from the event loop."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        # A thread of its own, not the loop's executor: leaving the loop would wait for a reader that never returns.
        threading.Thread(target=self._listen, name="controller", daemon=True).start()

    def _listen(self) -> None:
        # The loop may be closed before the process ends; then nobody wants the message.
        with contextlib.suppress(RuntimeError):
            while True:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, self._channel.receive())

    def tell(self, event: str, **fields: object) -> None:
        """Send one event now."""
        self._channel.send({"event": event, **fields})

    async def wait_for(self, wanted: str, timeout_s: float) -> dict[str, Any]:
        """The next message with `do == wanted`; others before it are dropped. Raises Ended after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                message = await asyncio.wait_for(self._queue.get(), deadline - time.monotonic())
            except TimeoutError:
                raise Ended(f"no {wanted} from the controller after {timeout_s:g} s") from None
            if isinstance(message, dict) and message.get("do") == wanted:
                return message


@dataclass(frozen=True, slots=True)
class Argument:
    """What the controller asks for; see the module's text."""

    role: str
    turn: Turn
    peers: tuple[str, ...]
    profile: Profile
    seconds: float
    connect_timeout_s: float
    limit_s: int
    slots: tuple[str, int] | None = None  # the folder of the locks, and how many calls there may be

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Argument:
        """Raises KeyError, ValueError or TypeError for anything that it does not know."""
        if raw["role"] not in ("offer", "answer"):
            raise ValueError(f"unknown role {raw['role']!r}")
        slots = raw.get("slots")
        return cls(
            role=raw["role"],
            turn=Turn.parse(raw["turn"]),
            peers=tuple(raw["peers"]),
            profile=PROFILES[raw["profile"]],
            seconds=min(float(raw["seconds"]), MOST_SECONDS),
            connect_timeout_s=float(raw["connect_timeout_s"]),
            limit_s=min(int(raw["limit_s"]), MOST_LIMIT_S),
            slots=None if slots is None else (str(slots["folder"]), int(slots["most"])),
        )


class Phases:
    """When each phase of the set-up was over, in ms since the one before it began; tells the controller as it goes."""

    def __init__(self, controller: Controller) -> None:
        self.ms: dict[str, float | None] = {}
        self._controller = controller

    def done(self, name: str, since: float, until: float | None = None) -> None:
        """Phase `name` began at `since` (time.time()) and ends now, or at `until`."""
        self.ms[name] = 1000 * ((time.time() if until is None else until) - since)
        self._controller.tell("phase", phase=name, ms=self.ms[name])

    def missing(self, name: str) -> None:
        self.ms[name] = None
        self._controller.tell("phase", phase=name, ms=None)


# --- the call -------------------------------------------------------------------------------------------------------


class Endpoint:
    """One call from allocation to report."""

    def __init__(self, argument: Argument, controller: Controller) -> None:
        self._argument = argument
        self._controller = controller
        self._phases = Phases(controller)
        self._peer: RTCPeerConnection | None = None
        self._taps: dict[str, Tap] = {}
        self._pinger: Pinger | None = None
        self._arrivals: Arrivals | None = None
        self._video = media.VideoTrack(argument.profile) if argument.profile.fps else None
        self._audio = media.AudioTrack(argument.profile)
        self._first_frame = asyncio.Event()
        self._connected = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._relayed: tuple[str, int] | None = None
        self._ice_done: float | None = None

    async def run(self) -> None:
        """The whole call. Raises Ended with the reason when it does not come about."""
        began = time.time()
        self._phases.done("allocate", began, await allocate_bare(self._argument.turn))
        self._prepare()
        await (self._offer() if self._argument.role == "offer" else self._answer())
        described = time.time()
        await self._wait_connected(described)
        await self._wait_media(time.time())
        self._controller.tell("connected", phases=self._phases.ms, unix=time.time())
        self._controller.tell("report", report=await self._measure())
        # Keep sending until the other end has measured too.
        await self._controller.wait_for("stop", self._argument.seconds + 30)

    def give_up(self) -> None:
        """Give the allocation back at once: there may be a fifth of a second left (see `serve`)."""
        if self._peer is not None:
            abandon(self._peer)

    async def close(self) -> None:
        """Say goodbye and give the allocation back, within bounded time."""
        for task in self._tasks:
            task.cancel()
        if self._peer is not None:
            await asyncio.wait({asyncio.ensure_future(self._peer.close())}, timeout=CLOSE_TIMEOUT_S)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _prepare(self) -> None:
        kbps = self._argument.profile.video_kbps
        if kbps:
            # A probe sends at a constant rate: two calls are compared, and one must not have backed off.
            vpx.MIN_BITRATE = vpx.DEFAULT_BITRATE = vpx.MAX_BITRATE = 1000 * kbps
        send_times_on_audio()
        aioice.stun.RETRY_RTO = CHECK_RTO_S
        peer = self._peer = connection(self._argument.turn)
        peer.on("track", self._on_track)
        peer.on("datachannel", self._on_channel)
        peer.on("connectionstatechange", self._on_state)
        peer.on("iceconnectionstatechange", self._on_ice)

    def _add_media(self, peer: RTCPeerConnection) -> None:
        peer.addTrack(self._audio)
        if self._video is not None:
            peer.addTrack(self._video)

    async def _offer(self) -> None:
        peer = self._live_peer()
        self._add_media(peer)
        self._on_channel(peer.createDataChannel("ping", ordered=False, maxRetransmits=0))
        await self._describe(await peer.createOffer())
        await self._learn("answer")

    async def _answer(self) -> None:
        peer = self._live_peer()
        await self._learn("offer")
        self._add_media(peer)
        await self._describe(await peer.createAnswer())

    async def _describe(self, description: RTCSessionDescription) -> None:
        """Gather and send our description."""
        peer = self._live_peer()
        began = time.time()
        trust(peer, self._argument.turn)
        await peer.setLocalDescription(description)
        self._phases.done("gather", began)
        local = peer.localDescription
        relayed = relayed_addresses(local.sdp)
        if not relayed:
            raise Ended("gathering gave no relayed address, although a bare allocation was granted")
        self._relayed = relayed[0]
        self._controller.tell("description", type=local.type, sdp=local.sdp, relayed=list(self._relayed))

    async def _learn(self, kind: str) -> None:
        """Wait for the other end's description and take it."""
        began = time.time()
        message = await self._controller.wait_for("description", self._argument.connect_timeout_s + 30)
        self._phases.done("signalling", began)
        try:
            sdp = only_relays(bounded(message.get("sdp")), self._argument.peers)
        except ValueError as error:
            raise Ended(f"the other end's description {error}") from None
        if not relayed_addresses(sdp):
            raise Ended("the other end's description has no relayed address of its edge")
        await self._live_peer().setRemoteDescription(RTCSessionDescription(sdp, kind))
        for tap in self._taps.values():
            tap.expect_repair(sdp)
        if (association := self._live_peer().sctp) is not None:
            mend(association)
        # Everything shares the first transport from here on (BUNDLE).
        self._arrivals = Arrivals(self._live_peer().getTransceivers()[0].receiver.transport.transport)

    def _live_peer(self) -> RTCPeerConnection:
        assert self._peer is not None
        return self._peer

    # events

    def _on_track(self, track: MediaStreamTrack) -> None:
        transceiver = next(t for t in self._live_peer().getTransceivers() if t.receiver.track is track)
        feedback = assembly = None
        if track.kind == "video":
            assembly = Assembly(transceiver.receiver)
            feedback = Feedback(transceiver.receiver, self._rtt_s)
            self._spawn(feedback.run())
        self._taps[track.kind] = Tap(transceiver.receiver, track.kind, feedback, assembly, self._arrived_s)
        self._spawn(self._drain(track))

    async def _flush(self, channel: RTCDataChannel) -> float:
        """Have it send what it has; when the latest datagram of all went out (unix s)."""
        await channel.transport._data_channel_flush()
        return 0.0 if self._arrivals is None else self._arrivals.left_s

    def _arrived_s(self) -> float:
        return time.time() if self._arrivals is None else self._arrivals.now()

    def _rtt_s(self) -> float | None:
        return self._pinger.rtt_s() if self._pinger is not None else None

    async def _drain(self, track: MediaStreamTrack) -> None:
        tap = self._taps[track.kind]
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if isinstance(frame, VideoFrame) and frame.pts is not None:
                stamp = media.read(frame)
                tap.frame(Frame(tap.rtp_timestamp(frame.pts), time.time(), stamp))
                self._first_frame.set()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._pinger = Pinger(
            channel,
            self._argument.profile.ping_interval_s,
            arrived_s=self._arrived_s,
            flush=lambda: self._flush(channel),
        )
        self._spawn(self._pinger.run())

    def _on_ice(self) -> None:
        if self._live_peer().iceConnectionState == "completed":
            self._ice_done = time.time()

    def _on_state(self) -> None:
        if self._live_peer().connectionState in ("connected", "failed", "closed"):
            self._connected.set()

    # phases

    async def _wait_connected(self, described: float) -> None:
        timeout_s = self._argument.connect_timeout_s
        try:
            await asyncio.wait_for(self._connected.wait(), timeout_s)
        except TimeoutError:
            phase = "ICE" if self._ice_done is None else "DTLS"
            raise Ended(f"{phase} not done after {timeout_s:g} s") from None
        if self._live_peer().connectionState != "connected":
            raise Ended("ICE failed" if self._ice_done is None else "DTLS failed")
        aioice.stun.RETRY_RTO = CONSENT_RTO_S
        ice_done = self._ice_done or time.time()
        self._phases.done("ice", described, ice_done)
        self._phases.done("dtls", ice_done)

    async def _wait_media(self, connected: float) -> None:
        waits = {asyncio.ensure_future(tap.first_packet.wait()) for tap in self._taps.values()}
        if self._video is not None:
            waits.add(asyncio.ensure_future(self._first_frame.wait()))
        _, late = await asyncio.wait(waits, timeout=MEDIA_TIMEOUT_S)
        for wait in late:
            wait.cancel()
        audio, video = self._taps.get("audio"), self._taps.get("video")
        self._phase_at("first_audio", connected, audio.first_packet_s if audio else None)
        if self._video is not None:
            frames = video.received.frames if video else []
            self._phase_at("first_frame", connected, frames[0].decoded_s if frames else None)

    def _phase_at(self, name: str, since: float, at: float | None) -> None:
        if at is None:
            self._phases.missing(name)
        else:
            self._phases.done(name, since, max(since, at))

    # figures

    async def _measure(self) -> dict[str, Any]:
        lag, cpu = LoopLag(), CpuClock()
        self._spawn(lag.run())
        start, before = time.time(), self._count_sent()
        await asyncio.sleep(self._argument.seconds)
        window = Window(start, time.time())
        sent = self._sent(window, self._count_sent() - before)
        return self._report(window, lag.samples_ms(), cpu, sent)

    def _report(
        self, window: Window, lag_ms: list[float], cpu: CpuClock, sent: dict[str, Any]
    ) -> dict[str, Any]:
        lag_p99, lag_max = percentile(lag_ms, 99), max(lag_ms, default=None)
        reason = starved(lag_p99, sent["share"], lag_max)
        return {
            "role": self._argument.role,
            "window": asdict(window),
            "valid": reason is None,
            "reason": reason,
            "phases_ms": self._phases.ms,
            "relayed": list(self._relayed) if self._relayed else None,
            "connection_state": self._live_peer().connectionState,
            "received": {kind: summarize(tap.received, window) for kind, tap in self._taps.items()},
            "sent": sent,
            "pings": self._pinger.report(window) if self._pinger else None,
            "host": {
                "loop_lag_ms": {"p50": percentile(lag_ms, 50), "p99": lag_p99, "max": lag_max},
                "cpu_steal": cpu.steal(),
                "cpu_cores": cpu.cores(),
            },
            "clock": asdict(kernel_clock()),
        }

    def _count_sent(self) -> Counter[str]:
        """Audio packets sent, and all packets and bytes that went to the edge, so far."""
        dtls = self._live_peer().getTransceivers()[0].sender.transport
        transport = next(iter(dtls._get_stats().values()))
        return Counter(audio=self._audio.sent, packets=transport.packetsSent, octets=transport.bytesSent)

    def _sent(self, window: Window, counted: Counter[str]) -> dict[str, Any]:
        """What we sent, and the smaller share of what was due (one frame may fall outside either end).

        `wire_kbps` is everything, pings and answers too, with the headers of IPv4, UDP and ChannelData: what it takes
        of the way to the edge over UDP.
        """
        seconds = window.end_s - window.start_s
        shares = [(counted["audio"] + 1) / (seconds / self._audio.interval_s)]
        octets = counted["octets"] + counted["packets"] * HEADERS
        sent: dict[str, Any] = {
            "audio_packets": counted["audio"],
            "wire_kbps": 8 * octets / seconds / 1000,
            "fps": None,
            "encode_ms": None,
        }
        if self._video is not None:
            painted = [(at, took) for at, took in self._video.sent if window.holds(at)]
            sent["fps"] = len(painted) / seconds
            sent["encode_ms"] = spread([took for _, took in painted if took is not None])
            shares.append((len(painted) + 1) / (seconds * self._argument.profile.fps))
        sent["share"] = min(1.0, *shares)
        return sent


# --- the program ----------------------------------------------------------------------------------------------------


async def serve(raw: Mapping[str, Any], channel: Channel) -> None:
    """One call, as `raw` asks (see Argument.parse); every ending but the controller's own has an `error` event."""
    controller = Controller(channel)
    try:
        argument = Argument.parse(raw)
    except (KeyError, ValueError, TypeError) as error:
        controller.tell("error", reason=f"bad argument: {error!r}", kind="node")
        return
    # The kernel's alarm, not ours: it works even if this process is stuck.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(argument.limit_s)
    try:
        with slot(*argument.slots) if argument.slots else contextlib.nullcontext():
            await _serve(argument, controller)
    except Ended as failure:
        controller.tell("error", reason=str(failure), kind=failure.kind)
    except Exception as failure:
        controller.tell("error", reason=f"{type(failure).__name__}: {failure}", kind="call")
    controller.tell("end")


async def _serve(argument: Argument, controller: Controller) -> None:
    """The call, and its tidy end. Raises what the call does."""
    endpoint = Endpoint(argument, controller)
    call = asyncio.ensure_future(endpoint.run())

    def controller_is_gone() -> None:
        endpoint.give_up()
        call.cancel()

    # The channel sends SIGTERM when the controller is gone, and SIGKILL 0.2 s later. Closing properly takes longer
    # on a busy node, and an allocation that nobody frees holds its port for ten minutes.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, controller_is_gone)
    try:
        # In time to close properly before the alarm.
        await asyncio.wait({call}, timeout=max(1.0, argument.limit_s - CLOSE_TIMEOUT_S - 2))
        if not call.done():
            raise Ended(f"the call was not over after {argument.limit_s} s")
        if not call.cancelled():
            call.result()
    finally:
        call.cancel()
        await endpoint.close()


def run(argument: Mapping[str, Any], channel: Channel) -> None:
    """The program's entry on the node."""
    asyncio.run(serve(argument, channel))
