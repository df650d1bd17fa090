"""Small fleets of values, no files."""

from __future__ import annotations

from pathlib import Path

from commcli.fleet.model import Fleet, Market, Node, NodeState, Ports, Region, Signing, SshDefaults, SshTarget
from commcli.fleet.secrets import SecretRef


def node(
    name: str,
    *,
    address: str = "127.0.0.1",
    port: int = 3478,
    python: str | None = None,
    state: NodeState = "active",
) -> Node:
    return Node(
        id=name,
        region="r",
        country=name[:2],
        address=address,
        ssh=SshTarget(host=address, user="ops"),
        ports=Ports(turn=port),
        state=state,
        probe_python=python,
    )


def fleet(
    *nodes: Node, markets: dict[str, tuple[str, ...]] | None = None, secret: Path | None = None
) -> Fleet:
    return Fleet(
        name="test",
        production=False,
        realm="lab",
        regions={"r": Region("r", "City", "xx", "asia")},
        nodes={each.id: each for each in nodes},
        markets={word: Market(word, word.upper(), edges) for word, edges in (markets or {}).items()},
        zones=(),
        secrets={"turn": SecretRef(name="turn", file=secret)} if secret else {},
        signing=Signing(signers=Path("signers")),
        ssh=SshDefaults(known_hosts=Path("known_hosts")),
    )
