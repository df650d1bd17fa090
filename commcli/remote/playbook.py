"""Playbooks: YAML in, a checked Play out, with everything wrong in the file told at once.

name: relay
uses: [relay]                          # sets of variables: relay (remote/relayfiles.py)
variables: {greeting: hello}           # defaults; a node's own variables win
bootstrap: [apt-get install -qy python3]   # lines of shell, as they are, for a node without a python3 of ours
steps:                                 # in order; the first failure ends the play on that node
  - name: greeting
    file: {path: "{{ base }}/etc/{{ item }}", content: "{{ greeting }}\\n", mode: "0644"}
    loop: [greeting, welcome]          # optional, as are when, register, notify, tags, retries, ...
    when: facts.uid == 0
    notify: restart                    # a handler, or a list of them
  - name: deploy                       # a group: what is to come after a failure
    try: [...]
    rescue: [...]
    always: [...]
handlers: [...]                        # run after the steps, once, if a change notified them
checks: [...]                          # run last: assert, wait_for, commands that only look
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from commcli.fleet import yamlfile
from commcli.fleet.record import Record, nearest
from commcli.fleet.yamlfile import Problems, YamlList, YamlMap, kind_of
from commcli.remote import loop as loops
from commcli.remote import template
from commcli.remote.onnode.step import Key
from commcli.remote.play import DEFAULT_TIMEOUT_S, DELAY_S, RETRIES, Group, Part, Play, Section, Step
from commcli.remote.steps import wait_for
from commcli.remote.tags import RESERVED
from commcli.remote.words import (
    BESIDE,
    BRANCHES,
    CONTENT,
    LISTS,
    OF_GROUPS,
    OF_LOOPS,
    OF_NODES,
    PLAIN,
    RESULT,
    USES,
    WORDS,
    strangers,
    wrong,
)

__all__ = ["Group", "Part", "Play", "Step", "load"]

# What users of Ansible write, too far from our word to be "near".
_MEANT = {
    "apt": "package", "dnf": "package", "yum": "package", "lineinfile": "line", "blockinfile": "block",
    "systemd": "service", "unarchive": "archive", "shell": "script", "stat": "facts", "setup": "facts",
    "with_items": "loop", "delay": "delay_s", "timeout": "timeout_s", "wait_for_connection": "wait_for",
}  # fmt: skip


def load(path: Path) -> Play:
    """Read and check a playbook. Raises BadInput with every problem, each `file:line: reason`."""
    problems = Problems()
    value = yamlfile.read(path, problems)
    play = _Reader(path, value, problems).play()
    problems.raise_if_any()
    return play


class _Inside(NamedTuple):
    """Where a step stands: what it has from the groups around it."""

    section: Section
    branch: str = ""
    when: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    failed: bool = False

    def known(self) -> set[str]:
        """What conditions may ask about here and not elsewhere."""
        return {"failed"} if self.failed else set()


class _Reader:
    """One playbook while it is being read."""

    def __init__(self, path: Path, value: object, problems: Problems) -> None:
        self._folder = path.parent
        self._file = yamlfile.shown(path)
        self._problems = problems
        self._top = Record(value, 1, self._file, "", problems, told=value is None)
        self._handlers = _handlers(value)
        self._registers = dict(_registers(value))
        self._fixed: set[str] = set()  # what is no name for a result: it is somebody's already
        self._known: set[str] = set()
        self._used: set[str] = set()
        self._notified: set[str] = set()
        self._seen: set[str] = set()
        self._sources: dict[str, bytes] = {}
        self._services: dict[str, dict[str, object]] = {}

    def play(self) -> Play:
        name = self._top.text("name")
        about = self._top.text_or("about", "")
        places = {key: (value, line) for key, value, line in self._top.section("variables").items()}
        for taken in sorted({*places} & {"facts", "failed", *OF_LOOPS, *OF_NODES}):
            self._top.problem(f'variable "{taken}": is the name of something else', line=places[taken][1])
        for key, (value, line) in places.items():
            if any("{{" in text or "{%" in text for text in loops.texts(_plain(value))):
                self._top.problem(
                    f'variable "{key}": is taken as it stands, nothing in it is rendered: write the template '
                    "where it is used",
                    line=line,
                )
        uses = self._top.words("uses", USES, "set of variables")
        self._fixed = {"facts", "failed", *places, *OF_NODES, *OF_LOOPS}.union(*(USES[each] for each in uses))
        self._known = self._fixed - {"failed", *OF_LOOPS}
        steps = tuple(part for section in get_args(Section) for part in self._section(section))
        bootstrap = self._bootstrap()
        self._top.finish()
        if not self._top.broken and self._top.is_empty("steps"):
            self._top.problem("steps is empty", key="steps")
        variables = {key: _plain(value) for key, (value, _) in places.items()}
        lines = {key: line for key, (_, line) in places.items()}
        return Play(
            name, about, self._file, variables, steps, self._sources, uses, frozenset(self._used), lines,
            tuple(self._warnings(lines)), bootstrap=bootstrap,
        )  # fmt: skip

    def _bootstrap(self) -> tuple[str, ...]:
        lines = self._top.texts("bootstrap")
        if any("{{" in line or "{%" in line for line in lines):
            self._top.problem("bootstrap is shell as it stands: nothing in it is rendered", key="bootstrap")
        return lines

    def _warnings(self, variables: Mapping[str, int]) -> Iterator[str]:
        for name, line in variables.items():
            if name not in self._used:
                yield f'{self._file}:{line}: variable "{name}" is used nowhere'
        for name, line in self._handlers.items():
            if name not in self._notified:
                yield f'{self._file}:{line}: handler "{name}" is notified by no step'

    def _section(self, section: Section) -> Iterator[Part]:
        value = self._top.take(section)
        self._seen = set()
        if value is None:
            return
        if not isinstance(value, YamlList):
            self._top.problem(f"{section} must be a list, not {kind_of(value)}", key=section)
            return
        yield from self._parts(value, _Inside(section))

    def _parts(self, value: YamlList, inside: _Inside) -> Iterator[Part]:
        for item, at in value.placed():
            if not isinstance(item, YamlMap):
                self._problems.add(self._file, at, f"a step must be a mapping, not {kind_of(item)}")
                continue
            name = item.get("name")
            if isinstance(name, str) and name in self._seen:
                self._problems.add(self._file, at, f'step "{name}" is written twice in {inside.section}')
            self._seen.add(str(name))
            is_group = any(branch in item for branch in BRANCHES) and not any(word in item for word in WORDS)
            yield self._group(item, at, inside) if is_group else self._step(item, at, inside)

    def _group(self, item: YamlMap, line: int, inside: _Inside) -> Group:
        record = Record(item, line, self._file, f'group "{item.get("name")}"', self._problems)
        name = record.text("name")
        if inside.section == "handlers":
            record.problem("a handler is one step, not a group")
        when = self._when(record, self._known | inside.known())
        tags = self._tags(record)
        for key in item:
            if key in BESIDE and key not in OF_GROUPS:
                record.take(key)
                record.problem(f"{key} is for steps: a group has only {', '.join(OF_GROUPS)}", key=key)
        found: dict[str, tuple[Part, ...]] = {}
        for branch in BRANCHES:
            within = inside._replace(
                branch=f"{inside.branch} > {name}: {branch}".removeprefix(" > "),
                when=(*inside.when, *when),
                tags=(*inside.tags, *tags),
                failed=inside.failed or branch != "try",
            )
            found[branch] = self._branch(record, branch, within)
        if not found["try"] or not (found["rescue"] or found["always"]):
            record.problem("needs steps under try, and under rescue or always")
        record.finish()
        return Group(name, line, found["try"], found["rescue"], found["always"])

    def _branch(self, record: Record, branch: str, inside: _Inside) -> tuple[Part, ...]:
        value = record.take(branch)
        if value is None:
            return ()
        if not isinstance(value, YamlList):
            record.problem(f"{branch} must be a list, not {kind_of(value)}", key=branch)
            return ()
        return tuple(self._parts(value, inside))

    def _step(self, item: YamlMap, line: int, inside: _Inside) -> Step:
        name = item.get("name")
        record = Record(
            item, line, self._file, f'step "{name}"' if isinstance(name, str) else "step", self._problems
        )
        word = self._word(item, record)
        if "{{" in record.text("name"):
            record.problem("name is not rendered: it is the same on every node", key="name")
        loop = self._loop(record)
        known = self._known | inside.known() | {*(OF_LOOPS if loop is not None else ())}
        when = (*inside.when, *self._when(record, known))
        notify = self._notify(record, inside.section, str(name))
        timeout_s = record.number_or("timeout_s", DEFAULT_TIMEOUT_S, 0.1, 3600)
        args, lines = self._args(record, item, word, known) if word else ({}, {})
        register = self._register(record)
        until, retries, delay_s = self._again(record, {*known, *(() if register is None else (register,))})
        step = Step(
            str(name), word, inside.section, args, line, {**item.lines, **lines}, " and ".join(_wrapped(when)) or None,
            register, notify, timeout_s, loop, (*inside.tags, *self._tags(record)), retries, delay_s, until,
            record.flag_or("ignore_errors", False), inside.branch,
        )  # fmt: skip
        record.finish()
        return step

    def _word(self, item: YamlMap, record: Record) -> str:
        """The step's own word; "" after noting that there is none, or more than one."""
        words = [key for key in item if key in WORDS]
        for key in item:
            if key not in WORDS and key not in BESIDE:
                record.take(key)
                meant = (
                    f'; did you mean "{_MEANT[key]}"?' if key in _MEANT else nearest(key, [*WORDS, *BESIDE])
                )
                record.problem(f'unknown word "{key}"{meant}', key=key)
        if not words and all(key in BESIDE for key in item):
            record.problem(f"says nothing to do: one of {', '.join(WORDS)} is missing")
        for key in words[1:]:
            record.problem(f"{words[0]} and {key} in one step: make it two", key=key)
        for key in words:
            record.take(key)
        return words[0] if words else ""

    def _when(self, record: Record, known: Collection[str]) -> tuple[str, ...]:
        """The conditions that must hold, one or a list of them."""
        value = record.take("when")
        if value is None:
            return ()
        found = []
        for text in value if isinstance(value, list) else [value]:
            text = str(text).lower() if isinstance(text, bool) else text
            if not isinstance(text, str):
                record.problem(f"when must be text, not {kind_of(text)}", key="when")
                continue
            self._condition(record, "when", text, known)
            found.append(_uncommented(text))
        return tuple(found)

    def _condition(self, record: Record, key: str, text: str, known: Collection[str]) -> None:
        """Note what is wrong with a condition, and what it asks about."""
        if "{{" in text:
            self._check_template(record, key, text, known)
            return  # it is known, and checked, when it is rendered
        if reason := wrong(Key("condition"), text):
            record.problem(f"{key}: {reason}", key=key)
            return
        self._used.update(strangers(text, ()))
        for unknown in strangers(text, known):
            record.problem(f"{key}: {self._stranger(unknown, known)}", key=key)

    def _stranger(self, name: str, known: Collection[str]) -> str:
        if name in self._registers:
            return f'"{name}" is registered only later, in line {self._registers[name]}'
        if name in OF_LOOPS:
            return f'"{name}" is for steps with a loop'
        if name == "failed":
            return '"failed" is for steps under rescue and always'
        near = nearest(name, known)
        return f'unknown name "{name}"{near or "; give a variable of the nodes a default under `variables`"}'

    def _loop(self, record: Record) -> object:
        value = _plain(record.take("loop"))
        if value is None:
            return None
        if not isinstance(value, str | list | dict):
            record.problem(f"loop must be a list, a mapping or a variable, not {kind_of(value)}", key="loop")
            return []
        try:
            asked = loops.names(value)
        except template.TemplateError as error:
            record.problem(f"loop: {error}", key="loop")
            return []
        self._used |= asked
        for name in sorted(asked & {"facts", *self._registers}):
            record.problem(
                f'loop: "{name}" is known on the node alone: loop over variables, and ask for it in `when`',
                key="loop",
            )
        return value

    def _notify(self, record: Record, section: Section, name: str) -> tuple[str, ...]:
        value = record.take("notify")
        if value is None:
            return ()
        line = value.line if isinstance(value, YamlList) else None
        names = record.names("notify", value, self._handlers, "handler", line or record.place("notify"))
        self._notified.update(names)
        order = [*self._handlers]
        passed = order[: order.index(name) + 1] if section == "handlers" and name in order else []
        if section == "checks" or not set(names).isdisjoint(passed):
            record.problem("notifies a handler whose turn is over by then", key="notify")
        return names

    def _tags(self, record: Record) -> tuple[str, ...]:
        value = record.take("tags")
        if value is None:
            return ()
        tags = record.names("tags", value, None, "tag", record.place("tags"))
        for tag in RESERVED & {*tags}:
            record.problem(f'tag "{tag}" is a word of --tags: a step can not have it', key="tags")
        return tags

    def _register(self, record: Record) -> str | None:
        name = record.text_or("register", None)
        if name is None:
            return None
        if not name.isidentifier():
            record.problem(f'register "{name}" must be letters, digits and underscores', key="register")
        elif name in self._fixed or name in RESULT:
            record.problem(f'register "{name}": is the name of something else', key="register")
        self._known.add(name)
        return name

    def _again(self, record: Record, known: Collection[str]) -> tuple[str | None, int, float]:
        """`until`, `retries` and `delay_s`."""
        until = record.text_or("until", None)
        if until is not None:
            self._condition(record, "until", until, {*known, *RESULT})
        retries = record.integer_or("retries", RETRIES if until else 0, 0, 1000)
        if record.has("delay_s") and not retries:
            record.problem("delay_s is the time between attempts: retries or until is missing", key="delay_s")
        return until, retries, record.number_or("delay_s", DELAY_S, 0, 3600)

    def _args(
        self, step: Record, item: YamlMap, word: str, known: Collection[str]
    ) -> tuple[dict[str, object], Mapping[str, int]]:
        value = item[word]
        if word == "block" and isinstance(value, YamlList):
            step.problem("a group of steps is written `try` (`block` edits a part of a file)", key=word)
            return {}, {}
        record = Record(value, item.lines[word], self._file, f"{step.what}: {word}", self._problems)
        args = {}
        for key, spec in WORDS[word].items():
            if (taken := self._arg(record, key, spec, known)) is not None:
                args[key] = taken
        record.finish()
        lines = value.lines if isinstance(value, YamlMap) else {}
        if not record.broken:
            self._check_content(record, word, args, known)
        if word == "service":
            # A handler says only `name` and `state`: the rest is what an earlier step said of that service.
            args = {**self._services.get(str(args.get("name")), {}), **args}
            self._services[str(args.get("name"))] = args
        return args, lines

    def _arg(self, record: Record, key: str, spec: Key, known: Collection[str]) -> object:
        """The value of one key, None if it is missing or wrong."""
        value = record.take(key)
        if value is None:
            if spec.required and not record.broken:
                record.problem(f"{key} is missing")
            return None
        if spec.kind in LISTS:
            # A bare text is a list of one; a command line is never split.
            texts = [value] if isinstance(value, str) and spec.kind == "conditions" else value
            found = list(record.texts(key)) if texts is value else [str(value)]
        elif spec.kind in PLAIN and isinstance(value, (bool, int, float)):
            found = [str(value)]
        elif spec.kind == "condition" and isinstance(value, bool):
            found = [str(value).lower()]
        else:
            if not isinstance(value, str):
                quoted = ": put it in quotes" if isinstance(value, (bool, int, float)) else ""
                record.problem(f"{key} must be text, not {kind_of(value)}{quoted}", key=key)
                return None
            found = [value]
        for text in found:
            self._check_text(record, key, spec, text, known)
        return found if spec.kind in LISTS else found[0]

    def _check_text(self, record: Record, key: str, spec: Key, text: str, known: Collection[str]) -> None:
        if not self._check_template(record, key, text, known):
            return
        if key == "blob":
            self._used.add(text)
        if "{{" in text or "{%" in text:
            return  # its value is known, and checked, when it is rendered
        if spec.kind in ("condition", "conditions"):
            self._condition(record, key, text, {*known, *RESULT} if spec.kind == "condition" else known)
        elif reason := wrong(spec, text):
            record.problem(f"{key}: {reason}", key=key)

    def _check_template(
        self, record: Record, key: str, text: str, known: Collection[str], where: str = ""
    ) -> bool:
        """Whether the text can be rendered as far as can be told now; notes the variables that it asks for."""
        if "{" not in text:
            return True
        try:
            template.parse(text)
            asked = template.names(text)
        except template.TemplateError as error:
            at = f"{where}, line {error.line}" if where else key
            record.problem(f"{at}: {error}", key=key)
            return False
        self._used |= asked
        for name in sorted(asked & {"facts", "failed", *self._registers}):
            record.problem(
                f'{where or key}: "{name}" is known on the node alone, templates are rendered here: use `when`',
                key=key,
            )
        for name in sorted(asked.intersection(OF_LOOPS) - {*known}):
            record.problem(f"{where or key}: {self._stranger(name, known)}", key=key)
        return True

    def _check_content(
        self, record: Record, word: str, args: Mapping[str, Any], known: Collection[str]
    ) -> None:
        given = CONTENT.get(word, ())
        contents = len({*given} & set(args))
        # Without content `file` is about what is there.
        is_bare = word == "file" and not contents and not {"mode", "owner", "group"}.isdisjoint(args)
        if given and args.get("state") != "absent" and contents != 1 and not is_bare:
            record.problem(f"needs exactly one of {', '.join(given)}")
        if is_bare and "keep" in args:
            record.problem("keep is for a file with content", key="keep")
        if word == "directory" and "recurse" in args and {"owner", "group"}.isdisjoint(args):
            record.problem("recurse needs owner or group", key="recurse")
        if word == "wait_for" and len({*wait_for.KINDS} & set(args)) != 1:
            record.problem(f"needs exactly one of {', '.join(wait_for.KINDS)}")
        if word == "wait_for" and "socket" in args and "until" not in args:
            record.problem("until is missing")
        if word == "link" and args.get("state") != "absent" and "target" not in args:
            record.problem("target is missing")
        if isinstance(args.get("source"), str):
            self._source(record, word, args["source"], known)

    def _source(self, record: Record, word: str, source: str, known: Collection[str]) -> None:
        """Read the local file that a step sends along."""
        try:
            if source not in self._sources:
                self._sources[source] = (self._folder / source).read_bytes()
            if word == "template":
                text = self._sources[source].decode("utf-8")
                self._check_template(record, "source", text, known, f'source "{source}"')
        except OSError as error:
            record.problem(f'source "{source}": {error.strerror}', key="source")
        except UnicodeDecodeError:
            record.problem(f'source "{source}" is not UTF-8 text', key="source")


