"""Playbooks: what is wrong is told all at once, with its line; what is right renders for a node."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput
from commcli.fleet.model import Node, SshTarget
from commcli.fleet.secrets import Secret
from commcli.remote import answer, playbook, template
from commcli.remote.compile import compile_play
from commcli.remote.run import compile_all
from commcli.remote.words import WORDS
from tests.remote.plays import play

NODE = Node("sg-1", "sgp", "sg", "127.0.0.1", SshTarget("127.0.0.1", "ops"), base="/srv/c")

WRONG = """\
name: wrong
uses: [relais]
stepps: []
steps:
  - name: no word
  - name: unknown word
    direktory: {path: /x}
  - name: two words
    directory: {path: /x}
    command: {argv: [a]}
  - name: bad keys
    file: {path: /x, contnt: a, mode: 0644}
  - name: two contents
    file: {path: /x, content: a, blob: b, mode: "999"}
  - name: bad template
    file: {path: "{{ base", content: a}
  - name: bad condition
    command: {argv: [a], changed_when: "status +"}
    when: fact.uid == 0
    notify: [restrat]
    timeout_s: 0
  - name: no file
    template: {path: /x, source: absent.j2}
  - just text
  - name: bad condition
    wait_for: {socket: /x}
  - name: bad state
    service: {name: x, state: runing}
  - directory: {path: /x}
handlers:
  - name: restart
    command: {argv: [a]}
