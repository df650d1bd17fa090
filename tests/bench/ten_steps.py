"""The same idempotent steps in three languages: a playbook of ours, one of Ansible's, a deploy of pyinfra's.

Ten steps are three folders, three files, two lines of a file, a link, and a command that says what it makes; a play of
more steps has them again, in more folders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

STEPS = 10
TEXT = "".join(f"setting_{number} = {number * 7}\n" for number in range(40))


@dataclass(frozen=True)
class Step:
    """One step. `kind`: directory, file, line, link or command; `path` is below the host's own folder; `value` is the
    content, the line or the target.
    """

    kind: str
    path: str
    mode: str = ""
    value: str = ""


def steps(count: int) -> Iterator[Step]:
    """The first `count` of them, a multiple of STEPS."""
    for number in range(count // STEPS):
        base = f"set-{number}"
        yield Step("directory", base, "0755")
        yield Step("directory", f"{base}/etc", "0755")
        yield Step("directory", f"{base}/state", "0700")
        yield Step("file", f"{base}/etc/app.conf", "0644", TEXT)
        yield Step("file", f"{base}/etc/limits.conf", "0644", "nofile = 65536\n")
        yield Step("file", f"{base}/etc/key", "0600", "no secret at all\n")
        yield Step("line", f"{base}/etc/local.env", value="PORT=2222")
        yield Step("line", f"{base}/etc/local.env", value="LEVEL=info")
        yield Step("link", f"{base}/current", value="etc")
        yield Step("command", f"{base}/state/made")


def ours(count: int) -> str:
    """A playbook for `commcli play run`."""
    return _playbook("name: steps\nsteps:\n", count, "{{ base }}", _ours)


def _ours(step: Step, path: str) -> str:
    match step.kind:
        case "directory":
            return f"directory: {{path: '{path}', mode: '{step.mode}'}}"
        case "file":
            return f"file: {{path: '{path}', content: {json.dumps(step.value)}, mode: '{step.mode}'}}"
        case "line":
            return f"line: {{path: '{path}', match: '^{_key(step)}=', line: '{step.value}', create: true}}"
        case "link":
            return f"link: {{path: '{path}', target: '{step.value}'}}"
    return f"command: {{argv: [touch, '{path}'], creates: '{path}'}}"


def ansible(count: int) -> str:
    """A playbook for ansible-playbook; the hosts' variable `root` is their folder."""
    head = "- hosts: all\n  gather_facts: false\n  tasks:\n"
    return _playbook(head, count, "{{ root }}", _ansible, indent="  ")


def _ansible(step: Step, path: str) -> str:
    module = "ansible.builtin."
    match step.kind:
        case "directory":
            return f"{module}file: {{path: '{path}', state: directory, mode: '{step.mode}'}}"
        case "file":
            return f"{module}copy: {{dest: '{path}', content: {json.dumps(step.value)}, mode: '{step.mode}'}}"
        case "line":
            regexp = f"regexp: '^{_key(step)}='"
            return f"{module}lineinfile: {{path: '{path}', {regexp}, line: '{step.value}', create: true}}"
        case "link":
            return f"{module}file: {{path: '{path}', src: '{step.value}', state: link}}"
    return f"{module}command: {{argv: [touch, '{path}'], creates: '{path}'}}"


def _playbook(head: str, count: int, root: str, row: Callable[[Step, str], str], indent: str = "") -> str:
    rows = [
        f"{indent}  - name: step {number}\n{indent}    {row(step, f'{root}/{step.path}')}\n"
        for number, step in enumerate(steps(count))
    ]
    return head + "".join(rows)


def pyinfra(count: int) -> str:
    """A deploy for pyinfra; the hosts' data `root` is their folder."""
    head = (
        "from io import StringIO\nfrom pyinfra import host\nfrom pyinfra.facts.files import File\n"
        "from pyinfra.operations import files, server\n\nROOT = host.data.root\n"
    )
    return head + "".join(f"{_pyinfra(step)}\n" for step in steps(count))


def _pyinfra(step: Step) -> str:
    path = f"f'{{ROOT}}/{step.path}'"
    match step.kind:
        case "directory":
            return f"files.directory(path={path}, mode='{step.mode.lstrip('0')}')"
        case "file":
            return f"files.put(src=StringIO({step.value!r}), dest={path}, mode='{step.mode.lstrip('0')}')"
        case "line":
            return f"files.line(path={path}, line='^{_key(step)}=.*', replace='{step.value}')"
        case "link":
            return f"files.link(path={path}, target='{step.value}')"
    return f"if host.get_fact(File, path={path}) is None:\n    server.shell(commands=[f'touch {{ROOT}}/{step.path}'])"


def _key(step: Step) -> str:
    return step.value.partition("=")[0]
