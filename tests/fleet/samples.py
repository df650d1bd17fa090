"""A small inventory that is right in every way; tests break one line of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import load

FILES = {
    "fleet.yaml": """\
name: sample
realm: relay.test
ssh:
  known_hosts: ssh/known_hosts
signing:
  signers: signers
secrets:
  turn: {file: secrets/turn}
""",
    "regions.yaml": """\
regions:
  sgp: {city: Singapore, country: sg, continent: asia, lat: 1.35, lon: 103.8}
  fra: {city: Frankfurt, country: de, continent: europe}
  sao: {city: Sao Paulo, country: br, continent: south-america}
""",
    "nodes.yaml": """\
defaults:
  ssh: {user: ops, port: 2022}
nodes:
  sg-1: {region: sgp, address: 192.0.2.1, tags: [hub], provider: alpha}
  de-1: {region: fra, address: 192.0.2.2, tags: [hub, metal]}
  de-2: {region: fra, address: 192.0.2.3, state: drain}
  br-1:
    region: sao
    address: 192.0.2.4
    state: no-transit
    ssh: {host: 10.0.0.4, proxy_jump: ops@bastion.test:22}
""",
    "markets.yaml": """\
markets:
  sg: {name: Singapore, edges: [sg-1]}
  de: {name: Germany, edges: [de-1, de-2]}
  cn: {name: China, edges: [sg-1]}
  br: {name: Brazil, edges: [br-1]}
""",
    "zones.yaml": """\
zones:
  de-home:
    between: [[de], [de]]
    allow: [de]
    reason: law
  cn-not-by-us:
    between: [[cn], "*"]
    forbid: [us]
    reason: contract
""",
}


def write(folder: Path, file: str = "", old: str = "", new: str = "", **texts: str) -> Path:
    """Write the sample below `folder`, with `old` replaced by `new` in one file, or whole files replaced."""
    inventory = folder / "inventory"
    inventory.mkdir(exist_ok=True)
    for name, text in FILES.items():
        if name == file:
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        (inventory / name).write_text(texts.get(name.removesuffix(".yaml"), text), encoding="utf-8")
    return inventory


def errors_of(folder: Path) -> list[str]:
    """The problems of an inventory, without the path before the file's name."""
    with pytest.raises(BadInput) as caught:
        _ = load(folder).probes
    return [error.rpartition(f"{folder.name}/")[2] for error in caught.value.errors]
