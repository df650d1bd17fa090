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

    `trouble` is what a node does when it is to put a table in force, by id and attempt: "refuse", "disk",
    "unreachable", "timeout", "lost" (nothing happened), "lost-after" (it happened), "liar" (confirms another serial);
    "" is none. `at_hand` is the same for when it is handed one.
    """

    def __init__(
        self,
        trouble: Mapping[str, list[str] | str] | None = None,
        at_hand: Mapping[str, list[str] | str] | None = None,
    ) -> None:
        self.loaded: dict[str, int] = {}
        self.staged: dict[str, int] = {}
        self.asked: list[tuple[str, int]] = []
        self.handed: list[tuple[str, int]] = []
        self._trouble = dict(trouble or {})
        self._at_hand = dict(at_hand or {})

    async def stage(self, node: Node, package: Package) -> int:
        self.handed.append((node.id, package.serial))
        _stumble(self._at_hand, node.id)
        self.staged[node.id] = self._judged(node.id, package)
        return package.serial

    async def install(self, node: Node, package: Package) -> int:
        self.asked.append((node.id, package.serial))
        match _stumble(self._trouble, node.id):
            case "lost-after":
                self._load(node.id, package)
                raise Lost("connection lost")
            case "liar":
                return package.serial - 1
        return self._load(node.id, package)

    def refuse(self, node: str) -> None:
        """From now on this one refuses every table when it is to go by it."""
        self._trouble[node] = "refuse"

    def cut(self, node: str) -> None:
        """From now on nobody reaches this one."""
        self._trouble[node] = self._at_hand[node] = "unreachable"

    def is_ours(self, package: Package, signature: str) -> bool:
        """Whether it is what these tests call a signature."""
        return signature == f"signed {len(package.manifest)}"

    def _load(self, node: str, package: Package) -> int:
        self.loaded[node] = self._judged(node, package)
        return package.serial

    def _judged(self, node: str, package: Package) -> int:
        files = package.files(node)
        assert self.is_ours(package, files["manifest.json.sig"])
        found = shard_rule.load(
            files["manifest.json"].encode(),
            files["shard.json"].encode(),
            shared=files["shared.json"].encode(),
            node=node,
            unix=NOW,
            highest_serial=self.loaded.get(node, 0),
        )
        return found.serial


def _stumble(troubles: dict[str, list[str] | str], node: str) -> str:
    """Raise what this node's next trouble stands for, or give its name."""
    trouble = troubles.get(node, "")
    if not isinstance(trouble, str):
        trouble = trouble.pop(0) if trouble else ""
    match trouble:
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
    return trouble


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
