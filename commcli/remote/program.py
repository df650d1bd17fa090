"""A program streamed to a node: one exec, all else over stdin, JSON lines both ways (onnode/channel.py).

Nothing is installed and nothing stays: the command line carries a few lines of bootstrap and a nonce, the
rest goes over stdin. A marker line with the nonce comes first, whatever is before it is dropped (a sudo
that does not ask leaves the password line to us). No `end` line means Lost, whatever the exit status says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets as random
import shlex
import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from commcli.remote.onnode import masks
from commcli.remote.outcome import Failed, Lost, bounded
from commcli.remote.ssh import Connection, Process

PYTHONS = ("/usr/bin/python3", "/usr/libexec/platform-python", "/usr/local/bin/python3")
NODE_PYTHON = (3, 9)
BEAT_S = 10.0
SILENCE_S = 30.0
HELLO_S = 30.0
STDERR_KEPT = 8192
LONGEST_LINE = 16 << 20
# Up to so many bytes go up at once: each write is a packet, and wakes the server and the program up.
TOGETHER = 256 << 10
# What a login shell prints before the hello, and what goes to stderr: whoever says more floods.
MOST_NOISE = 4 << 20

# Tries each python in turn; 126: too old, stdin untouched. $1 bootstrap, $2 nonce, $3 flags, then pythons.
_SHELL = (
    'b=$1 n=$2 f=$3;shift 3;for p;do p=$(command -v "$p")||continue;"$p" $f -c "$b" "$n" "$p";s=$?;'
    "[ $s = 126 ]||exit $s;done;exit 127"
)

# Runs on whatever python is there, so its first lines are for python 2.7 too. It must not echo what it reads.
_BOOT = """
import sys, os
if sys.version_info < (3, 9):
    sys.stderr.write("%s is python %d.%d.%d\\n" % ((sys.argv[2],) + tuple(sys.version_info[:3])))
    sys.stderr.flush()
    os._exit(126)
# While the program is on its way: what it will need of the library.
import ast, base64, contextlib, fcntl, grp, hashlib, importlib, json, operator, pwd, queue, re, selectors, shutil
import signal, stat, threading, time, typing, zlib
stdin = os.fdopen(os.dup(0), "rb")
nonce = sys.argv[1]
while True:
    line = stdin.readline()
    if not line:
        os._exit(125)
    words = line.split()
    if len(words) == 4 and words[0] == b"commcli" and words[1] == nonce.encode():
        break
data = stdin.read(int(words[2]))
if hashlib.sha256(data).hexdigest().encode() != words[3]:
    sys.stderr.write("the program arrived damaged\\n")
    os._exit(125)
