"""Every parser that a socket can reach, as a function of bytes that raises only when something is wrong.

The Hypothesis tests and the coverage-guided run (`make fuzz`) share them. A target may not let any exception out,
but for AssertionError, which is a find.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from commcli.relay.clients.framing import FrameError, Frames
from commcli.relay.mesh import stamp
from commcli.relay.mesh.mesh import Mesh
from commcli.relay.mesh.reflector import Reflector
from commcli.relay.overlay import hello, telemetry, train, wire
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.process import control
from commcli.relay.protect import resend
from commcli.relay.protect.controller import Controller
from commcli.relay.protect.parity import Blocks, Rebuilder
from commcli.relay.table import shard
from commcli.relay.turn import stun
from commcli.relay.turn.stun import Addr
from tests.fuzz.playground import Playground, Program
from tests.relay import overlay_world
from tests.relay.overlay_world import UNIX_0, Plan
from tests.relay.tables_on_disk import shard as good_shard

Target = Callable[[bytes], None]


def fuzz_stun(data: bytes) -> None:
    """Whatever is read can be written again, and reads the same."""
    try:
        message = stun.parse(data)
    except stun.StunError as error:
        assert str(error).replace(" ", "").isalnum()  # it becomes a counter's name
        return
    assert all(len(value) <= len(data) for _, value in message.attributes)
    for kind, value in message.attributes:
        for read in (stun.unpack_address, stun.unpack_u32, stun.unpack_error):
            _read_value(read, value)
        assert message.first(kind) == message.every(kind)[0]
    for sha256 in (False, True):
        assert not message.signed_by(b"a key that nobody has", sha256)
    plain = [attribute for attribute in message.attributes if attribute[0] not in stun._INTEGRITIES]
    again = stun.parse(stun.build(message.method, message.kind, message.transaction, plain, fingerprint=True))
    assert (again.method, again.kind, again.transaction) == (
        message.method,
        message.kind,
        message.transaction,
    )
    assert again.attributes == plain


def _read_value(read: Callable[..., Any], value: bytes) -> None:
    try:
        read(value)
    except stun.StunError:
        return


def fuzz_server(data: bytes) -> None:
    """A program of clients, see `playground`."""
    Playground().run(Program(data))


def fuzz_frames(data: bytes) -> None:
    """However a stream is cut, it gives the same frames. When what can be none is noticed, and by which of its
    faults, may differ."""
    chance = random.Random(len(data) and data[0])
    whole = _frames([data[1:]])
    pieces, at = [], 1
    while at < len(data):
        size = chance.choice((1, 1, 2, 3, 5, 50, 1000))
        pieces.append(data[at : at + size])
        at += size
    assert _frames(pieces) == whole
    assert data[1:].startswith(b"".join(whole))


def _frames(pieces: list[bytes]) -> list[bytes]:
    """The frames of a stream that comes in these pieces, until something in it can be none."""
    frames, found = Frames(), []
    for piece in pieces:
        more, first = True, True
        while more:
            try:
                found += frames.feed(piece if first else b"")
            except FrameError as error:
                assert str(error).isalnum()  # it becomes a counter's name
                return found
            more, first = frames.more, False
        assert len(frames) < frames.limit
    return found


_NODES = ("br-1", "us-1", "de-1", "jp-1")
_PLAN = Plan(_NODES, [("br-1", "us-1", "de-1", "jp-1"), ("jp-1", "de-1", "us-1", "br-1")])
_MEDIA = b"media"
_TRAINS = 64  # datagrams that are handed over in one piece are cut so often at most
# Answers to one datagram: what was asked to be repeated, and what everybody hears when somebody dies.
_MOST_ANSWERS = 4 * resend.MAX_AT_ONCE


@functools.cache
def _overlays() -> dict[str, Overlay]:
    return overlay_world.World(_PLAN).nodes


_sequences = iter(range(int(UNIX_0 * 1e6), 1 << 62))
_moments = (step / 1000 for step in itertools.count())


def fuzz_overlay(data: bytes) -> None:
    """As it is, and under a good key with a sequence that has not been seen, to a relay in the middle and an egress.

    Bytes: which node, kind, class and flags, how much is covered (in 256ths), the body. Nothing leaves the fleet,
    nothing is answered at length, nobody hears what the ingress did not say, and no buffer grows over its bound.
    """
    program, body = data[:4].ljust(4, b"\0"), data[4:]
    before, name = (("br-1", "us-1"), ("de-1", "jp-1"))[program[0] & 1]
    node, source, now = _overlays()[name], _PLAN.overlay(before), next(_moments)
    assert node.receive(source, [data], now, UNIX_0 + now) == []
    _judge_overlay(node, now)
    covered = len(body) * program[3] // 255
    sealed = _sealed(before, name, program[1], program[2], body, covered)
    if program[0] & 2:
        size = max(1, len(sealed) // _TRAINS, program[3])
        found = node.receive_train(source, sealed, size, now, UNIX_0 + now)
    else:
        found = node.receive(source, [sealed], now, UNIX_0 + now)
    assert all(payload == _MEDIA for _src, _dst, payloads in found for payload in payloads)
    _judge_overlay(node, now)


def _sealed(sender: str, receiver: str, kind: int, marks: int, body: bytes, covered: int) -> bytes:
    key, ends = overlay_world.pair_key(sender, receiver), map(wire.node_number, (sender, receiver))
    sequence = next(_sequences)
    message = wire.HEADER.pack(kind, marks, covered, sequence, sequence) + body[:covered]
    as_data = bytes((wire.kind_byte(wire.DATA),)) + message[1:]
    tag = wire.hop_keyed(key, *ends)()
    tag.update(as_data if kind == wire.kind_byte(wire.AGAIN) else message)
    return tag.digest() + message + body[covered:]


def _judge_overlay(node: Overlay, now: float) -> None:
    node.tick(now, UNIX_0 + now)
    fleet = {_PLAN.overlay(name) for name in _NODES}
    for departure in node.flush(now, UNIX_0 + now):
        assert departure.to in fleet
        assert len(departure.datagrams) + len(departure.trains) <= _MOST_ANSWERS
    for row in node.buffers().values():
        for what in ("bytes", "entries", "datagrams"):
            assert row.get(what, 0) <= row.get(f"most_{what}", row.get(what, 0))


def fuzz_hello(data: bytes) -> None:
    """What is read is written again as it was."""
    try:
        said = hello.unpack(data)
    except ValueError:
        return
    assert hello.pack(said) == data


def fuzz_report(data: bytes) -> None:
    """What is read is written again as it was; and an estimate of any rows is one, in its bounds."""
    try:
        rows = telemetry.unpack(data)
    except ValueError:
        return
    assert telemetry.pack(rows) == data
    estimator, controller = telemetry.Estimator(), Controller()
    for number, row in enumerate(rows):
        now = number * telemetry.INTERVAL_S
        estimate = estimator.row(row, now, rtt_s=0.08)
        if estimate is not None:
            assert 0 <= estimate.loss_1s <= 1 and 0 <= estimate.p <= 1 and estimate.burst >= 1
            controller.measured(estimate, now)
            for word in wire.PROTECTED:
                controller.plan(word, 50.0, 0.5, now)
    json.dumps(controller.status(), allow_nan=False)


def fuzz_nack(data: bytes) -> None:
    """A set of sequences has one spelling; and whoever asks for much gets no more than is kept, once."""
    try:
        sequences = resend.unpack(data)
    except ValueError:
        return
    assert resend.pack(sequences) == data
    sent = resend.Sent()
    for sequence in sequences[:3]:
        sent.keep(sequence, b"datagram", 0.0)
    assert len(sent.again(sequences, 0.01)) <= 3 and sent.again(sequences, 0.01) == []


def fuzz_parity(data: bytes) -> None:
    """Bodies of parities one behind the other, each after its length, among datagrams that came: never more than its
    bound, and never anything but what a body can hold."""
    rebuilder = Rebuilder(most_bytes=1 << 20)
    at, sequence = 0, 1
    while at < len(data):
        size = data[at]
        body, at = data[at + 1 : at + 1 + size], at + 1 + size
        for rebuilt in _rebuilt(rebuilder, body):
            assert 0 < len(rebuilt) <= size
        rebuilder.keep(sequence, body, 0.0)
        sequence += 1 + (size & 1)
        figures = rebuilder.figures()
        assert figures["bytes"] <= figures["most_bytes"] + len(data)


def _rebuilt(rebuilder: Rebuilder, body: bytes) -> list[bytes]:
    try:
        return rebuilder.parity(body, 0.0)
    except ValueError:
        return []


def fuzz_train(data: bytes) -> None:
    """The head of a train, and what is before it: its packets are those that its entries say."""
    head, _, before = data.partition(b"\xff\xff")
    try:
        coupling = train.head_of(head, wire.VIDEO)
    except ValueError:
        return
    lengths = list(coupling.lengths)
    assert len(lengths) <= wire.MAX_ENTRIES and max(lengths) + train.BARE_BYTES == coupling.bare_bytes
    assert [len(entry) for entry in coupling.entries()] == [coupling.entry_bytes()] * len(lengths)
    flows = coupling.by_flow()
    assert sum(packets for _, packets, _ in flows) == len(lengths)
    assert sum(size for _, _, size in flows) == sum(lengths)
    if train.is_whole(before, coupling.bare_bytes, coupling):
        assert [len(load.payload) for load in train.loads_of(before, coupling)] == lengths
    yard = train.Yard()
    for start in range(0, min(len(before), 100 * coupling.bare_bytes), coupling.bare_bytes):
        bare = before[start : start + coupling.bare_bytes]
        if len(bare) >= train.BARE_BYTES:
            yard.bare(bare, 0.0)
    assert len(yard.head(coupling, 0.0)) <= len(lengths)
    yard.expire(10.0)
    assert yard.figures()["bytes"] == 0


@functools.cache
def _stamps() -> tuple[Mesh, Reflector]:
    mesh, reflector = Mesh("us-1", random.Random(1).randbytes), Reflector("us-1")
    mesh.set_peers(_PLAN.peers("us-1"))
    reflector.set_peers(_PLAN.peers("us-1"))
    return mesh, reflector


def fuzz_stamp(data: bytes) -> None:
    """Both codecs; and the reflector never answers with more than it was asked, nor anybody unknown."""
    for seal in (None, stamp.Seal(b"k" * 32)):
        request, reply = stamp.unpack_request(data, seal), stamp.unpack_reply(data, seal)
        assert (request is None) == (reply is None)
    mesh, reflector = _stamps()
    known: Addr = (_PLAN.address("br-1"), 50000)
    assert reflector.receive(data, ("203.0.113.9", 1), UNIX_0, UNIX_0) is None
    assert reflector.receive(data, known, UNIX_0, UNIX_0) is None  # no seal of the pair
    blocks = data[:96].ljust(96, b"\0")
    sealed = blocks + _request_seal().tag(blocks)
    answer = reflector.receive(sealed + data[96:], known, UNIX_0, UNIX_0)
    assert answer is None or len(answer) <= len(sealed + data[96:])
    mesh.receive_reply(data, known, 0.0, UNIX_0)


@functools.cache
def _request_seal() -> stamp.Seal:
    return stamp.Seal(stamp.session_key(overlay_world.pair_key("br-1", "us-1"), "br-1", reply=False))


def _command(request: dict[str, Any]) -> dict[str, Any]:
    """Reads the arguments as the relay's own commands do."""
    if request["cmd"] == "mesh":
        return {"ok": True, "since": float(request.get("since", 0))}
    if request["cmd"] == "drain":
        return {"ok": True, "sessions": int(request.get("sessions", 0)), "stop": bool(request.get("stop"))}
    raise ValueError(f"unknown command {request['cmd']!r}")


