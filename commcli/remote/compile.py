"""A play and one node's variables become a plan: everything rendered, contents named by digest, secrets listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from commcli.errors import BadInput
from commcli.fleet.model import Node
from commcli.fleet.secrets import Secret
from commcli.remote import template
from commcli.remote.playbook import MODULES, WORDS, Play, Step, wrong


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
) -> Plan:
    """Render `play` for `node`. Raises BadInput with every problem, each `file:line: reason`.

    Variables: the play's own, then the node's, then `variables`, and `base` and `node_id` always.
    """
    known = {**play.variables, **node.variables, **variables, "base": node.base, "node_id": node.id}
    compiler = _Compiler(play, known)
    steps = [compiler.step(step) for step in play.steps]
    if compiler.problems:
        raise BadInput(compiler.problems)
    secrets = tuple(sorted(set(_secrets(known))))
    body = {
        "play": play.name,
        "base": node.base,
        "check": check,
        "diff": diff,
        "lock": f"{node.base}/run/play.lock",
        "journal": f"{node.base}/run/{_file_name(play.name)}.pending",
        "holder": dict(holder or {}),
        "secrets": list(secrets),
        "steps": steps,
    }
    return Plan(body, compiler.blobs, secrets)


class _Compiler:
    def __init__(self, play: Play, variables: Mapping[str, object]) -> None:
        self.problems: list[str] = []
        self.blobs: dict[str, bytes] = {}
        self._play, self._variables = play, variables

    def step(self, step: Step) -> dict[str, Any]:
        args = {key: self._arg(step, key, value) for key, value in step.args.items() if key not in _CONTENT}
        if step.word in ("file", "template"):
            args.update(self._content(step))
        if "mode" in args:
            args["mode"] = int(str(args["mode"]) or "0", 8)
        return {
            "name": step.name,
            "module": MODULES.get(step.word, step.word),
            "section": step.section,
            "args": args,
            "when": step.when,
            "register": step.register,
            "notify": list(step.notify),
            "timeout_s": step.timeout_s,
        }

    def _arg(self, step: Step, key: str, value: object) -> object:
        if isinstance(value, list):
            return [self._text(step, key, str(item)) for item in value]
        return self._text(step, key, str(value))

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
        return rendered.text

    def _render(self, step: Step, key: str, text: str) -> template.Rendered | None:
        try:
            return template.render(text, self._variables)
        except template.TemplateError as error:
            self._problem(step, key, str(error))
            return None

    def _content(self, step: Step) -> dict[str, Any]:
        """The digest of the file's content, which is put among the blobs, and whether it must not be shown."""
        data, secret = self._data(step)
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"digest": digest, "secret": secret}

    def _data(self, step: Step) -> tuple[bytes, bool]:
        if "blob" in step.args:
            return self._blob(step, str(step.args["blob"]))
        if step.word == "file" and "source" in step.args:
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
        self.problems.append(f'{self._play.file}:{line}: step "{step.name}": {key}: {reason}')


_CONTENT = ("content", "source", "blob")


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
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