sources = json.loads(zlib.decompress(data))
space = {}
exec(sources["commcli.remote.onnode.importer"], space)
space["run"](sources, stdin, nonce)
"""


def command_line(python: str | None, nonce: str, *, site: bool) -> str:
    """The command line of an exec. A configured python is the only one tried; `site` keeps site-packages."""
    pythons = (python,) if python else (*PYTHONS, "python3")
    flags = "-I" if site else "-IS"
    return shlex.join(["sh", "-c", _SHELL, "commcli", _BOOT, nonce, flags, *pythons])


class NoPython(Failed):
    """No python3 there, or only one that is too old; nothing has begun."""


class Program:
    """A program at work on a node. Use `async with await Program.start(...) as program`.

    Leaving closes the channel, which ends the program and its children on the node if they still run.
    """

    def __init__(
        self, process: Process, nonce: str, secrets: Sequence[str], on_demand: Mapping[str, bytes]
    ) -> None:
        self.node_python: str | None = None
        self._process = process
        self._nonce = nonce
        self._words = masks.expand(secrets)
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._lines = 0
        self._ended = False
        self._stderr = b""
        self._on_demand = on_demand
        # What belongs together goes up together: a heartbeat in the middle of a blob would be taken for a byte of it.
        self._up = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls,
        connection: Connection,
        python: str | None,
        bundle: bytes,
        entry: str,
        argument: object,
        *,
        blobs: Iterable[bytes] = (),
        on_demand: Mapping[str, bytes] | None = None,
        site: bool = False,
        secrets: Sequence[str] = (),
    ) -> Program:
        """Start `entry` ("module:function", called with the argument and a Channel) and wait for its hello.

        `python` is a path on the node or None for the usual places; `argument` is JSON-able; `blobs` go up at once,
        those `on_demand`, by their sha256, if the program reaches for them, a round trip later; `secrets` are masked in
        every answer. Raises NoPython, Failed, Unreachable, Lost, TimedOut.
        """
        nonce = random.token_hex(16)
        process = await connection.start(command_line(python, nonce, site=site))
        program = cls(process, nonce, secrets, on_demand or {})
        try:
            program._tasks.append(asyncio.create_task(program._keep_stderr()))
            async with bounded(HELLO_S, f"no python3 answered within {HELLO_S:g} s"):
                # Not awaited before the hello: it is one exchange, however far the node.
                program._tasks.append(
                    asyncio.create_task(program._upload(_wire(nonce, bundle, entry, argument, blobs)))
                )
                await program._hello(python)
        except BaseException:
            await program.close()
            raise
        program._tasks.append(asyncio.create_task(program._beat()))
        return program

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, message: object) -> None:
        """Send one JSON-able message. Raises Lost."""
        await self._put(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Any:
        """The program's next message, or None after its proper end. A piece of a file is {"piece": base64}, unmasked.

        Raises Failed (it crashed), Lost (the stream broke off: what was asked may have happened).
        """
        while not self._ended:
            line = await self._line()
            if line is None:
                raise Lost(f"the connection ended in the middle of the program{self._last_words()}")
            self._count(line)
            body = _parsed(line)
            if "piece" in body:
                return body
            if "want" in body:
                await self._supply(str(body["want"]))
            if "m" in body:
                return masks.mask(body["m"], self._words)
            if "crash" in body:
                raise Failed(f"the program on the node failed: {masks.mask(body['crash'], self._words)}")
        return None

    async def close(self) -> None:
        """Close the channel. Safe to call twice."""
        self._process.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def _count(self, line: bytes) -> None:
        """Keep the digest of all lines; the `end` line must agree with it."""
        if line.startswith(b'{"end":'):
            end = _parsed(line)
            if (end["end"], end.get("lines")) != (self._digest.hexdigest(), self._lines):
                raise Lost("the program's answers arrived damaged")
            self._ended = True
        self._digest.update(line)
        self._lines += 1

    async def _line(self) -> bytes | None:
        """The next line with its newline; None at the end of the stream. Raises Lost after a silence."""
        looked = 0
        while (end := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            try:
                async with asyncio.timeout(SILENCE_S):
                    data = await self._process.read()
            except TimeoutError:
                raise Lost(f"no sign of life from the node for {SILENCE_S:g} s") from None
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > LONGEST_LINE:
                raise Lost(f"the node floods: a line of over {LONGEST_LINE >> 20} MiB")
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def _hello(self, python: str | None) -> None:
        opening, noise = b'{"hello":"' + self._nonce.encode() + b'"', 0
        while (line := await self._line()) is not None:
            # What a login shell's rc file prints comes before the hello, and is nobody's business.
            if line.startswith(opening):
                self._count(line)
                self.node_python = str(_parsed(line).get("python"))
                return
            noise += len(line)
            if noise > MOST_NOISE:
                raise Lost(f"the node floods: over {MOST_NOISE >> 20} MiB before python3 answered")
        raise await self._no_hello(python)

    async def _no_hello(self, python: str | None) -> Failed | Lost:
        status = await self._process.wait()
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        self._process.raise_if_refused(status, self._stderr)
        said = self._stderr.decode("utf-8", "replace").strip()
        needed = ".".join(map(str, NODE_PYTHON))
        if status is None:
            return Lost(f"the connection ended before python3 answered{self._last_words()}")
        if status == 127 and " is python " in said:
            return NoPython(f"python3 too old: {said.splitlines()[-1]}, needs {needed} or newer")
        if status == 127:
            where = python or ", ".join(PYTHONS)
            return NoPython(f"no python3 on the node (looked at {where})")
        return Failed(f"python3 did not start: exit status {status}{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return f": {masks.mask(lines[-1], self._words)}" if lines else ""

    async def _upload(self, data: Sequence[bytes]) -> None:
        # Whoever reads the answers learns why it broke off, and says so better than a failed write.
        with contextlib.suppress(Lost):
            await self._put(*data)

    async def _supply(self, digest: str) -> None:
        """What the program asked for, or the word that there is no such thing here."""
        data = self._on_demand.get(digest)
        length = None if data is None else len(data)
        await self._put(json.dumps({"blob": digest, "length": length}).encode() + b"\n", data or b"")

    async def _put(self, *parts: bytes) -> None:
        if sum(map(len, parts)) <= TOGETHER:
            parts = (b"".join(parts),)
        async with self._up:
            for part in parts:
                self._process.write(part)
                await self._process.drain()

    async def _keep_stderr(self) -> None:
        noise = 0
        with contextlib.suppress(Lost):
            while data := await self._process.read_error():
                self._stderr = (self._stderr + data)[-STDERR_KEPT:]
                noise += len(data)
                if noise > MOST_NOISE:
                    self._stderr = b"the node floods: over %d MiB on stderr" % (MOST_NOISE >> 20)
                    self._process.close()
                    return

    async def _beat(self) -> None:
        with contextlib.suppress(Lost):
            while True:
                await asyncio.sleep(BEAT_S)
                await self._put(b"\n")


def _wire(nonce: str, bundle: bytes, entry: str, argument: object, blobs: Iterable[bytes]) -> list[bytes]:
    """Everything that goes up, in order (see onnode/channel.py)."""
    body = zlib.compress(json.dumps(argument, separators=(",", ":")).encode())
    named = [(hashlib.sha256(blob).hexdigest(), blob) for blob in blobs]
    header = {
        "entry": entry,
        "argument": len(body),
        "blobs": [[digest, len(blob)] for digest, blob in named],
    }
    marker = f"commcli {nonce} {len(bundle)} {hashlib.sha256(bundle).hexdigest()}\n"
    head = marker.encode() + bundle + json.dumps(header).encode() + b"\n" + body
    return [head, *(blob for _, blob in named)]


def _parsed(line: bytes) -> dict[str, Any]:
    """A line of the node's. Raises Lost for what is no JSON object, or one too deep to read."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Lost("the program's answers arrived damaged")
    return body