def fuzz_control(data: bytes) -> None:
    """One line in, one line of JSON out, whatever it was."""
    answer = control.json_answers(_command)(data)
    assert (answer is None) == (b"\n" not in data)
    assert not isinstance(answer, control.Later)
    if answer is not None:
        assert answer.endswith(b"\n") and answer.count(b"\n") == 1
        assert isinstance(json.loads(answer)["ok"], bool)


def fuzz_http(data: bytes) -> None:
    """A page for those who ask for it, a 404 for all others, nothing before the request is whole."""
    answer = control.http_answers(lambda: "up 1\n")(data)
    assert (answer is None) == (b"\r\n\r\n" not in data)
    assert not isinstance(answer, control.Later)
    if answer is not None:
        good = data.startswith(b"GET /metrics ")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n" if good else b"HTTP/1.0 404 ")
        assert answer.endswith(b"\r\n\r\nup 1\n") == good


def fuzz_shard(data: bytes) -> None:
    """Manifest, shard and shared part of any shape, correctly hashed: a table, or a refusal with its reason."""
    front, _, rest = data.partition(b"\0")
    body, _, shared = rest.partition(b"\0")
    manifest = {
        "schema": 1, "fleet": "lab", "serial": 1, "created": "2026-01-01T00:00:00Z",
        "expires": "2026-02-01T00:00:00Z", "inputs": {"measurements": "0" * 64, "policy": "0" * 64},
    }  # fmt: skip
    one = {"ae-1": hashlib.sha256(body or front).hexdigest()}
    two = {**one, shard.SHARED: hashlib.sha256(shared).hexdigest()}
    fronts = (
        (json.dumps({**manifest, "shards": one}).encode(), body or front),
        (json.dumps({**manifest, "schema": 2, "shards": two}).encode(), body or front),
        (front, body),
    )
    for first, second in fronts:
        try:
            loaded = shard.load(
                first, second, shared=shared, node="ae-1", unix=1767225600.0, highest_serial=0
            )
        except shard.ShardRefused as refused:
            assert str(refused).isprintable()
        else:
            assert loaded.node == "ae-1"


