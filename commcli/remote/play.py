"""A checked playbook as values: steps, and groups of steps with what comes after their failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Section = Literal["steps", "handlers", "checks"]
DEFAULT_TIMEOUT_S = 60.0
# As in Ansible, where `until` does not say how often.
RETRIES = 3
DELAY_S = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `args` are as written, their templates not yet rendered; `lines` is where each key stands. `loop` is a
    list, or an expression over variables; `when` and `tags` hold those of its groups; `branch` says where in a group
    it stands ("deploy: rescue").
    """

    name: str
    word: str
    section: Section
    args: Mapping[str, object]
    line: int
    lines: Mapping[str, int]
    when: str | None = None
    register: str | None = None
    notify: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    loop: object = None
    tags: tuple[str, ...] = ()
    retries: int = 0
    delay_s: float = DELAY_S
    until: str | None = None
    ignore_errors: bool = False
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that fail together: if one of `tried` does, `rescue` runs in place of the rest; `always` in any case."""

    name: str
    line: int
    tried: tuple[Part, ...]
    rescue: tuple[Part, ...] = ()
    always: tuple[Part, ...] = ()


Part = Step | Group


@dataclass(frozen=True, slots=True)
class Play:
    """A checked playbook. `sources` are the contents of the local files that its steps name, by that name;
    `uses` the sets of variables that it needs besides the node's own (words.USES); `warnings` what is no error in it
    and hardly meant; `chosen`: tags have had their say (remote/tags.py); `bootstrap`: lines of shell for a node that
    has no python3.
    """

    name: str
    about: str
    file: str
    variables: Mapping[str, object]
    steps: tuple[Part, ...]
    sources: Mapping[str, bytes] = field(default_factory=dict)
    uses: tuple[str, ...] = ()
    used: frozenset[str] = frozenset()
    variable_lines: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    chosen: bool = False
    bootstrap: tuple[str, ...] = ()

    def flat(self) -> list[Step]:
        """Every step, in the order of the file."""
        return list(_flat(self.steps))


def _flat(parts: tuple[Part, ...]) -> Iterator[Step]:
    for part in parts:
        if isinstance(part, Step):
            yield part
        else:
            yield from _flat((*part.tried, *part.rescue, *part.always))
