"""An operator's desk with a small fleet, all of whose nodes lie behind one sshd."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.remote.sshd import Host
from tests.remote.test_play_command import Desk


def desk_of(
    folder: Path, host: Host, nodes: Sequence[str], *, production: bool = False, ssh: str = ""
) -> Desk:
    """A desk at `folder`; `ssh` is further YAML of each node's `ssh:`."""
    desk = Desk(folder, host)
    desk.write_inventory()
    inventory = folder / "inventory"
    rows = "".join(
        f"  {name}:\n    region: sgp\n    address: 192.0.2.{number}\n    base: {host.folder}/nodes/{name}\n"
        f"    ssh: {{host: 127.0.0.1, port: {host.port}, user: {getpass.getuser()}, python: {sys.executable}{ssh}}}\n"
        for number, name in enumerate(nodes, 1)
    )
    (inventory / "nodes.yaml").write_text("nodes:\n" + rows)
    (inventory / "markets.yaml").write_text(f"markets:\n  sg: {{name: Singapore, edges: [{nodes[0]}]}}\n")
    if production:
        path = inventory / "fleet.yaml"
        path.write_text(path.read_text().replace("name: desk\n", "name: desk\nproduction: true\n"))
    for name in nodes:
        (host.folder / "nodes" / name).mkdir(parents=True, exist_ok=True)
    return desk
