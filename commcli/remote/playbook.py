"""Playbooks: YAML in, a checked Play out, with everything wrong in the file told at once.

name: relay
uses: [relay]                          # sets of variables: relay (remote/relayfiles.py)
variables: {greeting: hello}           # defaults; a node's own variables win
steps:                                 # in order; the first failure ends the play on that node
  - name: greeting
    file: {path: "{{ base }}/etc/greeting", content: "{{ greeting }}\\n", mode: "0644"}
    when: facts.uid == 0               # optional, as are register, notify, timeout_s
    notify: restart                    # a handler, or a list of them
handlers: [...]                        # run after the steps, once, if a change notified them
checks: [...]                          # run last: assert, wait_for, commands that only look
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from commcli.fleet import yamlfile
from commcli.fleet.record import Record, nearest
from commcli.fleet.yamlfile import Problems, YamlList, YamlMap, kind_of
from commcli.remote import template
from commcli.remote.onnode.condition import ConditionError, names, parse
from commcli.remote.onnode.step import Key
from commcli.remote.steps import command, directory, file, require, service, wait_for

Section = Literal["steps", "handlers", "checks"]
DEFAULT_TIMEOUT_S = 60.0
USES = ("relay",)

# The words of playbooks: what each takes, and the module under steps/ that does it.
WORDS: Mapping[str, Mapping[str, Key]] = {
    "assert": require.KEYS,
    "command": command.KEYS,
    "directory": directory.KEYS,
    "file": file.KEYS,
    "service": service.KEYS,
    "template": {"path": Key("text", True), "source": Key("text", True), "mode": Key("mode")},
    "wait_for": wait_for.KEYS,
}
MODULES = {"assert": "require", "template": "file"}
_COMMON = ("name", "when", "register", "notify", "timeout_s")
_ALWAYS_KNOWN = {"facts"}
# What a command's `changed_when` and a wait_for's `until` ask about.
_RESULT_NAMES = {"status", "stdout", "stderr", "answer"}
_MODE = re.compile(r"0?[0-7]{3,4}\Z")


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `args` are as written, their templates not yet rendered; `lines` is where each key stands."""

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


@dataclass(frozen=True, slots=True)
class Play:
    """A checked playbook. `sources` are the contents of the local files that its steps name, by that name;
    `uses` the sets of variables that it needs besides the node's own (USES)."""

    name: str
    about: str
    file: str
    variables: Mapping[str, object]
    steps: tuple[Step, ...]
    sources: Mapping[str, bytes] = field(default_factory=dict)
    uses: tuple[str, ...] = ()


def load(path: Path) -> Play:
    """Read and check a playbook. Raises BadInput with every problem, each `file:line: reason`."""
    problems = Problems()
    value = yamlfile.read(path, problems)
    play = _Reader(path, value, problems).play()
    problems.raise_if_any()
    return play


