"""nodes.yaml: the relay machines, and the defaults they share."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import PurePosixPath
from typing import TypeVar

from commcli.fleet.model import Capacity, Limits, Node, NodeState, Ports, Region, SshTarget
from commcli.fleet.record import Record
from commcli.fleet.yamlfile import YamlMap

T = TypeVar("T")

STATES: dict[str, NodeState] = {"active": "active", "drain": "drain", "no-transit": "no-transit"}
RESERVED_IDS = ("all", *STATES)  # words of the selector

_STOP = r"(?:[^@\s,-][^@\s,]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^@\s:,-][^@\s:,]*)(?::[0-9]{1,5})?"
_JUMP = re.compile(rf"{_STOP}(?:,{_STOP})*\Z")
_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:%-]*\Z")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+\Z")
MOST_WORKERS = 256
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*\Z")
_SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|private_?key|api_?key", re.IGNORECASE)

_SSH_WORDS = ("host", "user", "port", "proxy_jump")
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}\Z")
NO_JUMP = "none"

_NO_DEFAULTS = Node(
    id="", region="", country="", address="", ssh=SshTarget(host="", user="", unsaid=_SSH_WORDS)
)


def read_nodes(
    table: Record,
    defaults: Record,
    regions: Mapping[str, Region],
    region_ids: Collection[str] | None,
    *,
    ssh_config: bool = False,
) -> dict[str, Node]:
    """The nodes by id. A node's country is that of its region: one truth, so that no law is misread.

    `ssh_config`: the fleet has one, which may name the user.
    """
    shared = _shared(defaults, _NO_DEFAULTS)
    for word, said in (("host", shared.ssh.host), ("host_keys", shared.ssh.host_keys)):
        if said:
            defaults.problem(f"ssh: {word} is a node's own, never a default", key="ssh")
    defaults.finish()
    nodes: dict[str, Node] = {}
    for key, record in table.entries("node"):
        nodes[key] = node = _node(key, record, shared, regions, region_ids)
        if not node.ssh.user and not ssh_config and not record.broken:
            record.problem("ssh: user is missing, here and in the defaults")
    for one, other, reason in _clashes(nodes.values()):
        table.problem(f"node {other.id}: {reason} node {one.id} too", key=other.id)
    if table.is_empty():
        table.problem("no node at all")
    return nodes


def check_production(table: Record, nodes: Mapping[str, Node]) -> None:
    """Note what only the lab may do: stand on loopback, and switch its relays' artificial faults on."""
    for node in nodes.values():
        for name in ("address", "address6", "bind_address", "bind_address6"):
            address = getattr(node, name)
            if address and ipaddress.ip_address(address).is_loopback:
                table.problem(
                    f"node {node.id}: {name} {address} is loopback, in a production fleet", key=node.id
                )
        if node.variables.get("faults"):
            table.problem(
                f"node {node.id}: variables: faults is the lab's, not a production fleet's", key=node.id
            )


def _node(
    key: str, record: Record, shared: Node, regions: Mapping[str, Region], region_ids: Collection[str] | None
) -> Node:
    if key in RESERVED_IDS:
        record.problem(f'"{key}" is a word of the selectors and can not be an id')
    region = record.word("region", region_ids, "region")
    address = _address(record, "address", record.text("address"))
    second = _second_address(record, address)
    shared = replace(shared, address=address, ssh=replace(shared.ssh, host=address))
    node = replace(
        _shared(record, shared),
        id=key,
        region=region,
        country=regions[region].country if region in regions else "",
        state=STATES.get(record.word_or("state", "active", STATES, "state"), "active"),
        address6=second,
        domain=_domain(record),
        bind_address=_bind_address(record, "address", address),
        bind_address6=_bind_address(record, "address6", second),
    )
    if node.domain and node.ports.tls is None:
        record.problem("domain is what the TLS certificate names, but ports has no tls", key="domain")
    record.finish()
    return node