TARGETS: dict[str, Target] = {
    name.removeprefix("fuzz_"): target
    for name, target in sorted(globals().items())
    if name.startswith("fuzz_")
}

_HELLO = hello.Hello(7, 9, 1000, 900, 50, 3, 30, 1000, True, ((1, 2), (2, 1)))
_ROW = telemetry.Row(1, 2, 30, 1000, 20, 15, 2, 10, 300, 400)


def _numbered_seed() -> bytes:
    """A shard of schema 2 and its shared part: three nodes."""
    old = good_shard(1)
    shared = {"schema": 2, "nodes": old["nodes"], "zones": []}
    own = {
        "schema": 2, "serial": 1, "node": "ae-1", "blocked": [1], "carries": [[2, 3, 0], [3, 0]],
        "routes": {"primary": [[0, 3, 2]], "backup": [], "last_resort": [[0, 2]]},
    }  # fmt: skip
    return b"\0".join((b"", json.dumps(own).encode(), json.dumps(shared).encode()))


def _overlay_seeds() -> list[bytes]:
    """One of each kind, for both nodes."""
    world = overlay_world.World(_PLAN)
    world.say("br-1", "jp-1", _MEDIA, _MEDIA)
    world.settle()
    bodies = {wire.TRAIN: _train_seed(), wire.PARITY: _parity_seed()[1:], wire.REPORT: telemetry.pack([_ROW])}
    bodies |= {wire.HELLO: hello.pack(_HELLO), wire.NACK: resend.pack([5, 6]), wire.MTU_OK: b"\5\xdc"}
    path = bytes((len(_NODES) << 4,)) + wire.path_bytes(_NODES) + wire.PROBE_ID.pack(7)
    bodies |= {wire.PROBE: path, wire.ECHO: path, wire.MTU: bytes(100)}
    seeds = [
        bytes((choice, wire.kind_byte(kind), wire.VIDEO << 6, 255)) + body
        for kind, body in bodies.items() for choice in range(4)
    ]  # fmt: skip
    for _sender, receiver, data in world.passed:
        kind, marks, covered, _, _ = wire.HEADER.unpack_from(data, wire.HEADER_AT)
        if kind == wire.kind_byte(wire.DATA) and receiver in ("us-1", "jp-1"):
            body = data[wire.HEADER_BYTES :]
            share = next(n for n in range(256) if len(body) * n // 255 >= covered)
            seeds.append(bytes((receiver == "jp-1", kind, marks, share)) + body)
            seeds.append(data)
    return seeds


def _parity_seed() -> bytes:
    blocks = Blocks()
    blocks.use(2, 1, 1.0)
    datagrams = [b"one datagram", b"and another"]
    bodies = [body for n, datagram in enumerate(datagrams, 1) for body in blocks.add(n, datagram, 0.0)]
    return b"".join(bytes((len(part),)) + part for part in (*datagrams[:1], *bodies))


def _train_seed() -> bytes:
    head = wire.section_head(_NODES, 4)
    ends = wire.pack_endpoints(_PLAN.relayed("br-1"), _PLAN.relayed("jp-1"))[wire.FAMILY_BYTES :]
    entry = ends + wire.NUMBER_AND_LENGTH.pack(1, 300) + bytes(wire.TAG_BYTES)
    bare, body = train.coupled(bytes(8), head, [(entry, bytes(300))] * 2)
    return body + b"\xff\xff" + bare


# Where a run begins when its corpus holds nothing yet: one good input of each kind.
SEEDS: dict[str, list[bytes]] = {
    "stun": [stun.build(stun.BINDING, stun.REQUEST, bytes(12), [(stun.SOFTWARE, b"x")], key=b"k", fingerprint=True)],
    "frames": [b"\1" + stun.build(stun.BINDING, stun.REQUEST, bytes(12)) + b"\x40\0\0\5hello\0\0\0"],
    "control": [b'{"cmd": "mesh", "since": 1}\n', b'{"cmd": "drain", "sessions": 4, "stop": true}\n'],
    "http": [b"GET /metrics HTTP/1.0\r\n\r\n"],
    "stamp": [stamp.pack_request(1, stamp.to_timestamp(UNIX_0), stamp.UNKNOWN_CLOCK.pack(), None)],
    "shard": [json.dumps(good_shard(1, carries=["kr-1 sg-1 ae-1", "sg-1 ae-1"])).encode(), _numbered_seed()],
    "server": [
        # a Binding of RFC 3489, from each client
        b"".join(b"\0\x14\0\1" + bytes(18) + bytes([client]) for client in range(5)),
        # alice allocates, permits, binds, sends on it, hears from it, and all expires
        bytes([3, 0, 0, 0, 5, 1, 0, 0, 4, 2, 0, 0, 0, 8, 0, 3]) + b"abc" + bytes([1, 0, 9, 0, 0, 1, 7, 10, 5, 1]),
    ],
    "overlay": _overlay_seeds(),
    "hello": [hello.pack(_HELLO), hello.pack(_HELLO._replace(held_us=None, heard_ms=None, dead=()))],
    "report": [telemetry.pack([_ROW, _ROW._replace(expected=2000, lost=40, runs=30)])],
    "nack": [resend.pack([5, 6, 40, 900]), resend.pack([1 << 40])],
    "parity": [_parity_seed()],
    "train": [_train_seed()],
}  # fmt: skip
