"""Hosts of other tools -> nodes.yaml: what has a place there goes there, and what has none is told with its line.

A node needs an IP address and a region. The region is the one that the host names, or a group of that name, or the only
one in its country. What comes out loads: a host that would be wrong in it is left out, and told.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from commcli.fleet import yamlfile
from commcli.fleet.foreign import Host, Source
from commcli.fleet.model import Region
from commcli.fleet.nodes import in_the_clear, read_nodes
from commcli.fleet.record import Record, is_id, nearest
from commcli.fleet.yamlfile import Problems

# What a host may say of the node itself, by the same name.
_SAME = ("address", "address6", "domain", "provider", "state", "base", "probe_python")
# Ansible's names and those of a CSV's columns, for what stands below ssh. The first that is said counts.
_SSH_ANSIBLE = {
    "host": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "python": ("ansible_python_interpreter",),
}
_SSH_CSV = {
    "host": ("host", "ssh_host"),
    "port": ("port", "ssh_port"),
    "user": ("user", "ssh_user"),
    "python": ("python",),
    "proxy_jump": ("proxy_jump",),
}
_ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args")
_KEY_FILES = ("ansible_ssh_private_key_file", "ansible_private_key_file", "key", "identity_file")
_WITH_A_PLACE = frozenset(
    {*_SAME, "region", "country", "tags", "sessions", "mbps"}.union(
        *_SSH_ANSIBLE.values(), *_SSH_CSV.values(), _ARGUMENTS, _KEY_FILES
    )
)
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*\Z")
_BARE = re.compile(r"[A-Za-z0-9/][A-Za-z0-9._/@-]*\Z")
# YAML 1.1 reads them as something else than text.
_WORDS_OF_OTHERS = frozenset({"y", "n", "yes", "no", "on", "off"})
_FILE = "nodes.yaml"
Resolve = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Imported:
    """`text` is nodes.yaml with `nodes`; `left_out` are the hosts that are not in it, `told` each with its line."""

    text: str
    nodes: tuple[str, ...]
    left_out: tuple[str, ...]
    told: tuple[str, ...]


@dataclass
class _Draft:
    """A node on its way; `told` is where what it loses is noted."""

    host: Host
    told: Problems
    resolve: Resolve
    id: str
    row: dict[str, Any] = field(default_factory=dict)

    def tell(self, reason: str) -> None:
        name = self.host.name if self.id in ("", self.host.name) else f"{self.host.name} (node {self.id})"
        self.told.add(self.host.file, self.host.line, f"host {name}: {reason}")

    def tell_of(self, key: str, reason: str) -> None:
        """Note what is lost of a variable, where that stands: told once, for however many hosts."""
        self.told.add(self.host.file, self.host.lines.get(key, self.host.line), f"{key} {reason}")


def nodes_of(
    source: Source,
    regions: Mapping[str, Region] | None,
    *,
    region: str | None,
    user: str,
    ansible: bool,
    resolve: Resolve = lambda name: None,
) -> Imported:
    """The nodes that the hosts become. `regions` are those of the inventory (None: nobody knows); `region` is for hosts
    that name none, `user` logs in where no host says who, `resolve` gives the address of a name, or None. Raises
    BadInput with what is wrong in the source.
    """
    source.wrong.raise_if_any()
    drafts = [_Draft(host, source.told, resolve, _id_of(host.name)) for host in source.hosts]
    for draft in drafts:
        _fill(draft, regions, region, ansible=ansible)
    _rename_twins(drafts)
    if any("user" not in draft.row["ssh"] for draft in drafts):
        source.told.add(
            source.hosts[0].file, 0, f"does not say of every host who logs in: {user}, as you here"
        )
    for draft in drafts:
        draft.row["ssh"] = {"user": user, "port": 22, **draft.row["ssh"]}
    good, text = _that_load(drafts, regions)
    kept = set(map(id, good))
    error = source.told.as_error()
    return Imported(
        text,
        tuple(draft.id for draft in good),
        tuple(draft.host.name for draft in drafts if id(draft) not in kept),
        () if error is None else error.errors,
    )


def _fill(draft: _Draft, regions: Mapping[str, Region] | None, region: str | None, *, ansible: bool) -> None:
    """The node's row, of all that the host says."""
    host = draft.host
    says = dict(host.variables)
    for key in [key for key, value in says.items() if key in _WITH_A_PLACE and "{{" in json.dumps(value)]:
        del says[key]
        draft.tell_of(key, "is a template, and only values are taken")
    row = draft.row
    ssh = _ssh(draft, says, _SSH_ANSIBLE if ansible else _SSH_CSV)
    row["region"] = _region(draft, says, regions) or region
    for key in _SAME:
        if key in says:
            row[key] = says.pop(key)
    row.setdefault("address", _address(draft, (ssh.get("host"), host.name)))
    if ssh.get("host") == row["address"]:
        ssh.pop("host", None)
    elif "host" not in ssh and not _is_address(host.name) and ansible:
        ssh["host"] = host.name
    row["ssh"] = ssh
    row["capacity"] = {key: _number(says.pop(key)) for key in ("sessions", "mbps") if key in says}
    row["tags"] = _tags(draft, says)
    row["variables"] = dict(_variables(draft, says))