def _shared(record: Record, base: Node) -> Node:
    """What a node and the defaults may both say; `base` answers for what is not written."""
    return replace(
        base,
        ssh=_section(record, "ssh", _ssh, base.ssh),
        ports=_section(record, "ports", _ports, base.ports),
        base=_folder(record, base.base),
        provider=record.id_or("provider", base.provider),
        capacity=_section(record, "capacity", _capacity, base.capacity),
        price_ms=record.number_or("price_ms", base.price_ms, 0, 10_000),
        limits=_limits(record, base.limits),
        workers=record.integer_or("workers", base.workers, 0, MOST_WORKERS),
        probe_python=record.text_or("probe_python", base.probe_python),
        tags=tuple(dict.fromkeys((*base.tags, *record.words("tags", None, "tag")))),
        variables={**base.variables, **_variables(record.section("variables"))},
    )


def _section(record: Record, key: str, read: Callable[[Record, T], T], base: T) -> T:
    """What the section says, if it says anything: of a thousand nodes most are like the defaults."""
    section = record.section(key)
    return base if section.is_empty() else read(section, base)


def _ssh(record: Record, base: SshTarget) -> SshTarget:
    jump = record.text_or("proxy_jump", base.proxy_jump)
    ssh = SshTarget(
        host=record.text_or("host", base.host),
        user=record.text_or("user", base.user),
        port=record.integer_or("port", base.port, 1, 65535),
        proxy_jump=None if jump == NO_JUMP else jump,
        python=record.text_or("python", base.python),
        sudo=record.flag_or("sudo", base.sudo),
        host_keys=record.texts("host_keys") or base.host_keys,
        unsaid=tuple(word for word in base.unsaid if not record.has(word)),
    )
    if not all(_FINGERPRINT.match(print_) for print_ in ssh.host_keys):
        record.problem(
            "host_keys must be fingerprints as ssh-keygen -l shows them: SHA256:...", key="host_keys"
        )
    if ssh.host and not _HOST.match(ssh.host):
        record.problem("host must be a host name or an address", key="host")
    if ssh.proxy_jump is not None and not _JUMP.match(ssh.proxy_jump):
        record.problem(
            "proxy_jump must be [user@]host[:port], or several, separated by commas", key="proxy_jump"
        )
    record.finish()
    return ssh


def _ports(record: Record, base: Ports) -> Ports:
    ports = Ports(
        turn=record.integer_or("turn", base.turn, 1, 65535),
        overlay=record.integer_or("overlay", base.overlay, 1, 65535),
        stamp=record.integer_or("stamp", base.stamp, 1, 65535),
        metrics=record.integer_or("metrics", base.metrics, 1, 65535),
        relay_low=record.integer_or("relay_low", base.relay_low, 1024, 65535),
        relay_high=record.integer_or("relay_high", base.relay_high, 1024, 65535),
        tls=record.integer_or("tls", base.tls, 1, 65535),
    )
    named = {"turn": ports.turn, "overlay": ports.overlay, "stamp": ports.stamp}
    for (one, port), (other, same) in combinations(named.items(), 2):
        if port == same:
            record.problem(f"{one} and {other} are the same UDP port {port}", key=other)
    for name, port in named.items():
        if ports.relay_low <= port <= ports.relay_high:
            record.problem(f"{name} port {port} lies in the relay range", key=name)
    for name, port in (("turn", ports.turn), ("metrics", ports.metrics)):
        if port == ports.tls:
            record.problem(f"{name} and tls are the same TCP port {port}", key="tls")
    if ports.relay_low > ports.relay_high:
        record.problem("relay_low is above relay_high", key="relay_low")
    record.finish()
    return ports


def _capacity(record: Record, base: Capacity) -> Capacity:
    capacity = Capacity(
        sessions=record.integer_or("sessions", base.sessions, 1, 10**7),
        mbps=record.number_or("mbps", base.mbps, 0.1, 10**7),
    )
    record.finish()
    return capacity


def _limits(record: Record, base: Limits) -> Limits:
    return Limits(
        user_quota=record.integer_or("user_quota", base.user_quota, 1, 10**7),
        total_quota=record.integer_or("total_quota", base.total_quota, 1, 10**7),
        session_kbit_s=record.integer_or("session_kbit_s", base.session_kbit_s, 1, 10**7),
        node_mbit_s=record.integer_or("node_mbit_s", base.node_mbit_s, 1, 10**7),
    )


