"""Ansible's inventories -> hosts: INI and YAML files, and the JSON of `ansible-inventory --list` or of a script.

They are read as Ansible reads them (docs.ansible.com: ansible.builtin.ini, ansible.builtin.yaml): variables of `all`
first, then those of groups, the outer first, by ansible_group_priority and by name, then the host's own.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from commcli.fleet import jsondoc, yamlfile
from commcli.fleet.foreign import VAULT, Host, Source, is_vault
from commcli.fleet.yamlfile import YamlMap, kind_of

MOST_HOSTS = 100_000
_SECTION = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:[#;].*)?\Z")
_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]")
_PORT = re.compile(r"(.+):([0-9]{1,5})\Z")
_ADDRESS6 = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?\Z")
_NO_GROUP = ("all", "ungrouped")
_PRIORITY = "ansible_group_priority"


@dataclass
class _Group:
    """One group. `hosts` and `variables` with the line where each stands."""

    hosts: dict[str, int] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)
    variables: dict[str, tuple[object, int]] = field(default_factory=dict)


@dataclass
class _Inventory:
    """All groups by name, and the hosts' own variables."""

    file: str
    source: Source
    groups: dict[str, _Group] = field(default_factory=lambda: {"all": _Group()})
    own: dict[str, dict[str, tuple[object, int]]] = field(default_factory=dict)

    def group(self, name: str) -> _Group:
        return self.groups.setdefault(name, _Group())

    def wrong(self, line: int, reason: str) -> None:
        self.source.wrong.add(self.file, line, reason)

    def say(self, into: dict[str, tuple[object, int]], key: str, value: object, line: int) -> None:
        if is_vault(value):
            self.wrong(line, f"{key} {VAULT}")
        into[key] = (value, line)


def read(text: str, file: str) -> Source:
    """The hosts of an inventory of Ansible's, in its order; `file` names it."""
    inventory = _Inventory(file, Source())
    if text.lstrip().startswith("{"):
        _read_list(text, inventory)
    elif file.endswith((".yaml", ".yml")) or text.lstrip().startswith("---"):
        _read_yaml(text, inventory)
    else:
        _read_ini(text, inventory)
    if not inventory.source.wrong:
        inventory.source.hosts.extend(_hosts(inventory))
        if not inventory.source.hosts:
            inventory.wrong(0, "has no host")
    return inventory.source


# --- INI -------------------------------------------------------------------------------------------------


def _read_ini(text: str, inventory: _Inventory) -> None:
    name, kind = "ungrouped", "hosts"
    for number, row in enumerate(text.splitlines(), 1):
        line = row.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and _address6(line.split()[0]) is None:
            found = _SECTION.match(line)
            if found is None or (found[2] or "hosts") not in ("hosts", "children", "vars"):
                inventory.wrong(number, "is no section: [group], [group:children] or [group:vars]")
                kind = "none"
                continue
            name, kind = found[1], found[2] or "hosts"
            inventory.group(name)
        elif kind == "hosts":
            _ini_hosts(line, number, inventory, name)
        elif kind == "children":
            inventory.group(name).children[line.split("#")[0].strip()] = number
        elif kind == "vars":
            key, equals, value = line.partition("=")
            if not equals:
                inventory.wrong(number, "is no variable: key = value")
            inventory.say(inventory.group(name).variables, key.strip(), _literal(value.strip()), number)


def _ini_hosts(line: str, number: int, inventory: _Inventory, group: str) -> None:
    try:
        pattern, *words = shlex.split(line, comments=True)
    except ValueError as error:
        inventory.wrong(number, f"can not be read: {str(error).lower()}")
        return
    told: dict[str, tuple[object, int]] = {}
    if (address := _address6(pattern)) is not None:
        pattern, port_of_it = address
        if port_of_it:
            told["ansible_port"] = (int(port_of_it), number)
    elif (port := _PORT.match(pattern)) is not None and pattern.count(":") - pattern.count("[") <= 1:
        pattern, told["ansible_port"] = port[1], (int(port[2]), number)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            inventory.wrong(number, f'"{key}" is no variable of a host: key=value')
        inventory.say(told, key, _literal(value), number)
    for name in _expanded(pattern, number, inventory):
        inventory.group(group).hosts.setdefault(name, number)
        inventory.own.setdefault(name, {}).update(told)


