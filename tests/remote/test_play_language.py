"""Loops, tags and groups of playbooks: what is wrong with them, what they become, and the files that come back."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import stat
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commcli.cli.play.loading import chosen
from commcli.errors import BadInput, Usage
from commcli.fleet.model import Node, SshTarget
from commcli.fleet.secrets import Secret
from commcli.remote import answer, loop, overview, playbook, relayfiles, tags, template
from commcli.remote.compile import compile_play
from commcli.remote.fetched import Landing
from commcli.remote.onnode.channel import Channel
from commcli.remote.outcome import Event, Failed, Lost
from commcli.remote.play import Step
from commcli.remote.run import compile_all
from commcli.remote.words import USES
from tests.remote import plays, sshd
from tests.remote.plays import play

NODE = Node("sg-1", "sgp", "sg", "127.0.0.1", SshTarget("127.0.0.1", "ops"), base="/srv/c")

WRONG = """\
name: wrong
variables: {tls: false, item: 1}
uses: [relay]
steps:
  - name: a {{ node_id }}
    apt: {names: [x]}
  - name: later
    command: {argv: [a]}
    when: said.stdout == "x" and item == 1
  - name: said
    command: {argv: ["{{ facts.os }}", "{{ item }}"]}
    register: said
    delay_s: 3
  - name: loops
    command: {argv: [a]}
    loop: "{{ facts.disks }}"
    tags: [all, Config]
  - name: as Ansible has it
    block:
      - name: x
        command: {argv: [a]}
  - name: group
    loop: [a]
    try: {}
    rescue: []
  - name: results
    command: {argv: [a]}
    register: tls
    until: nonsense == 1
    when: [failed.name == "x", 3]
  - name: template
    file: {path: /x, content: "{{ said.stdout }}"}
    loop: 3
    retries: -1
    ignore_errors: yes
  - name: condition
    assert: {that: [relay_versio == "1", status == 0]}
  - name: outer
    try:
      - name: again
        command: {argv: [a]}
    always:
      - name: again
        command: {argv: [a], changed_when: failed.name is null}
handlers:
  - name: g
    try:
      - name: x
        command: {argv: [a]}
    always:
      - name: y
        loop: "{{ unfinished"
        command: {argv: [a]}
"""
REASONS = """\
2: variable "item": is the name of something else
5: step "a {{ node_id }}": name is not rendered: it is the same on every node
6: step "a {{ node_id }}": unknown word "apt"; did you mean "package"?
9: step "later": when: "item" is for steps with a loop
9: step "later": when: "said" is registered only later, in line 12
11: step "said": command: argv: "facts" is known on the node alone, templates are rendered here: use `when`
11: step "said": command: argv: "item" is for steps with a loop
13: step "said": delay_s is the time between attempts: retries or until is missing
16: step "loops": loop: "facts" is known on the node alone: loop over variables, and ask for it in `when`
17: step "loops": tag "Config" must be lower-case letters, digits and inner hyphens, 32 at most
17: step "loops": tag "all" is a word of --tags: a step can not have it
19: step "as Ansible has it": a group of steps is written `try` (`block` edits a part of a file)
22: group "group": needs steps under try, and under rescue or always
23: group "group": loop is for steps: a group has only name, when, tags
24: group "group": try must be a list, not a mapping
28: step "results": register "tls": is the name of something else
29: step "results": until: unknown name "nonsense"; give a variable of the nodes a default under `variables`
30: step "results": when must be text, not a number
30: step "results": when: "failed" is for steps under rescue and always
32: step "template": file: content: "said" is known on the node alone, templates are rendered here: use `when`
33: step "template": loop must be a list, a mapping or a variable, not a number
34: step "template": retries must be 0 to 1000
35: step "template": ignore_errors must be true or false, not text
37: step "condition": assert: that: unknown name "relay_versio"; did you mean "relay_version"?
37: step "condition": assert: that: unknown name "status"; give a variable of the nodes a default under `variables`
43: step "again" is written twice in steps
46: group "g": a handler is one step, not a group
52: step "y": loop: must be a list or one expression"""


def test_everything_wrong_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        play(tmp_path, WRONG)
    assert [error.partition("play.yml:")[2] for error in caught.value.errors] == REASONS.splitlines()


def test_what_is_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    text = """\
name: p
variables: {used: 1, asked: 2, looped: [], content: 3, unused: 4}
steps:
  - name: a
    command: {argv: ["{{ used }}"]}
    when: asked == 2
    loop: looped
    notify: told
  - name: b
    template: {path: /x, source: t.j2}
