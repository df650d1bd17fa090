"""A play and one node's variables become a plan: everything rendered, contents named by digest, secrets listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from commcli.errors import BadInput
from commcli.fleet.model import Node
from commcli.fleet.record import nearest
from commcli.fleet.secrets import Secret
from commcli.remote import loop, tags, template
from commcli.remote.fetched import place_of
from commcli.remote.onnode.condition import ConditionError, names
from commcli.remote.onnode.step import Key
from commcli.remote.play import Group, Part, Play, Step
from commcli.remote.words import CONTENT, MODULES, OF_LOOPS, WORDS, plain_path, wrong


class Plan(NamedTuple):
    """What one node is sent: `body` is JSON-able, `blobs` by sha256, `secrets` in clear, to be masked."""

    body: dict[str, Any]
    blobs: Mapping[str, bytes]
    secrets: tuple[str, ...]


def compile_play(
    play: Play,
    node: Node,
    variables: Mapping[str, object],
    *,
    check: bool = False,
    diff: bool = False,
    holder: Mapping[str, object] | None = None,
    run: str = "",
) -> Plan:
    """Render `play` for `node`. Raises BadInput with every problem, each `file:line: reason`.

    Variables: the play's own, then the node's, then `variables`, and `base` and `node_id` always.
    """
    play = play if play.chosen else tags.select(play)
    known = known_to(play, node, variables)
    compiler = _Compiler(play, known, node.id)
    flow = compiler.flow(play.steps)
    if compiler.problems:
        raise BadInput(compiler.problems)
    secrets = tuple(sorted(set(_secrets(known))))
    body = {
        "run": run,
        "play": play.name,
        "base": node.base,
        "check": check,
        "diff": diff,
        "lock": f"{node.base}/plays/lock",
        "pending": f"{node.base}/plays/{_file_name(play.name)}.pending",
        "holder": dict(holder or {}),
        "secrets": list(secrets),
        "variables": compiler.asked,
        "steps": compiler.steps,
        "flow": flow,
    }
    return Plan(body, compiler.blobs, secrets)


def known_to(play: Play, node: Node, variables: Mapping[str, object]) -> dict[str, object]:
    """Every variable that the play has on this node."""
    return {**play.variables, **node.variables, **variables, "base": node.base, "node_id": node.id}


class _Compiler:
    """`steps` are numbered as they come; `asked` are the variables that conditions ask about."""

    def __init__(self, play: Play, variables: Mapping[str, object], node_id: str) -> None:
        self.problems: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self.steps: list[dict[str, Any]] = []
        self.asked: dict[str, object] = {}
        self._play, self._variables, self._node_id = play, variables, node_id
        self._registered = {step.register for step in play.flat()}
        self._fetched: dict[str, str] = {}
        self._item = ""

    def flow(self, parts: Sequence[Part]) -> list[Any]:
        """The numbers of these steps, and groups of numbers, in order."""
        found: list[Any] = []
        for part in parts:
            if isinstance(part, Group):
                branches = {"try": part.tried, "rescue": part.rescue, "always": part.always}
                found.append({name: self.flow(branch) for name, branch in branches.items()})
            else:
                found += [self._numbered(compiled) for compiled in self._unrolled(part)]
        return found

    def _numbered(self, compiled: dict[str, Any]) -> int:
        self.steps.append(compiled)
        return len(self.steps) - 1

    def _unrolled(self, step: Step) -> Iterator[dict[str, Any]]:
        """The step, or one for each item of its loop."""
        if step.loop is None:
            yield self._step(step)
            return
        try:
            items = loop.items(step.loop, self._variables)
        except template.TemplateError as error:
            self._problem(step, "loop", str(error))
            return
        if not items:
            # It keeps its place: what it registers is asked about.
            yield {**self._frame(step), "args": {}, "loop": {}, "nothing": "no items"}
        outer = self._variables
        for index, item in enumerate(items):
            self._variables, self._item = {**outer, "item": item, "loop_index": index}, loop.label(item)
            yield {**self._step(step), "loop": self._place(step, index, index + 1 == len(items))}
        self._variables, self._item = outer, ""

    def _place(self, step: Step, index: int, is_last: bool) -> dict[str, Any]:
        """What the node is told of an item: no more than what it asks about."""
        told: dict[str, Any] = {"index": index, "label": self._item, "last": is_last}
        asks = tags.asked(step)
        if step.register or not asks.isdisjoint(OF_LOOPS):
            try:
                told["values"] = {"item": loop.plain(self._variables["item"]), "loop_index": index}
            except template.TemplateError as error:
                if "item" in asks:
                    self._problem(step, "loop", str(error))
                told["values"] = {"item": self._item, "loop_index": index}
        return told

    def _step(self, step: Step) -> dict[str, Any]:
        sent = CONTENT.get(step.word, ())
        args = {key: self._arg(step, key, value) for key, value in step.args.items() if key not in sent}
        if any(key in step.args for key in sent):
            args.update(self._content(step))
        if "mode" in args:
            args["mode"] = int(str(args["mode"]) or "0", 8)
        if step.word == "fetch":
            self._check_fetched(step, args)
        compiled = {**self._frame(step), "args": args}
        self._ask_about(step, compiled)
        return compiled

    def _frame(self, step: Step) -> dict[str, Any]:
        """The step without its arguments. What most steps do not have is left out: it all goes over the wire."""
        again = {"retries": step.retries, "delay_s": step.delay_s} if step.retries else {}
        return {
            "name": step.name,
            "module": MODULES.get(step.word, step.word),
            "section": step.section,
            "when": self._condition(step, "when", step.when),
            "register": step.register,
            "notify": list(step.notify),
            "timeout_s": step.timeout_s,
            **again,
            **({"until": self._condition(step, "until", step.until)} if step.until else {}),
            **({"ignore_errors": True} if step.ignore_errors else {}),
        }

    def _condition(self, step: Step, key: str, text: str | None) -> str | None:
        """A condition beside the step's word, rendered."""
        if text is None or "{{" not in text:
            return text
        rendered = self._render(step, key, text)
        if rendered is None:
            return None
        secret = "a secret may only be the content of a file" if rendered.secret else ""
        if reason := secret or wrong(Key("condition"), rendered.text):
            self._problem(step, key, reason)
            return None
        return rendered.text

    def _ask_about(self, step: Step, compiled: Mapping[str, Any]) -> None:
        """Send along the variables that the step's conditions, rendered, ask about."""
        kinds, args = ("condition", "conditions"), compiled["args"]
        values = [(key, args.get(key)) for key, spec in WORDS[step.word].items() if spec.kind in kinds]
        for key, value in (*((key, compiled.get(key)) for key in ("when", "until")), *values):
            for text in value if isinstance(value, list) else [value or "true"]:
                for name in _names(text) - self._registered - {*OF_LOOPS}:
                    if name in self._variables:
                        self._send(step, key, name)

    def _send(self, step: Step, key: str, name: str) -> None:
        try:
            self.asked[name] = loop.plain(self._variables[name])
        except template.TemplateError as error:
            self._problem(step, key, f'"{name}": {error}')

    def _check_fetched(self, step: Step, args: Mapping[str, Any]) -> None:
        """No two files of a node may go to the same place."""
        target = str(place_of(args["to"], self._node_id, args["path"]))
        if not target.rpartition("/")[2].strip(".") or str(step.args["path"]).endswith("/"):
            self._problem(step, "path", "names no file")
        other = self._fetched.setdefault(target, args["path"])
        if other != args["path"]:
            self._problem(step, "to", f"{other} goes to {target} already")

    def _arg(self, step: Step, key: str, value: object) -> object:
        if isinstance(value, list):
            return [self._text(step, key, str(item)) for item in value]
        text = self._text(step, key, str(value))
        match WORDS[step.word][key].kind:
            case "flag":
                return text.lower() == "true"
            case "number":
                return int(text or 0)
        return text

    def _text(self, step: Step, key: str, text: str) -> str:
        rendered = self._render(step, key, text)
        if rendered is None:
            return ""
        if rendered.secret:
            # Argument lists are seen in `ps`, paths and conditions in logs.
            self._problem(step, key, "a secret may only be the content of a file")
            return ""
        if reason := wrong(WORDS[step.word][key], rendered.text):
            self._problem(step, key, reason)
            return ""
        if WORDS[step.word][key].kind in ("path", "paths"):
            return plain_path(rendered.text)
        return rendered.text

    def _render(self, step: Step, key: str, text: str) -> template.Rendered | None:
        try:
            return template.render(text, self._variables)
        except template.TemplateError as error:
            self._problem(step, key, f"{error}{self._meant(str(error))}")
            return None

    def _meant(self, reason: str) -> str:
        """What may have been meant by a name that is unknown."""
        name = reason.partition('" is undefined')[0].lstrip('"')
        return nearest(name, self._variables) if reason.endswith('" is undefined') else ""

    def _content(self, step: Step) -> dict[str, Any]:
        """The digest of the file's content, which is put among the blobs, and whether it must not be shown."""
        data, secret = self._data(step)
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"digest": digest, "secret": secret}

    def _data(self, step: Step) -> tuple[bytes, bool]:
        if "blob" in step.args:
            return self._blob(step, str(step.args["blob"]))
        if step.word != "template" and "source" in step.args:
            return self._play.sources[str(step.args["source"])], False
        key = "source" if step.word == "template" else "content"
        text = str(step.args[key])
        if key == "source":
            text = self._play.sources[text].decode("utf-8")
        rendered = self._render(step, key, text)
        return (b"", False) if rendered is None else (rendered.text.encode(), rendered.secret)

    def _blob(self, step: Step, name: str) -> tuple[bytes, bool]:
        value = self._variables.get(name)
        if not isinstance(value, bytes):
            self._problem(step, "blob", f'variable "{name}" is not a binary value')
            return b"", False
        return value, False

    def _problem(self, step: Step, key: str, reason: str) -> None:
        line = step.lines.get(key, step.line)
        item = f" ({self._item})" if self._item else ""
        self.problems.append(f'{self._play.file}:{line}: step "{step.name}"{item}: {key}: {reason}')


@lru_cache(maxsize=1024)
def _names(text: str) -> frozenset[str]:
    try:
        return frozenset(names(text))
    except ConditionError:
        return frozenset()  # it has been told already


def _secrets(value: object) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets(item)


def _file_name(name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
