"""A place in a WAN to run `commcli` from: its commands reach the nodes' SSH servers over the WAN's links."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.wan.wan import Wan

PORT = 22
_ROOT = Path(__file__).parents[2]
_STARTS_WITHIN_S, _STEP_S = 20.0, 0.05


class Desk:
    """An inventory and a state folder below `folder`; commands run in the namespace of `place`, a node of the WAN."""

    def __init__(self, wan: Wan, place: str, folder: Path) -> None:
        self.inventory, self.state = folder / "inventory", folder / "state"
        self._wan, self._place = wan, place

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Start `commcli WORDS`; what it prints is text on pipes."""
        pipe = subprocess.PIPE
        argv = [sys.executable, "-m", "commcli", *words]
        return self._wan.popen(
            self._place,
            argv,
            cwd=_ROOT,
            env=self._environment(),
            stdout=pipe,
            stderr=pipe,
            text=True,
            **options,
        )

    def commcli(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `commcli WORDS` to its end. Raises subprocess.TimeoutExpired, and then it is ended."""
        process = self.popen(*words)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def document(self, *words: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """What `commcli WORDS --json` prints. Raises AssertionError with what it said if that is no JSON."""
        done = self.commcli(*words, "--json", timeout_s=timeout_s)
        try:
            told: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(
                f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            ) from None
        return told

    def wait(self, node: str, server: subprocess.Popen[Any], log: Path, place: str | None = None) -> None:
        """Until `node` takes SSH connections from `place` (from here). Raises AssertionError with its log."""
        end = time.monotonic() + _STARTS_WITHIN_S
        while True:
            with self._wan.inside(place or self._place):
                door = socket.socket()
            try:
                with door:
                    door.settimeout(2.0)
                    door.connect((self._wan.nodes[node], PORT))
                return
            except OSError as error:
                said = log.read_text()
                assert server.poll() is None, f"{node}: sshd ended: {said}"
                assert time.monotonic() < end, f"{node}: {error}: {said}"
            time.sleep(_STEP_S)

    def _environment(self) -> Mapping[str, str]:
        # No configuration of whoever runs the test.
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        ours = {"COMMCLI_INVENTORY": str(self.inventory), "COMMCLI_STATE": str(self.state)}
        return {**kept, **ours, "HOME": str(self.state.parent)}