handlers:
  - {name: told, command: {argv: [a]}}
  - {name: never told, command: {argv: [a]}}
"""
    (tmp_path / "t.j2").write_text("{{ content }}")
    assert [warning.partition("play.yml:")[2] for warning in play(tmp_path, text).warnings] == [
        '2: variable "unused" is used nowhere',
        '13: handler "never told" is notified by no step',
    ]


def test_the_shipped_plays_have_no_warnings() -> None:
    folder = Path(__file__).parents[2] / "playbooks"
    assert {path.name: playbook.load(path).warnings for path in folder.glob("*.yml")} == {
        path.name: () for path in folder.glob("*.yml")
    }


def test_the_names_of_sets_are_what_is_in_them(host: sshd.Host) -> None:
    fleet, secrets = host.fleet(), {name: Secret("x" * 20) for name in ("turn", "overlay")}
    given = relayfiles.variables(fleet, next(iter(fleet.nodes.values())), secrets, b"", "")
    assert set(given) == USES["relay"]


LOOPS: list[tuple[object, object]] = [
    (["a", "{{ x }}"], ["a", 1]),
    (["{{ x }}-{{ x }}"], ["1-1"]),
    ([{"name": "{{ x }}", "n": 2}], [{"name": 1, "n": 2}]),
    ("names", ["p", "q"]),
    ("{{ names | reverse }}", ["q", "p"]),
    ("ports", [{"key": "turn", "value": 1}]),
    ({"k": "{{ x }}"}, [{"key": "k", "value": 1}]),
    ("range(2)", [0, 1]),
    ([], []),
    ("absent", '"absent" is undefined'),
    ("ports.nothing", "has no attribute"),
    ("x", "is neither a list nor a mapping"),
    ("word", "is neither a list nor a mapping"),
    ("range(2000)", "has more than 1000 items"),
    ("names +", "broken expression"),
    ("[key ~ 'x']", "a secret can only be inserted as it is"),
    ("1 / 0", "has no value"),
]


@pytest.mark.parametrize(("written", "wanted"), LOOPS, ids=str)
def test_items_of_a_loop(written: object, wanted: object) -> None:
    known = {"x": 1, "names": ["p", "q"], "ports": {"turn": 1}, "word": "pq", "key": Secret("hunter22")}
    if isinstance(wanted, str):
        with pytest.raises(template.TemplateError, match=wanted):
            loop.items(written, known)
    else:
        assert loop.items(written, known) == wanted


LABELS: list[tuple[object, str]] = [
    ("a b\nc", "a b c"), (3, "3"), ({"name": "amy", "uid": 3}, "amy"), ({"key": "turn", "value": 1}, "turn"),
    ({"uid": 3}, '{"uid": 3}'), ({"s": Secret("hunter22")}, '{"s": "***"}'), (b"12", '"2 bytes"'),
    ("x" * 99, "x" * 59 + "…"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "label"), LABELS)
def test_an_item_has_a_short_name(item: object, label: str) -> None:
    assert loop.label(item) == label


def test_what_is_wrong_with_an_item_names_it(tmp_path: Path) -> None:
    text = """\
name: p
variables: {loud: [a, b]}
steps:
  - name: modes
    file: {path: "/{{ item }}", content: x, mode: "{{ item }}"}
    loop: ["0644", "99"]
  - name: secret
    command: {argv: [a]}
    loop: ["{{ key }}"]
    when: item == "x"
  - name: absent
    command: {argv: [a]}
    loop: lod
  - name: lowd
    command: {argv: ["{{ lowd }}"]}
  - name: twice
    fetch: {path: "/{{ item }}/x.log", to: here}
    loop: loud
  - name: binary
    assert: {that: blob == "x"}
