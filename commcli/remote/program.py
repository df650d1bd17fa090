"""A program streamed to a node: one exec, all else over stdin, JSON lines both ways (onnode/channel.py).

Nothing is installed and nothing stays: the command line carries a few lines of bootstrap and a nonce, the
rest goes over stdin. A marker line with the nonce comes first, whatever is before it is dropped (a sudo
that does not ask leaves the password line to us). No `end` line means Lost, whatever the exit status says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
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
LONGEST_LINE = 64 << 20

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
import hashlib, json, zlib
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
packages = {name.rpartition(".")[0] for name in sources}
class Sources:
    def find_spec(self, name, path=None, target=None):
        if name in sources:
            return type(sys.__spec__)(name, self, origin="<%s>" % name, is_package=name in packages)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(sources[module.__name__], "<%s>" % module.__name__, "exec"), module.__dict__)
    def get_source(self, name):
        return sources[name]
sys.meta_path.insert(0, Sources())
from commcli.remote.onnode.channel import main
main(stdin, nonce)
"""

_ALWAYS = ("commcli.remote.onnode.channel", "commcli.remote.onnode.masks")


def bundle(modules: Mapping[str, str]) -> bytes:
    """Modules (name -> source) as one blob for `Program.start`, with the channel they talk through.

    Packages above them are empty on the node, whatever they hold here.
    """
    sources = {**{name: source_of(name) for name in _ALWAYS}, **modules}
    for name in list(sources):
        while name := name.rpartition(".")[0]:
            sources.setdefault(name, "")
    return zlib.compress(json.dumps(sources, sort_keys=True).encode(), 9)


def source_of(name: str) -> str:
    """The source of one of our modules, by its dotted name, also from a zip."""
    spec = importlib.util.find_spec(name)
    loader = None if spec is None else spec.loader
    source = loader.get_source(name) if loader is not None and hasattr(loader, "get_source") else None
    if not isinstance(source, str):
        raise LookupError(f"no source for {name}")
    return source


def command_line(python: str | None, nonce: str, *, site: bool) -> str:
    """The command line of an exec. A configured python is the only one tried; `site` keeps site-packages."""
    pythons = (python,) if python else (*PYTHONS, "python3")
    flags = "-I" if site else "-IS"
    return shlex.join(["sh", "-c", _SHELL, "commcli", _BOOT, nonce, flags, *pythons])


class Program:
    """A program at work on a node. Use `async with await Program.start(...) as program`.

    Leaving closes the channel, which ends the program and its children on the node if they still run.
    """

    def __init__(self, process: Process, nonce: str, secrets: Sequence[str]) -> None:
        self.node_python: str | None = None
        self._process = process
        self._nonce = nonce
        self._words = masks.expand(secrets)
        self._buffer = b""
        self._digest = hashlib.sha256()
        self._lines = 0
        self._ended = False
        self._stderr = b""
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
        site: bool = False,
        secrets: Sequence[str] = (),
    ) -> Program:
        """Start `entry` ("module:function", called with the argument and a Channel) and wait for its hello.

        `python` is a path on the node or None for the usual places; `argument` is JSON-able; `secrets` are
        masked in every answer. Raises Failed (no python3, too old), Unreachable, Lost, TimedOut.
        """
        nonce = random.token_hex(16)
        process = await connection.start(command_line(python, nonce, site=site))
        program = cls(process, nonce, secrets)
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
        self._process.write(json.dumps(message).encode() + b"\n")
        await self._process.drain()

    async def receive(self) -> Any:
        """The program's next message, or None after its proper end.

        Raises Failed (it crashed), Lost (the stream broke off: what was asked may have happened).
        """
        while not self._ended:
            line = await self._line()
            if line is None:
                raise Lost(f"the connection ended in the middle of the program{self._last_words()}")
            self._count(line)
            body = _parsed(line)
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
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                async with asyncio.timeout(SILENCE_S):
                    data = await self._process.read()
            except TimeoutError:
                raise Lost(f"no sign of life from the node for {SILENCE_S:g} s") from None
            if not data or len(self._buffer) > LONGEST_LINE:
                return None
            self._buffer += data
        line, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
        return line

    async def _hello(self, python: str | None) -> None:
        opening = b'{"hello":"' + self._nonce.encode() + b'"'
        while (line := await self._line()) is not None:
            # What a login shell's rc file prints comes before the hello, and is nobody's business.
            if line.startswith(opening):
                self._count(line)
                self.node_python = str(_parsed(line).get("python"))
                return
        raise await self._no_hello(python)

    async def _no_hello(self, python: str | None) -> Failed | Lost:
        status = await self._process.wait()
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        said = self._stderr.decode("utf-8", "replace").strip()
        needed = ".".join(map(str, NODE_PYTHON))
        if status is None:
            return Lost(f"the connection ended before python3 answered{self._last_words()}")
        if status == 127 and " is python " in said:
            return Failed(f"python3 too old: {said.splitlines()[-1]}, needs {needed} or newer")
        if status == 127:
            where = python or ", ".join(PYTHONS)
            return Failed(f"no python3 on the node (looked at {where})")
        return Failed(f"python3 did not start: exit status {status}{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return f": {masks.mask(lines[-1], self._words)}" if lines else ""

    async def _upload(self, data: Sequence[bytes]) -> None:
        # Whoever reads the answers learns why it broke off, and says so better than a failed write.
        with contextlib.suppress(Lost):
            for part in data:
                self._process.write(part)
                await self._process.drain()

    async def _keep_stderr(self) -> None:
        with contextlib.suppress(Lost):
            while data := await self._process.read_error():
                self._stderr = (self._stderr + data)[-STDERR_KEPT:]

    async def _beat(self) -> None:
        with contextlib.suppress(Lost):
            while True:
                await asyncio.sleep(BEAT_S)
                self._process.write(b"\n")
                await self._process.drain()


def _wire(nonce: str, bundle: bytes, entry: str, argument: object, blobs: Iterable[bytes]) -> list[bytes]:
    """Everything that goes up, in order (see onnode/channel.py)."""
    body = json.dumps(argument, separators=(",", ":")).encode()
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