def _id_of(name: str) -> str:
    """The node's id: the name, or its first label in lower case, as an id may be."""
    if is_id(name):
        return name
    if _is_address(name):
        return re.sub(r"[.:]+", "-", name).strip("-")
    return re.sub(r"[^a-z0-9]+", "-", name.lower().partition(".")[0]).strip("-")[:32].strip("-")


def _rename_twins(drafts: Sequence[_Draft]) -> None:
    """Two hosts whose ids would be the same have their whole names."""
    count = Counter(draft.id for draft in drafts)
    for draft in drafts:
        if count[draft.id] > 1:
            draft.id = re.sub(r"[^a-z0-9]+", "-", draft.host.name.lower()).strip("-")[:32].strip("-")


def _ssh(draft: _Draft, says: dict[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    ssh: dict[str, Any] = {}
    for key, those in names.items():
        found = [says.pop(name) for name in those if name in says]
        if found:
            ssh[key] = _number(found[0]) if key == "port" else found[0]
    if str(ssh.get("python", "")).startswith("auto"):
        del ssh["python"]  # Ansible's discovery; ours looks in the usual places, too
    for name in _ARGUMENTS:
        if name in says:
            _arguments(draft, str(says.pop(name)), ssh, name)
    for name in _KEY_FILES:
        if name in says:
            path = str(says.pop(name))
            draft.tell_of(name, f"{path}: keys are the fleet's, in fleet.yaml: ssh: identities")
    return ssh


def _arguments(draft: _Draft, text: str, ssh: dict[str, Any], name: str) -> None:
    """ProxyJump has a place here; the rest of ssh's options belongs into an ssh_config. Its values are not told: a
    ProxyCommand may have a password in it.
    """
    rest = []
    for option, value in _options(text):
        if option in ("-J", "ProxyJump") and value:
            ssh["proxy_jump"] = value
        else:
            rest.append(option)
    if rest:
        said = " ".join(rest)
        draft.tell_of(name, f"{said} has no place here, but in an ssh_config (fleet.yaml: ssh: config)")


def _options(text: str) -> Iterator[tuple[str, str]]:
    """The options of a command line of ssh's, by name: `-o` stands for what it says."""
    try:
        words = deque(shlex.split(text))
    except ValueError:
        yield "what is not quoted as in a shell", ""
        return
    while words:
        word = words.popleft()
        option, value = word[:2], word[2:]
        if option[:1] != "-":
            continue
        if not value and words and words[0][:1] != "-":
            value = words.popleft()
        if option == "-o":
            option, _, value = re.sub(r"[=\s]+", "=", value.strip(), count=1).partition("=")
        yield option, value


def _region(draft: _Draft, says: dict[str, Any], regions: Mapping[str, Region] | None) -> str | None:
    country = says.pop("country", None)
    named = says.pop("region", None)
    known = regions or {}
    if named is None:
        named = next((group for group in map(_id_of, draft.host.groups) if group in known), None)
    if named is None and country is not None:
        there = [region.id for region in known.values() if region.country == str(country).lower()]
        named = there[0] if len(there) == 1 else None
        if named is None:
            draft.tell(f'country "{country}" has {len(there)} regions in regions.yaml: say which')
    if named is not None and country is not None and str(named) in known:
        held = known[str(named)].country
        if held != str(country).lower():
            draft.tell(f'country "{country}": region {named} stands in {held}, and so does the node')
    return None if named is None else str(named)


def _tags(draft: _Draft, says: dict[str, Any]) -> list[str]:
    """The groups, and what the host calls its tags."""
    said = says.pop("tags", [])
    words = re.split(r"[\s,;|]+", said) if isinstance(said, str) else said if isinstance(said, list) else []
    tags = []
    for word in (*draft.host.groups, *map(str, words)):
        tag = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")
        if is_id(tag):
            tags.append(tag)
        elif word:
            draft.tell(f'"{word}" can be no tag')
    return [tag for tag in dict.fromkeys(tags) if tag != draft.row.get("region")]


def _variables(draft: _Draft, says: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in says.items():
        if key.startswith("ansible_"):
            draft.tell_of(key, "has no place here")
        elif not _VARIABLE.match(key):
            draft.tell_of(key, "is no name of a variable: lower-case letters, digits and _")
        elif "{{" in json.dumps(value):
            draft.tell_of(key, "is a template, and only values are variables here")
        elif any(in_the_clear(key, value)):
            draft.tell_of(key, "looks like a secret in the clear; name it in fleet.yaml: secrets")
        elif value is not None:
            yield key, value


def _that_load(drafts: Sequence[_Draft], regions: Mapping[str, Region] | None) -> tuple[list[_Draft], str]:
    """The nodes that can be loaded together, and the file that they make."""
    good = [draft for draft in drafts if _has_a_place(draft, regions)]
    while True:
        text, lines = _text(good)
        wrong = _problems(text, regions)
        bad = {lines[problem.line] for problem in wrong if problem.line in lines}
        for problem in wrong:
            if problem.line in lines:
                draft = good[lines[problem.line]]
                draft.tell(f"left out: {problem.reason.removeprefix(f'node {draft.id}: ')}")
        if not bad:
            for problem in wrong if good else ():
                good[0].told.add(_FILE, problem.line, f"does not load: {problem.reason}")
            return good, text
        good = [draft for number, draft in enumerate(good) if number not in bad]


def _has_a_place(draft: _Draft, regions: Mapping[str, Region] | None) -> bool:
    row = draft.row
    if not draft.id:
        draft.tell("left out: its name makes no id")
    elif row["address"] is None:
        draft.tell("left out: no IP address (say it as `address`, or look the name up with --resolve)")
    elif row["region"] is None:
        draft.tell("left out: no region (say it as `region`, by a group of its name, or with --region)")
    elif regions is not None and row["region"] not in regions:
        draft.tell(f'left out: unknown region "{row["region"]}"{nearest(str(row["region"]), regions)}')
    else:
        return True
    return False


def _problems(text: str, regions: Mapping[str, Region] | None) -> list[yamlfile.Problem]:
    """What the loader says of it. Without regions, whatever they are called is right."""
    problems = Problems()
    value = yamlfile.parse(text, _FILE, problems)
    file = Record(value, 1, _FILE, "", problems, told=value is None)
    read_nodes(file.table("nodes"), file.section("defaults"), regions or {}, regions)
    return problems.listed()


def _text(drafts: Sequence[_Draft]) -> tuple[str, dict[int, int]]:
    """nodes.yaml, and by line which node stands there."""
    shared = {key: _most_common(draft.row["ssh"][key] for draft in drafts) for key in ("user", "port")}
    shared["port"] = shared["port"] or 22
    rows = [
        "defaults:",
        f"  ssh: {_flow({key: value for key, value in shared.items() if value})}",
        "",
        "nodes:",
    ]
    if not drafts:
        rows[-1] += " {}"
    lines: dict[int, int] = {}
    for number, draft in enumerate(drafts):
        ssh = {key: value for key, value in draft.row["ssh"].items() if shared.get(key) != value}
        said = {key: value for key, value in {**draft.row, "ssh": ssh}.items() if value not in (None, [], {})}
        rows.append(f"  {_scalar(draft.id)}: {_flow(said)}")
        lines[len(rows)] = number
    return "\n".join(rows) + "\n", lines


def _most_common(values: Iterable[Any]) -> Any:
    """The value of more than half of them; the others say their own."""
    every = list(values)
    said = [value for value, count in Counter(every).most_common(1) if count * 2 > len(every)]
    return said[0] if said else None


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if isinstance(value, str) and _BARE.match(value) and value.lower() not in _WORDS_OF_OTHERS:
        from commcli.fleet.yamlparser import plain

        if plain(value) == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _address(draft: _Draft, names: Sequence[object]) -> str | None:
    """The first that is an address, or that has one."""
    every = [str(name) for name in names if name]
    found = next(filter(_is_address, every), None)
    return found or next(filter(None, map(draft.resolve, every)), None)


def _is_address(text: object) -> bool:
    try:
        ip_address(str(text))
    except ValueError:
        return False
    return True


def _number(value: object) -> object:
    """What a CSV's cell or a quoted value means, if it is a number."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value) if "." in value else int(value)
    return value