"""
    text = text.replace("loud: [a, b]", "loud: [a, b], blob: null")
    with pytest.raises(BadInput) as caught:
        compile_play(play(tmp_path, text), NODE, {"key": Secret("hunter22"), "blob": b"\0"})
    assert [error.partition("play.yml:")[2] for error in caught.value.errors] == [
        '5: step "modes" (99): mode: must be like "0644"',
        '9: step "secret" ("***"): loop: a condition can not ask about a secret or a binary value',
        '13: step "absent": loop: "lod" is undefined',
        '15: step "lowd": argv: "lowd" is undefined; did you mean "loud"?',
        '17: step "twice" (b): to: /a/x.log goes to here/sg-1/x.log already',
        '20: step "binary": that: "blob": a condition can not ask about a secret or a binary value',
    ]


def test_a_plan_says_no_more_of_an_item_than_is_asked(tmp_path: Path) -> None:
    text = """\
name: p
steps:
  - {name: a, command: {argv: ["{{ item }}"]}, loop: [x]}
  - {name: b, command: {argv: [y]}, loop: [x], when: loop_index == 0}
"""
    steps = compile_play(play(tmp_path, text), NODE, {}).body["steps"]
    assert steps[0]["loop"] == {"index": 0, "label": "x", "last": True}
    assert steps[1]["loop"]["values"] == {"item": "x", "loop_index": 0}


TAGS: list[tuple[list[str], list[str], list[str], bool]] = [  # of the step, --tags, --skip-tags -> runs
    ([], [], [], True),
    ([], ["a"], [], False),
    (["a"], ["a"], [], True),
    (["a", "b"], ["b"], [], True),
    (["a"], ["b"], [], False),
    (["always"], ["b"], [], True),
    (["always"], [], ["always"], False),
    (["always"], [], ["all"], True),
    (["always", "a"], ["a"], ["a"], False),
    (["a"], [], ["all"], False),
    (["never"], [], [], False),
    (["never"], ["all"], [], False),
    (["never"], ["never"], [], True),
    (["never", "a"], ["a"], [], True),
    (["never", "a"], ["tagged"], [], False),
    (["a"], ["tagged"], [], True),
    ([], ["tagged"], [], False),
    ([], ["untagged"], [], True),
    (["a"], [], ["tagged"], False),
    ([], [], ["untagged"], False),
]


@pytest.mark.parametrize(("own", "only", "skipped", "runs"), TAGS)
def test_tags_choose_as_in_ansible(own: list[str], only: list[str], skipped: list[str], runs: bool) -> None:
    step = Step("s", "command", "steps", {}, 0, {}, tags=tuple(own))
    assert tags.takes(step, only, skipped) is runs
    assert tags.takes(replace(step, section="handlers"), only, skipped), "handlers follow who notified them"


TAGGED = """\
name: p
steps:
  - {name: asks, command: {argv: [a], changed_when: false}, register: before, tags: look}
  - {name: acts, command: {argv: [a]}, when: before.stdout == "x", tags: act}
  - {name: rare, command: {argv: [a]}, tags: never}
"""


def test_a_tag_that_no_step_has_is_wrong_use(tmp_path: Path) -> None:
    whole = play(tmp_path, TAGGED)
    with pytest.raises(Usage, match=r'--skip-tags: no step of .* has the tag "loook"; did you mean "look"'):
        chosen(whole, "look", "act, loook")
    assert [step.name for step in chosen(whole, "look,act", None).flat()] == ["asks", "acts"]


def test_a_step_can_not_ask_a_result_that_the_tags_leave_out(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r'play\.yml:4: step "acts" asks about "before", whose step the tags leave out'
    ):
        tags.select(play(tmp_path, TAGGED), ["act"])


def test_a_step_that_only_its_tag_calls_is_in_no_plan_without_it(tmp_path: Path) -> None:
    whole = play(tmp_path, TAGGED)
    assert [step["name"] for step in compile_play(whole, NODE, {}).body["steps"]] == ["asks", "acts"]


SHOWN = """\
name: p
variables: {tools: [jq], level: 1}
steps:
  - {name: tools, command: {argv: ["{{ item }}", "{{ key }}"]}, loop: tools}
  - {name: level, assert: {that: level == 1}}
