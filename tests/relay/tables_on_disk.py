"""Tables as a push leaves them on a node: signed by stock ssh-keygen with a throw-away key."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.relay.serving import need

NODES = {
    "ae-1": ("192.0.2.1", "ae"), "sg-1": ("192.0.2.3", "sg"), "hk-1": ("192.0.2.4", "hk"), "kr-1": ("192.0.2.2", "kr"),
}  # fmt: skip


def shard(serial: int, node: str = "ae-1", **changes: Any) -> dict[str, Any]:
    """A good shard: ae-1 to kr-1 through sg-1, backup through hk-1."""
    nodes = {
        name: {
            "address": address, "overlay_port": 3479, "relay_ports": [40000, 42000], "country": country,
            "markets": [country],
        }
        for name, (address, country) in NODES.items()
    }  # fmt: skip
    route = {
        "primary": ["ae-1", "sg-1", "kr-1"],
        "backup": ["ae-1", "hk-1", "kr-1"],
        "last_resort": ["ae-1", "kr-1"],
    }
    document = {
        "schema": 1, "serial": serial, "node": node, "created": "2026-01-01T00:00:00Z",
        "expires": "2026-02-01T00:00:00Z", "nodes": nodes, "zones": [], "routes": {"kr-1": route}, "blocked": [],
    }  # fmt: skip
    return {**document, **changes}


@dataclass
class Signer:
    """A key, and the folder of one node whose allowed_signers trusts it."""

    base: Path
    key: Path = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.base / "signing"
        command = [need("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(command, check=True)
        (self.base / "etc").mkdir(exist_ok=True)
        public = self.key.with_suffix(".pub").read_text()
        (self.base / "etc/allowed_signers").write_text(f'commcli-table namespaces="commcli-table" {public}')

    def push(self, document: dict[str, Any], *, spoil: bool = False, link: str = "current") -> None:
        """Write the table of `document` and point `link` at it; `spoil` changes the manifest after signing."""
        folder = self.base / "table" / str(document["serial"])
        folder.mkdir(parents=True, exist_ok=True)
        body = json.dumps(document).encode()
        manifest = {
            "schema": 1, "fleet": "lab", "serial": document["serial"], "created": document["created"],
            "expires": document["expires"], "inputs": {"measurements": "0" * 64, "policy": "0" * 64},
            "shards": {document["node"]: hashlib.sha256(body).hexdigest()},
        }  # fmt: skip
        path = folder / "manifest.json"
        path.write_text(json.dumps(manifest))
        (folder / "shard.json").write_bytes(body)
        path.with_name("manifest.json.sig").unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.key), "-n", "commcli-table", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        if spoil:
            path.write_text(json.dumps({**manifest, "fleet": "other"}))
        aside = self.base / "table/new"
        aside.symlink_to(folder.name)
        aside.replace(self.base / "table" / link)
