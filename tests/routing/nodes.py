"""The node side in memory: what each relay has loaded, and what it is told to answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from commcli.errors import Refused
from commcli.fleet import Node
from commcli.relay.table import shard as shard_rule
from commcli.remote.outcome import Failed, Lost, TimedOut, Unreachable
from commcli.routing.publish import Package
from tests.routing.worlds import NOW


class FakeNodes:
    """Relays that judge a table as real ones do (but for the signature, which must merely be ours).

    `trouble` is what a node does instead, by id and attempt: "refuse", "disk", "unreachable", "timeout",
    "lost" (nothing happened), "lost-after" (it happened), "liar" (confirms another serial); "" is none.
    """

    def __init__(self, trouble: Mapping[str, list[str] | str] | None = None) -> None:
        self.loaded: dict[str, int] = {}
        self.asked: list[tuple[str, int]] = []
        self._trouble = dict(trouble or {})

    async def install(self, node: Node, package: Package) -> int:
        self.asked.append((node.id, package.serial))
        match self._next_trouble(node.id):
            case "refuse":
                raise Refused("relay refused the table: zone: ...")
            case "disk":
                raise Failed("table: No space left on device")
            case "unreachable":
                raise Unreachable("connection refused")
            case "timeout":
                raise TimedOut("no end after 60 s")
            case "lost":
                raise Lost("connection lost")
            case "lost-after":
                self._load(node.id, package)
                raise Lost("connection lost")
            case "liar":
                return package.serial - 1
        return self._load(node.id, package)

    def _next_trouble(self, node: str) -> str:
        trouble = self._trouble.get(node, "")
        if isinstance(trouble, str):
            return trouble
        return trouble.pop(0) if trouble else ""

    def _load(self, node: str, package: Package) -> int:
        files = package.files(node)
        assert files["manifest.json.sig"] == f"signed {len(package.manifest)}"
        found = shard_rule.load(
            files["manifest.json"].encode(),
            files["shard.json"].encode(),
            node=node,
            unix=NOW,
            highest_serial=self.loaded.get(node, 0),
        )
        self.loaded[node] = found.serial
        return found.serial


class Notebook:
    """A journal in memory: every entry, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, int, str]] = []
        self.details: dict[int, dict[str, Any]] = {}

    def intend(self, package: Package, detail: Mapping[str, Any]) -> None:
        self.entries.append(("intend", package.serial, ""))
        self.details[package.serial] = json.loads(json.dumps(detail))

    def settle(self, serial: int, status: str, detail: Mapping[str, Any]) -> None:
        self.entries.append(("settle", serial, status))
        self.details[serial] = json.loads(json.dumps(detail))