checks: {}
"""
REASONS = [
    '2: unknown set of variables "relais"; did you mean "relay"?',
    '3: unknown key "stepps"',
    '5: step "no word": says nothing to do: one of '
    + ", ".join(WORDS)
    + " is missing",
    '7: step "unknown word": unknown word "direktory"; did you mean "directory"?',
    '10: step "two words": directory and command in one step: make it two',
    '12: step "bad keys": file: mode must be text, not a number: put it in quotes',
    '12: step "bad keys": file: needs exactly one of content, source, blob',
    '12: step "bad keys": file: unknown key "contnt"; did you mean "content"?',
    '14: step "two contents": file: mode: must be like "0644"',
    '14: step "two contents": file: needs exactly one of content, source, blob',
    '16: step "bad template": file: path: broken template: unexpected end of template, expected \'end of print'
    " statement'.",
    '18: step "bad condition": command: changed_when: broken condition \'status +\': invalid syntax',
    '19: step "bad condition": when: unknown name "fact"; did you mean "facts"?',
    '20: step "bad condition": unknown handler "restrat"; did you mean "restart"?',
    '21: step "bad condition": timeout_s must be 0.1 to 3600',
    '23: step "no file": template: source "absent.j2": No such file or directory',
    "24: a step must be a mapping, not text",
    '25: step "bad condition" is written twice in steps',
    '26: step "bad condition": wait_for: until is missing',
    '28: step "bad state": service: state: unknown word "runing"; did you mean "running"?',
    "29: step: name is missing",
    "33: checks must be a list, not a mapping",
]  # fmt: skip


def test_everything_wrong_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        play(tmp_path, WRONG)
    told = [error.partition("play.yml:")[2] for error in caught.value.errors]
    assert told == REASONS


FILES_WRONG = {
    "": "play.yml: is empty",
    "- a\n": "must be a mapping, not a list",
    "name: x\nsteps: [\n": "broken YAML",
    "name: x\nsteps: []\n": "2: steps is empty",
}


@pytest.mark.parametrize("text", FILES_WRONG)
def test_files_that_are_no_playbook(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=FILES_WRONG[text]):
        play(tmp_path, text)


def step(tmp_path: Path, text: str, **variables: object) -> dict[str, Any]:
    """The one compiled step of a play, with its content under "data"."""
    plan = compile_play(play(tmp_path, f"name: p\nsteps:\n  - name: s\n    {text}\n"), NODE, variables)
    [compiled] = plan.body["steps"]
    if "digest" in compiled["args"]:
        compiled["data"] = plan.blobs[compiled["args"]["digest"]]
    return dict(compiled)


def test_a_file_is_rendered_and_named_by_its_digest(tmp_path: Path) -> None:
    got = step(tmp_path, 'file: {path: "{{ base }}/{{ node_id }}", content: "a{{ x }}", mode: "0600"}', x=1)
    digest = hashlib.sha256(b"a1").hexdigest()
    assert got["args"] == {"path": "/srv/c/sg-1", "mode": 0o600, "digest": digest, "secret": False}
    assert (got["module"], got["data"]) == ("file", b"a1")


def test_content_with_a_secret_is_marked(tmp_path: Path) -> None:
    text = 'file: {path: /x, content: "key={{ key }}"}'
    got = step(tmp_path, text, key=Secret("s3cret"))
    assert (got["args"]["secret"], got["data"]) == (True, b"key=s3cret")


def test_templates_sources_and_blobs(tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{% for n in names %}{{ n }}\n{% endfor %}")
    assert step(tmp_path, "template: {path: /x, source: t.j2}", names=["a", "b"])["data"] == b"a\nb\n"
    assert step(tmp_path, "file: {path: /x, source: t.j2}")["data"].startswith(b"{% for")
    assert step(tmp_path, "file: {path: /x, blob: pyz}", pyz=b"\0zip")["data"] == b"\0zip"


def test_variables_of_the_play_the_node_and_the_caller(tmp_path: Path) -> None:
    text = 'name: p\nvariables: {a: 1, b: 1, c: 1}\nsteps:\n  - name: s\n    command: {argv: ["{{a}}{{b}}{{c}}"]}\n'
    node = replace(NODE, variables={"b": 2, "c": 2})
    assert compile_play(play(tmp_path, text), node, {"c": 3}).body["steps"][0]["args"]["argv"] == ["123"]


NOT_RENDERED = [
    ('file: {path: /x, content: "{{ nobody }}"}', 'content: "nobody" is undefined'),
    ('file: {path: /x, content: "{{ none }}"}', "content: a value that is null can not be inserted"),
    ('file: {path: /x, content: "{{ pyz }}"}', "content: a binary value can not be inserted; use `blob`"),
    ('file: {path: /x, content: "{{ key | upper }}"}', "a secret can only be inserted as it is"),
    ("file: {path: /x, blob: key}", 'variable "key" is not a binary value'),
    ('command: {argv: ["{{ key }}"]}', "argv: a secret may only be the content of a file"),
    ('directory: {path: /x, mode: "{{ none | default(9, true) }}"}', 'mode: must be like "0644"'),
    ('wait_for: {socket: /x, until: "{{ pyz | length }} ==="}', "until: broken condition"),
    ('file: {path: /x, content: "{{ 1 / 0 }}"}', r"can not be rendered \(ZeroDivisionError\)"),
]


@pytest.mark.parametrize(("text", "reason"), NOT_RENDERED)
def test_what_can_not_be_rendered_has_its_line(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as caught:
        step(tmp_path, text, key=Secret("s3cret"), none=None, pyz=b"\0")
    assert "play.yml:4: " in str(caught.value) and "s3cret" not in str(caught.value)


def test_problems_of_many_nodes_are_told_once_with_the_nodes(tmp_path: Path) -> None:
    text = 'name: p\nsteps:\n  - name: s\n    command: {argv: ["{{ a }}", "{{ b }}"]}\n'
    nodes = [replace(NODE, id=f"n-{n}", variables={"a": 1} if n == 1 else {}) for n in range(3)]
    with pytest.raises(BadInput) as caught:
        compile_all(play(tmp_path, text), nodes, lambda node: {})
    first, second = caught.value.errors
    assert first.endswith('argv: "a" is undefined (on n-0, n-2)')
    assert second.endswith('argv: "b" is undefined')


def test_a_handler_knows_the_service_of_an_earlier_step(tmp_path: Path) -> None:
    text = """\
name: p
steps:
  - name: runs
    service: {name: x, start: [a], stop: [b], pid_file: /p}
handlers:
  - name: again
    service: {name: x, state: restarted}
"""
    handler = play(tmp_path, text).flat()[-1]
    assert handler.args == {
        "name": "x",
        "start": ["a"],
        "stop": ["b"],
        "pid_file": "/p",
        "state": "restarted",
    }


def test_the_document_of_show_lists_every_step() -> None:
    doc = answer.shown(playbook.load(Path(__file__).parents[2] / "playbooks/relay.yml"))
    assert doc["uses"] == ["relay"] and doc["steps"][-1]["word"] == "wait_for"


def test_a_secret_with_stars_in_it_is_no_mistake() -> None:
    assert template.render("{{ s }}", {"s": Secret("a***b")}).text == "a***b"


def test_a_variable_that_is_a_template_is_refused(tmp_path: Path) -> None:
    text = 'name: x\nvariables:\n  dir: "{{ base }}/app"\nsteps:\n  - name: a\n    directory: {path: "{{ dir }}"}\n'
    (tmp_path / "play.yml").write_text(text)
    with pytest.raises(BadInput, match=r'play.yml:3: variable "dir": is taken as it stands'):
        playbook.load(tmp_path / "play.yml")