"""


def test_what_would_run_where_and_whence_the_variables(tmp_path: Path) -> None:
    nodes = [
        replace(NODE, id="a"), replace(NODE, id="b"),
        replace(NODE, id="c", variables={"tools": ["mtr", "jq"], "tools2": 1}),
        replace(NODE, id="d", variables={"tools": []}),
    ]  # fmt: skip
    whole = play(tmp_path, SHOWN.replace('"{{ key }}"', "x"))
    given: dict[str, Mapping[str, object]] = {
        node.id: {"blob": b"123", "key": Secret("hunter22")} for node in nodes
    }
    plans = compile_all(whole, nodes, lambda node: given[node.id])
    doc = answer.shown(
        whole,
        runs=overview.runs(nodes, plans),
        variables=overview.variables(whole, nodes, given),
        nodes=list("abcd"),
    )
    assert [step["runs"] for step in doc["steps"]] == [
        [{"nodes": ["a", "b"], "items": ["jq"]}, {"nodes": ["c"], "items": ["mtr", "jq"]}],
        [{"nodes": ["a", "b", "c", "d"], "items": []}],
    ]
    values = {row["name"]: row for row in doc["values"]}
    default = f"{whole.file}:2"
    assert values["tools"] == {"name": "tools", "used": True, "values": [
        {"value": ["jq"], "origin": default, "nodes": ["a", "b"]},
        {"value": ["mtr", "jq"], "origin": f"variables of the node, over {default}", "nodes": ["c"]},
        {"value": [], "origin": f"variables of the node, over {default}", "nodes": ["d"]},
    ]}  # fmt: skip
    assert not values["tools2"]["used"] and values["blob"]["values"][0]["value"] == "3 bytes"
    assert values["key"]["values"][0]["value"] == "***" and "hunter22" not in repr(doc)


FETCH = {"module": "fetch", "args": {"path": "/var/log/relay.log", "most_mb": 1}}


def pieces(*data: bytes) -> Sequence[str]:
    return [base64.b64encode(piece).decode() for piece in data]


def fetch(folder: Path, **changed: Any) -> dict[str, Any]:
    return {**FETCH, "args": {**FETCH["args"], "to": str(folder), **changed}}  # type: ignore[dict-item]


def result(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_a_file_lands_whole_and_private(tmp_path: Path) -> None:
    step = fetch(tmp_path / "evidence")
    with Landing("sg-1") as landing:
        landing.begin()
        landing.take(step, pieces(b"from an attempt before")[0])
        landing.begin()
        for piece in pieces(b"ab", b"c"):
            landing.take(step, piece)
        path = landing.end(step, result(b"abc"))
    assert path == tmp_path / "evidence/sg-1/relay.log" and path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["relay.log"]  # noqa: PTH208


@pytest.mark.parametrize("sent", [b"abd", b"ab", b"abcd"])
def test_a_file_that_is_not_what_was_read_does_not_land(tmp_path: Path, sent: bytes) -> None:
    step = fetch(tmp_path)
    with Landing("sg-1") as landing:
        landing.take(step, pieces(sent)[0])
        with pytest.raises(Lost, match="arrived damaged"):
            landing.end(step, result(b"abc"))
    assert list((tmp_path / "sg-1").iterdir()) == []


def test_a_file_that_breaks_off_does_not_land(tmp_path: Path) -> None:
    with Landing("sg-1") as landing:
        assert landing.take(fetch(tmp_path), pieces(b"ab")[0]) == 2
        assert len(list((tmp_path / "sg-1").iterdir())) == 1
    assert list((tmp_path / "sg-1").iterdir()) == []


def test_a_node_can_send_neither_more_nor_elsewhere(tmp_path: Path) -> None:
    with Landing("sg-1") as landing:
        with pytest.raises(Lost, match="what it was not asked for"):
            landing.take({"module": "command", "args": {}}, "YQ==")
        with pytest.raises(Lost, match="damaged"):
            landing.take(fetch(tmp_path), "no base64!")
        with pytest.raises(Failed, match="more than 1 MB"):
            landing.take(fetch(tmp_path), pieces(b"x" * ((1 << 20) + 1))[0])
        (tmp_path / "sg-1").symlink_to("/tmp")
        with pytest.raises(Failed, match="is a link"):
            landing.take(fetch(tmp_path), "YQ==")
    with Landing("de-1") as landing, pytest.raises(Failed, match=r"here, .*: not a directory"):
        (tmp_path / "file").write_text("")
        landing.take(fetch(tmp_path / "file"), "YQ==")


class TooLate(Exception):
    """A step's alarm."""