class _Reader:
    """One playbook while it is being read."""

    def __init__(self, path: Path, value: object, problems: Problems) -> None:
        self._folder = path.parent
        self._file = yamlfile.shown(path)
        self._problems = problems
        self._top = Record(value, 1, self._file, "", problems, told=value is None)
        self._handlers = _names_in(value, "handlers")
        self._known = set(_ALWAYS_KNOWN)
        self._sources: dict[str, bytes] = {}
        self._services: dict[str, dict[str, object]] = {}

    def play(self) -> Play:
        name = self._top.text("name")
        about = self._top.text_or("about", "")
        variables = {key: value for key, value, _ in self._top.section("variables").items()}
        uses = self._top.words("uses", USES, "set of variables")
        steps = tuple(step for section in get_args(Section) for step in self._section(section))
        self._top.finish()
        if not self._top.broken and self._top.is_empty("steps"):
            self._top.problem("steps is empty", key="steps")
        return Play(name, about, self._file, variables, steps, self._sources, uses)

    def _section(self, section: Section) -> Iterator[Step]:
        value = self._top.take(section)
        if value is None:
            return
        if not isinstance(value, YamlList):
            self._top.problem(f"{section} must be a list, not {kind_of(value)}", key=section)
            return
        seen: set[str] = set()
        for item, line in value.placed():
            name = item.get("name") if isinstance(item, YamlMap) else None
            if isinstance(name, str) and name in seen:
                self._problems.add(self._file, line, f'step "{name}" is written twice in {section}')
            seen.add(str(name))
            if isinstance(item, YamlMap):
                yield self._step(item, line, section)
            else:
                self._problems.add(self._file, line, f"a step must be a mapping, not {kind_of(item)}")

    def _step(self, item: YamlMap, line: int, section: Section) -> Step:
        name = item.get("name")
        what = f'step "{name}"' if isinstance(name, str) else "step"
        record = Record(item, line, self._file, what, self._problems)
        word = self._word(item, record)
        record.text("name")
        when = record.text_or("when", None)
        if when is not None:
            self._check_condition(record, "when", when, self._known)
        notify = record.take("notify")
        handlers = () if notify is None else record.names(
            "notify", notify, self._handlers, "handler", item.lines["notify"]
        )  # fmt: skip
        timeout_s = record.number_or("timeout_s", DEFAULT_TIMEOUT_S, 0.1, 3600)
        args, lines = self._args(record, item, word) if word else ({}, {})
        register = record.text_or("register", None)
        if register is not None:
            self._known.add(register)
        record.finish()
        return Step(str(name), word, section, args, line, lines, when, register, handlers, timeout_s)

    def _word(self, item: YamlMap, record: Record) -> str:
        """The step's own word; "" after noting that there is none, or more than one."""
        words = [key for key in item if key in WORDS]
        for key in item:
            if key not in WORDS and key not in _COMMON:
                record.take(key)
                record.problem(f'unknown word "{key}"{nearest(key, [*WORDS, *_COMMON])}', key=key)
        if not words and all(key in _COMMON for key in item):
            record.problem(f"says nothing to do: one of {', '.join(WORDS)} is missing")
        for key in words[1:]:
            record.problem(f"{words[0]} and {key} in one step: make it two", key=key)
        for key in words:
            record.take(key)
        return words[0] if words else ""

    def _args(self, step: Record, item: YamlMap, word: str) -> tuple[dict[str, object], Mapping[str, int]]:
        value = item[word]
        name = f"{step.what}: {word}"
        record = Record(value, item.lines[word], self._file, name, self._problems)
        args = {}
        for key, spec in WORDS[word].items():
            if (taken := self._arg(record, key, spec)) is not None:
                args[key] = taken
        record.finish()
        lines = value.lines if isinstance(value, YamlMap) else {}
        if not record.broken:
            self._check_content(record, word, args)
        if word == "service":
            # A handler says only `name` and `state`: the rest is what an earlier step said of that service.
            args = {**self._services.get(str(args.get("name")), {}), **args}
            self._services[str(args.get("name"))] = args
        return args, lines

    def _arg(self, record: Record, key: str, spec: Key) -> object:
        """The value of one key, None if it is missing or wrong."""
        value = record.take(key)
        if value is None:
            if spec.required and not record.broken:
                record.problem(f"{key} is missing")
            return None
        if spec.kind in ("texts", "conditions"):
            # A bare text is a list of one; a command line is never split.
            texts = [value] if isinstance(value, str) and spec.kind == "conditions" else value
            found = list(record.texts(key)) if texts is value else [str(value)]
        else:
            if not isinstance(value, str):
                quoted = ": put it in quotes" if spec.kind == "mode" else ""
                record.problem(f"{key} must be text, not {kind_of(value)}{quoted}", key=key)
                return None
            found = [value]
        for text in found:
            self._check_text(record, key, spec, text)
        return found if spec.kind in ("texts", "conditions") else found[0]

    def _check_text(self, record: Record, key: str, spec: Key, text: str) -> None:
        try:
            template.parse(text)
        except template.TemplateError as error:
            record.problem(f"{key}: {error}", key=key)
            return
        if "{{" in text or "{%" in text:
            return  # its value is known, and checked, when it is rendered
        if reason := wrong(spec, text, self._known):
            record.problem(f"{key}: {reason}", key=key)

    def _check_condition(self, record: Record, key: str, text: str, known: set[str]) -> None:
        if reason := wrong(Key("condition"), text, known):
            record.problem(f"{key}: {reason}", key=key)

    def _check_content(self, record: Record, word: str, args: Mapping[str, object]) -> None:
        if word == "file" and len({"content", "source", "blob"} & set(args)) != 1:
            record.problem("needs exactly one of content, source, blob")
        source = args.get("source")
        if not isinstance(source, str) or source in self._sources:
            return
        try:
            self._sources[source] = (self._folder / source).read_bytes()
            if word == "template":
                template.parse(self._sources[source].decode("utf-8"))
        except OSError as error:
            record.problem(f'source "{source}": {error.strerror}', key="source")
        except UnicodeDecodeError:
            record.problem(f'source "{source}" is not UTF-8 text', key="source")
        except template.TemplateError as error:
            record.problem(f'source "{source}", line {error.line}: {error}', key="source")


def _names_in(value: object, section: str) -> list[str]:
    items = value.get(section) if isinstance(value, YamlMap) else None
    if not isinstance(items, YamlList):
        return []
    return [str(item["name"]) for item in items if isinstance(item, YamlMap) and "name" in item]


def wrong(spec: Key, text: str, known: set[str] | None = None) -> str:
    """Why a rendered text is no value for this key, "" if it is. `known`: names a condition may ask about."""
    if spec.kind == "mode" and not _MODE.match(text):
        return 'must be like "0644"'
    if spec.words and text not in spec.words:
        return f'unknown word "{text}"{nearest(text, spec.words)}'
    if spec.kind in ("condition", "conditions"):
        try:
            parse(text)
            strange = names(text) - (known or names(text)) - _RESULT_NAMES
        except ConditionError as error:
            return str(error)
        if strange:
            return f'unknown name "{min(strange)}"{nearest(min(strange), known or ())}'
    return ""
