"""Hosts as other tools list them, before they are nodes; and what is to be told of a source, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from commcli.fleet.yamlfile import Problems

VAULT = "is encrypted with Ansible Vault: a secret is no variable here; name it in fleet.yaml: secrets"


@dataclass(frozen=True, slots=True)
class Host:
    """One host: its variables, with all that its groups say, and where it stands; `lines`: where each of them does.
    `groups` has no all, no ungrouped.
    """

    name: str
    file: str
    line: int
    groups: tuple[str, ...] = ()
    variables: Mapping[str, object] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Source:
    """What was read. `wrong` keeps it from being used at all; `told` is what is lost on the way."""

    hosts: list[Host] = field(default_factory=list)
    wrong: Problems = field(default_factory=Problems)
    told: Problems = field(default_factory=Problems)


def is_vault(value: object) -> bool:
    """Whether it is an encrypted value, or holds one."""
    if isinstance(value, str):
        return value.lstrip().startswith("$ANSIBLE_VAULT")
    if isinstance(value, Mapping):
        return "__ansible_vault" in value or any(map(is_vault, value.values()))
    return isinstance(value, list) and any(map(is_vault, value))