def _address6(word: str) -> tuple[str, str | None] | None:
    """Of `[ADDRESS]` and `[ADDRESS]:PORT` the two; None of all else, ranges too."""
    found = _ADDRESS6.match(word)
    try:
        return found and (str(IPv6Address(found[1])), found[2])
    except ValueError:
        return None


def _literal(text: str) -> object:
    """As Ansible reads it: a literal of Python if it is one, else text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, str | int | float | list | dict) else text


def _expanded(pattern: str, line: int, inventory: _Inventory) -> Iterator[str]:
    """The names that ranges such as `[01:20]`, `[a:f]` and `[0:9:3]` stand for."""
    found = _RANGE.search(pattern)
    if found is None:
        if "[" in pattern:
            inventory.wrong(line, f'"{pattern}" has a range that is none: [01:20], [a:f] or [0:9:3]')
            return
        yield pattern
        return
    first, last, step = found[1], found[2], int(found[3] or 1)
    if first.isdigit() != last.isdigit() or not step:
        inventory.wrong(line, f'"{found[0]}" is no range')
        return
    if first.isdigit():
        steps = range(int(first), int(last) + 1, step)
        width = len(first) if first.startswith("0") else 0
        parts = (f"{number:0{width}d}" if width else str(number) for number in steps)
    else:
        steps = range(ord(first), ord(last) + 1, step)
        parts = (chr(number) for number in steps)
    if not 0 < len(steps) <= MOST_HOSTS:
        inventory.wrong(line, f'"{found[0]}" is no range of 1 to {MOST_HOSTS} hosts')
        return
    for part in parts:
        yield from _expanded(pattern[: found.start()] + part + pattern[found.end() :], line, inventory)


# --- YAML ------------------------------------------------------------------------------------------------


def _read_yaml(text: str, inventory: _Inventory) -> None:
    rows = text.splitlines()
    for number, row in enumerate(rows, 1):
        if re.search(r":\s+!vault\b", row):
            inventory.wrong(number, f"{row.partition(':')[0].strip()} {VAULT}")
    if inventory.source.wrong:
        return
    document = yamlfile.parse(text, inventory.file, inventory.source.wrong, old=True)
    if isinstance(document, YamlMap):
        for name, told in document.items():
            _yaml_group(name, told, document.lines[name], inventory)
    elif document is not None:
        inventory.wrong(0, f"must be a mapping of groups, not {kind_of(document)}")


def _yaml_group(name: str, told: object, line: int, inventory: _Inventory) -> None:
    group = inventory.group(name)
    if told is None:
        return
    if not isinstance(told, YamlMap):
        inventory.wrong(line, f"group {name} must be a mapping, not {kind_of(told)}")
        return
    for key, value in told.items():
        if key not in ("hosts", "children", "vars"):
            inventory.wrong(told.lines[key], f'group {name}: unknown key "{key}": hosts, children or vars')
        elif value is None:
            continue
        elif isinstance(value, str) and key != "vars":  # one name
            (group.hosts if key == "hosts" else group.children)[value] = told.lines[key]
            inventory.group(value) if key == "children" else inventory.own.setdefault(value, {})
        elif not isinstance(value, YamlMap):
            inventory.wrong(told.lines[key], f"group {name}: {key} must be a mapping, not {kind_of(value)}")
        elif key == "vars":
            for variable, held in value.items():
                inventory.say(group.variables, variable, held, value.lines[variable])
        elif key == "children":
            for child, held in value.items():
                group.children[child] = value.lines[child]
                _yaml_group(child, held, value.lines[child], inventory)
        else:
            _yaml_hosts(value, group, inventory)


def _yaml_hosts(hosts: YamlMap, group: _Group, inventory: _Inventory) -> None:
    for pattern, told in hosts.items():
        line = hosts.lines[pattern]
        if told is not None and not isinstance(told, YamlMap):
            inventory.wrong(line, f"host {pattern} must be a mapping of variables, not {kind_of(told)}")
            continue
        for name in _expanded(pattern, line, inventory):
            group.hosts.setdefault(name, line)
            own = inventory.own.setdefault(name, {})
            for key, value in (told or {}).items():
                inventory.say(own, key, value, told.lines[key] if told is not None else line)


# --- the JSON of --list ----------------------------------------------------------------------------------


def _read_list(text: str, inventory: _Inventory) -> None:
    document = jsondoc.parse(text.encode(), inventory.file, inventory.source.wrong)
    if not isinstance(document, YamlMap):
        return
    inventory.source.told.places_of(inventory.file).extend(inventory.source.wrong.places_of(inventory.file))
    meta = document.pop("_meta", None)
    every = meta.get("hostvars") if isinstance(meta, YamlMap) else None
    for name, variables in _mapping(every).items():
        inventory.group("ungrouped").hosts.setdefault(
            name, every.lines[name] if isinstance(every, YamlMap) else 0
        )
        own = inventory.own.setdefault(name, {})
        for key, value in _mapping(variables).items():
            line = variables.lines[key] if isinstance(variables, YamlMap) else 0
            inventory.say(own, key, value, line)
    for name, told in document.items():
        group, line = inventory.group(name), document.lines[name]
        if isinstance(told, list):  # the old short form: a group is a list of its hosts
            told = YamlMap(line) | {"hosts": told}
        if not isinstance(told, Mapping):
            inventory.wrong(line, f"group {name} must be a mapping or a list, not {kind_of(told)}")
            continue
        group.hosts.update(dict.fromkeys(_names(told.get("hosts")), line))
        group.children.update(dict.fromkeys(_names(told.get("children")), line))
        for key, value in _mapping(told.get("vars")).items():
            inventory.say(group.variables, key, value, line)
    # A group without hosts is left out of the document, and its name is not.
    for child in [child for group in inventory.groups.values() for child in group.children]:
        inventory.group(child)


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


# --- what it comes to ------------------------------------------------------------------------------------


def _hosts(inventory: _Inventory) -> Iterator[Host]:
    depths = _depths(inventory)
    inside = {name: _below(name, inventory.groups) for name in inventory.groups}
    priorities = {name: _priority(group, inventory) for name, group in inventory.groups.items()}
    lines: dict[str, int] = {}
    for group in inventory.groups.values():
        for name, line in group.hosts.items():
            lines.setdefault(name, line)
    for name, line in lines.items():
        mine = [group for group in inventory.groups if group == "all" or name in inside[group]]
        mine.sort(key=lambda group: (depths.get(group, 1), priorities[group], group))
        told = [inventory.groups[group].variables for group in mine] + [inventory.own.get(name, {})]
        said = {key: held for part in told for key, held in part.items() if key != _PRIORITY}
        yield Host(
            name,
            inventory.file,
            line,
            tuple(group for group in mine if group not in _NO_GROUP),
            {key: value for key, (value, _) in said.items()},
            {key: at for key, (_, at) in said.items()},
        )


def _priority(group: _Group, inventory: _Inventory) -> int:
    """Among groups equally far from `all`, the one with the larger number has the last word."""
    value, line = group.variables.get(_PRIORITY, (1, 0))
    try:
        return int(str(value))
    except ValueError:
        inventory.wrong(line, f"{_PRIORITY} must be a whole number")
        return 1


def _depths(inventory: _Inventory) -> dict[str, int]:
    """How far each group is from `all`, at most. A group inside itself is noted."""
    depths = {"all": 0}
    waiting: list[tuple[str, int, tuple[str, ...]]] = [
        (name, 1, (name,)) for name in inventory.groups if name != "all"
    ]
    while waiting:
        name, depth, way = waiting.pop()
        depths[name] = max(depth, depths.get(name, 0))
        for child, line in inventory.groups[name].children.items():
            if child in way:
                inventory.wrong(line, f"group {child} lies inside itself")
            elif child not in inventory.groups:
                inventory.wrong(line, f"group {name} has the child {child}, which is no group")
            else:
                waiting.append((child, depth + 1, (*way, child)))
    return depths


def _below(name: str, groups: Mapping[str, _Group]) -> set[str]:
    """The hosts of a group and of all groups inside it."""
    seen: set[str] = set()
    hosts: set[str] = set()
    waiting = [name]
    while waiting:
        group = waiting.pop()
        if group not in seen and group in groups:
            seen.add(group)
            hosts.update(groups[group].hosts)
            waiting += groups[group].children
    return hosts
