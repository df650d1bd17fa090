"""Every parser that a socket can reach, as a function of bytes that raises only when something is wrong.

The Hypothesis tests and the coverage-guided run (`make fuzz`) share them. A target may not let any exception out,
but for AssertionError, which is a find.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

from commcli.relay.clients.framing import FrameError, Frames
from commcli.relay.mesh import stamp
from commcli.relay.mesh.mesh import Mesh, Reflector
from commcli.relay.overlay.overlay import Overlay
from commcli.relay.process import control
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


@functools.cache
def _overlays() -> dict[str, Overlay]:
    return overlay_world.World(_PLAN).nodes


_sequences = iter(range(int(UNIX_0 * 1e6), 1 << 62))


def fuzz_overlay(data: bytes) -> None:
    """As it is, and under a good key with a sequence that has not been seen; nothing leaves the fleet."""
    node = _overlays()["us-1"]
    source = _PLAN.overlay("br-1")
    assert node.receive(data, source, 0.0, UNIX_0) == []
    fresh = data[:8] + next(_sequences).to_bytes(8, "big") + data[16:]
    key = overlay_world.pair_key("br-1", "us-1")
    tag = hashlib.blake2s(fresh, key=key, person=b"commov1", digest_size=16).digest()
    fleet = {_PLAN.overlay(name) for name in _NODES}
    for effect in node.receive(fresh + tag, source, 0.0, UNIX_0):
        assert effect[0] == "deliver" or (effect[1] in fleet and len(effect[2]) <= len(fresh) + 16)


@functools.cache
def _stamps() -> tuple[Mesh, Reflector]:
    mesh, reflector = Mesh("us-1", random.Random(1).randbytes), Reflector("us-1")
    mesh.set_peers(_PLAN.peers("us-1"))
    reflector.set_peers(_PLAN.peers("us-1"))
    return mesh, reflector


def fuzz_stamp(data: bytes) -> None:
    """Both codecs; and the reflector never answers with more than it was asked, nor anybody unknown."""
    for key in (None, b"k" * 32):
        request, reply = stamp.unpack_request(data, key), stamp.unpack_reply(data, key)
        assert (request is None) == (reply is None)
    mesh, reflector = _stamps()
    known: Addr = (_PLAN.address("br-1"), 50000)
    assert reflector.receive(data, ("203.0.113.9", 1), UNIX_0, UNIX_0) is None
    assert reflector.receive(data, known, UNIX_0, UNIX_0) is None  # no seal of the pair
    sealed = stamp._sealed(data[:96].ljust(96, b"\0"), _request_key())
    answer = reflector.receive(sealed + data[96:], known, UNIX_0, UNIX_0)
    assert answer is None or len(answer) <= len(sealed + data[96:])
    mesh.receive_reply(data, known, 0.0, UNIX_0)


@functools.cache
def _request_key() -> bytes:
    return stamp.session_key(overlay_world.pair_key("br-1", "us-1"), "br-1", reply=False)


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
    if answer is not None:
        assert answer.endswith(b"\n") and answer.count(b"\n") == 1
        assert isinstance(json.loads(answer)["ok"], bool)


def fuzz_http(data: bytes) -> None:
    """A page for those who ask for it, a 404 for all others, nothing before the request is whole."""
    answer = control.http_answers(lambda: "up 1\n")(data)
    assert (answer is None) == (b"\r\n\r\n" not in data)
    if answer is not None:
        good = data.startswith(b"GET /metrics ")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n" if good else b"HTTP/1.0 404 ")
        assert answer.endswith(b"\r\n\r\nup 1\n") == good


def fuzz_shard(data: bytes) -> None:
    """A shard and a manifest of any shape, correctly hashed: a table, or a refusal with its reason."""
    front, _, body = data.partition(b"\0")
    manifest = {
        "schema": 1, "fleet": "lab", "serial": 1, "created": "2026-01-01T00:00:00Z",
        "expires": "2026-02-01T00:00:00Z", "inputs": {"measurements": "0" * 64, "policy": "0" * 64},
        "shards": {"ae-1": hashlib.sha256(body or front).hexdigest()},
    }  # fmt: skip
    for first, second in ((json.dumps(manifest).encode(), body or front), (front, body)):
        try:
            loaded = shard.load(first, second, node="ae-1", unix=1767225600.0, highest_serial=0)
        except shard.ShardRefused as refused:
            assert str(refused).isprintable()
        else:
            assert loaded.node == "ae-1"


TARGETS: dict[str, Target] = {
    name.removeprefix("fuzz_"): target
    for name, target in sorted(globals().items())
    if name.startswith("fuzz_")
}

# Where a run begins when its corpus holds nothing yet: one good input of each kind.
SEEDS: dict[str, list[bytes]] = {
    "stun": [stun.build(stun.BINDING, stun.REQUEST, bytes(12), [(stun.SOFTWARE, b"x")], key=b"k", fingerprint=True)],
    "frames": [b"\1" + stun.build(stun.BINDING, stun.REQUEST, bytes(12)) + b"\x40\0\0\5hello\0\0\0"],
    "control": [b'{"cmd": "mesh", "since": 1}\n', b'{"cmd": "drain", "sessions": 4, "stop": true}\n'],
    "http": [b"GET /metrics HTTP/1.0\r\n\r\n"],
    "stamp": [stamp.pack_request(1, UNIX_0, stamp.UNKNOWN_CLOCK, None)],
    "shard": [json.dumps(good_shard(1)).encode()],
    "server": [
        # a Binding of RFC 3489, from each client
        b"".join(b"\0\x14\0\1" + bytes(18) + bytes([client]) for client in range(5)),
        # alice allocates, permits, binds, sends on it, hears from it, and all expires
        bytes([3, 0, 0, 0, 5, 1, 0, 0, 4, 2, 0, 0, 0, 8, 0, 3]) + b"abc" + bytes([1, 0, 9, 0, 0, 1, 7, 10, 5, 1]),
    ],
    "overlay": [
        data[:-16] for data in (
            _PLAN_DATAGRAM for _to, _PLAN_DATAGRAM in overlay_world.World(_PLAN).nodes["br-1"].send(
                "jp-1", _PLAN.relayed("br-1"), _PLAN.relayed("jp-1"), b"media", 0.0, UNIX_0
            )
        )
    ],
}  # fmt: skip