def _second_address(record: Record, address: str) -> str | None:
    second = _address(record, "address6", record.text_or("address6", ""))
    if second and ":" not in second:
        record.problem(f"address6 {second} is no IPv6 address", key="address6")
    elif second and ":" in address:
        record.problem("address6 stands beside an IPv4 address; address is IPv6 already", key="address6")
    return second or None


def _bind_address(record: Record, known: str, public: str | None) -> str | None:
    key = f"bind_{known}"
    own = _address(record, key, record.text_or(key, ""))
    if own and public is None:
        record.problem(f"{key} stands for no {known}", key=key)
    elif own and public and (":" in own) != (":" in public):
        record.problem(f"{key} {own} is not of the family of {known} {public}", key=key)
    return own or None


def _domain(record: Record) -> str | None:
    domain = record.text_or("domain", None)
    if domain is not None and not _DOMAIN.match(domain):
        record.problem(
            "domain must be a host name in lower case, such as sg-1.relay.example.net", key="domain"
        )
    return domain


def _address(record: Record, key: str, text: str) -> str:
    """The address in `text`, or "" if it is none."""
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        record.problem(f'bad {key} "{text}": it must be an IP address, v4 or v6', key=key)
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        record.problem(f"{key} {text} must be written as {address.ipv4_mapped}", key=key)
    if address.is_unspecified or address.is_multicast or address.is_link_local or int(address) == 2**32 - 1:
        record.problem(f"{key} {address} is not that of one machine", key=key)
    return str(address)


def _folder(record: Record, base: str) -> str:
    text = record.text_or("base", base)
    path = PurePosixPath(text)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or not text.isprintable():
        record.problem("base must be an absolute folder of its own, such as /opt/commcli", key="base")
    return str(path)


def _variables(record: Record) -> dict[str, object]:
    variables: dict[str, object] = {}
    for key, value, line in record.items():
        if not _VARIABLE.match(key):
            record.problem(f'name "{key}" must be lower-case letters, digits and _', line=line)
        for name in in_the_clear(key, value):
            record.problem(
                f"{name} looks like a secret in the clear; name it in fleet.yaml: secrets", line=line
            )
        variables[key] = value
    return variables


def in_the_clear(key: str, value: object) -> Iterator[str]:
    """The names in a variable that look like those of secrets, with values beside them."""
    if isinstance(value, YamlMap):
        for inner, held in value.items():
            yield from in_the_clear(inner, held)
    elif _SECRET_NAME.search(key) and value is not None and not isinstance(value, bool):
        yield key


def _clashes(nodes: Iterable[Node]) -> Iterator[tuple[Node, Node, str]]:
    """What two nodes can not share: the place where we log in and install, and sockets on one address."""
    # Grouped first: a fleet of a thousand has half a million pairs.
    by_place: dict[object, list[Node]] = defaultdict(list)
    by_address: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.address:
            by_place[node.ssh.host, node.ssh.port, node.ssh.proxy_jump, node.base].append(node)
            for address in filter(None, (node.address, node.address6)):
                by_address[address].append(node)
    for group in by_place.values():
        for one, other in combinations(group, 2):
            yield one, other, "the same SSH host, port and base folder are those of"
    for group in by_address.values():
        for one, other in combinations(group, 2):
            yield from ((one, other, reason) for reason in _same_ports(one.ports, other.ports))


def _same_ports(one: Ports, other: Ports) -> Iterator[str]:
    theirs = {one.turn, one.overlay, one.stamp}
    for port in (other.turn, other.overlay, other.stamp):
        if port in theirs or one.relay_low <= port <= one.relay_high:
            yield f"its address with UDP port {port} is that of"
    for port in filter(None, (other.turn, other.tls)):
        if port in (one.turn, one.tls) and (port, port) != (one.turn, other.turn):
            yield f"its address with TCP port {port} is that of"
    if one.relay_low <= other.relay_high and other.relay_low <= one.relay_high:
        yield "its address with its relay ports is that of"