def _handlers(value: object) -> dict[str, int]:
    """The names of the handlers, with their lines."""
    items = value.get("handlers") if isinstance(value, YamlMap) else None
    if not isinstance(items, YamlList):
        return {}
    return {
        str(item["name"]): line
        for item, line in items.placed()
        if isinstance(item, YamlMap) and "name" in item
    }


def _registers(value: object) -> Iterator[tuple[str, int]]:
    """The names that steps register, wherever they stand, with their lines."""
    if isinstance(value, YamlMap):
        if isinstance(name := value.get("register"), str):
            yield name, value.lines["register"]
        for key in (*get_args(Section), *BRANCHES):
            yield from _registers(value.get(key))
    elif isinstance(value, YamlList):
        for item in value:
            yield from _registers(item)


def _wrapped(conditions: tuple[str, ...]) -> list[str]:
    return [*conditions] if len(conditions) < 2 else [f"({text})" for text in conditions]


def _uncommented(condition: str) -> str:
    """It without a comment, which would hide what comes behind it in one line."""
    if "#" not in condition:
        return condition
    try:
        tokens = [*tokenize.generate_tokens(io.StringIO(condition).readline)]
    except (tokenize.TokenError, SyntaxError):
        return condition  # a template: it is looked at when it is rendered
    comments = [token.start for token in tokens if token.type == tokenize.COMMENT]
    return condition[: comments[0][1]].rstrip() if comments and comments[0][0] == 1 else condition


def _plain(value: object) -> Any:
    """The value without its lines: in a template `item.line` is a key of the user's."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