def test_an_alarm_leaves_no_piece_half_written() -> None:
    came, main = b"", threading.get_ident()

    def ring(*_: object) -> None:
        raise TooLate

    def read() -> None:
        nonlocal came
        came = os.read(reading, 1)
        signal.pthread_kill(main, signal.SIGALRM)
        # Told by the signal itself: if it comes just before the wait, its handler comes after it.
        heard.recv(1)
        while not came.endswith(b"\n"):
            came += os.read(reading, 1 << 16)

    reading, writing = os.pipe()
    heard, bell = socket.socketpair()
    bell.setblocking(False)
    former, former_bell = signal.signal(signal.SIGALRM, ring), signal.set_wakeup_fd(bell.fileno())
    reader = threading.Thread(target=read)
    reader.start()
    with pytest.raises(TooLate):
        Channel(io.BytesIO(), writing, "n").send_piece(b"x" * 1_000_000)  # more than a pipe takes
    reader.join()
    signal.set_wakeup_fd(former_bell)
    signal.signal(signal.SIGALRM, former)
    for end in (heard, bell):
        end.close()
    os.close(reading)
    os.close(writing)
    assert base64.b64decode(json.loads(came)["piece"]) == b"x" * 1_000_000


OVER_SSH = """
name: all of it
variables: {lines: [one, two]}
steps:
  - name: line
    line: {path: "{{ base }}/log", line: "{{ item }}", create: true}
    loop: lines
  - name: comes
    command: {argv: [sh, -c, "echo x >> {{ base }}/tries; test $(wc -l < {{ base }}/tries) -ge 3"]}
    retries: 4
    delay_s: 0.01
  - name: risky
    try:
      - name: breaks
        command: {argv: ["false"]}
    rescue:
      - name: evidence
        fetch: {path: "{{ base }}/log", to: "{{ to }}"}
    always:
      - name: large
        fetch: {path: "{{ base }}/large", to: "{{ to }}"}
"""


async def test_loops_attempts_rescue_and_files_over_ssh(host: sshd.Host, tmp_path: Path) -> None:
    folder = host.folder / "nodes/sg-1"
    folder.mkdir(parents=True)
    large = os.urandom(300_000)
    (folder / "large").write_bytes(large)
    events: list[Event] = []
    what = play(tmp_path, OVER_SSH)
    [outcome] = await plays.run(host.fleet(), what, on_event=events.append, to=str(tmp_path / "got"))
    assert (outcome.state, outcome.reason) == ("done", "") and outcome.value is not None
    assert [(step.label, step.state, step.attempts) for step in outcome.value.steps] == [
        ("line: one", "changed", 1), ("line: two", "changed", 1), ("comes", "changed", 3), ("breaks", "rescued", 1),
        ("evidence", "ok", 1), ("large", "ok", 1),
    ]  # fmt: skip
    assert isinstance(outcome.value.facts["clock_ahead_s"], float)
    assert (tmp_path / "got/sg-1/log").read_text() == "one\ntwo\n"
    assert (tmp_path / "got/sg-1/large").read_bytes() == large
    told = [event.text for event in events]
    assert "comes (attempt 2 of 5: sh: exit status 1)" in told and "line: two" in told
    [row] = answer.ran(what, "lab", [outcome], check=False)["nodes"]
    assert [step["file"] for step in row["steps"]][-1] == str(tmp_path / "got/sg-1/large")
