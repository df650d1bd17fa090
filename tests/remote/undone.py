"""A node in a folder that plays and rollbacks run on, in this process or, to be killed at every point, in a child.

`python -m tests.remote.undone FOLDER` plays PLAY once for each point at which it can be killed, rolls it back, kills
that as well, and prints what differs afterwards as JSON: [[where killed, what differs], ...].
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from commcli.fleet.model import Node, SshTarget
from commcli.remote import playbook, rollback
from commcli.remote.compile import Plan, compile_play
from commcli.remote.onnode import executor
from commcli.remote.onnode import rollback as onnode

# Every kind of change, some of them twice at the same place.
PLAY = """
name: all of it
steps:
  - name: a new file in new folders
    directory: {path: "{{ base }}/new/deep", mode: "0750"}
  - name: written
    file: {path: "{{ base }}/new/deep/file", content: "made\\n", mode: "0600"}
  - name: overwritten
    file: {path: "{{ base }}/etc/config", content: "second\\n", mode: "0644"}
    notify: restart
  - name: edited
    line: {path: "{{ base }}/etc/config", line: "third"}
    notify: restart
  - name: another mode
    file: {path: "{{ base }}/etc/tool", content: "tool\\n", mode: "0755"}
  - name: a mode before all else
    file: {path: "{{ base }}/etc/other", mode: "0600"}
  - name: and then its content
    file: {path: "{{ base }}/etc/other", content: "another\n"}
  - name: a link that points elsewhere
    link: {path: "{{ base }}/current", target: etc/config}
  - name: a new link
    link: {path: "{{ base }}/other", target: nowhere}
  - name: a file to be gone
    file: {path: "{{ base }}/etc/old", state: absent}
  - name: edited before it goes
    line: {path: "{{ base }}/tree/inner/leaf", line: "more"}
  - name: a folder to be gone
    directory: {path: "{{ base }}/tree", state: absent}
  - name: a folder in its place
    directory: {path: "{{ base }}/tree", mode: "0700"}
  - name: a file in that
    file: {path: "{{ base }}/tree/new", content: "new\\n"}
handlers:
  - name: restart
    command: {argv: [sh, -c, "cat {{ base }}/etc/config > {{ base }}/run/restarted"]}
"""
OURS = ("runs", "run", "plays")


class Channel:
    """What the executor talks to."""

    def __init__(self, blobs: Mapping[str, bytes]) -> None:
        self.blobs = dict(blobs)
        self.messages: list[Any] = []

    def send(self, message: Any) -> None:
        self.messages.append(json.loads(json.dumps(message)))

    def mask(self, value: Any) -> Any:
        return value

    def send_piece(self, data: bytes) -> None:
        raise AssertionError("nothing is fetched")

    def states(self) -> dict[str, str]:
        """Step name -> state."""
        steps = self.steps()
        return {name: said["state"] for name, said in steps}

    def texts(self) -> dict[str, str]:
        """Step name -> what was told."""
        return {name: said["text"] for name, said in self.steps()}

    def steps(self) -> list[tuple[str, Any]]:
        planned = next((said["planned"] for said in self.messages if "planned" in said), self.plan)
        return [(planned[said["step"]]["name"], said) for said in self.messages if "step" in said]

    plan: Any = ()


class Place:
    """A node whose base is the folder `base`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.node = Node("sg-1", "sgp", "sg", "192.0.2.1", SshTarget("192.0.2.1", "ops"), base=str(base))
        self.facts: Mapping[str, Any] = {"systemd": False, "uid": os.getuid()}
        self._made = 0

    def fill(self) -> None:
        """What PLAY finds."""
        for name, content in {
            "etc/config": "first\n",
            "etc/tool": "tool\n",
            "etc/old": "old\n",
            "etc/other": "other\n",
        }.items():
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            (self.base / name).write_text(content)
        (self.base / "etc/old").chmod(0o640)
        (self.base / "tree/inner").mkdir(parents=True)
        (self.base / "tree/inner/leaf").write_text("leaf\n")
        (self.base / "tree/inner/link").symlink_to("leaf")
        (self.base / "tree/inner").chmod(0o711)
        (self.base / "current").symlink_to("etc/old")
        (self.base / "run").mkdir()

    def plan(self, text: str, run: str = "", **options: Any) -> Plan:
        path = self.base.parent / "play.yml"
        path.write_text(text)
        return compile_play(playbook.load(path), self.node, {}, run=run or self.name(), **options)

    def name(self) -> str:
        """The next run's."""
        self._made += 1
        return f"20261123T0945{self._made:02d}Z-ab12"

    def play(self, text: str, run: str = "") -> tuple[str, Channel]:
        plan = self.plan(text, run)
        return plan.body["run"], self.run(plan.body, Channel(plan.blobs))

    def run(self, body: Mapping[str, Any], channel: Channel) -> Channel:
        channel.plan = body["steps"]
        facts = {"base": str(self.base), "python": sys.executable}
        executor.play(body, channel, {**facts, **self.facts})  # type: ignore[arg-type]
        return channel

    def roll_back(self, undoes: str, run: str = "", **how: Any) -> tuple[str, Channel]:
        about = {"undoes": undoes, "force": how.pop("force", False), "secrets": []}
        how = {"check": False, "diff": False, **how}
        body = rollback.plan_of(self.node, about, run=run or self.name(), **how).body
        channel = Channel({})
        return body["run"], self.run(onnode.planned(body, channel), channel)  # type: ignore[arg-type]

    def seen(self) -> dict[str, Any]:
        """All that is there but for what is ours: kind and mode, and what it holds."""
        found = {}
        for path in sorted(self.base.rglob("*")):
            name = str(path.relative_to(self.base))
            if name.split("/")[0] not in OURS:
                found[name] = _what(path)
        return found


def _what(path: Path) -> list[Any]:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return ["link", os.readlink(path)]  # noqa: PTH115
    if stat.S_ISDIR(status.st_mode):
        return ["folder", stat.S_IMODE(status.st_mode)]
    return [path.read_text(), stat.S_IMODE(status.st_mode)]


# What changes something, or comes right before or after it.
POINTS = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.chmod",
    "os.listdir",
    "os.chown",
)


def killed(work: Callable[[], object], point: int) -> bool:
    """Do `work` in a child that is killed at this point of it; False if it came to its end before."""
    child = os.fork()
    if child == 0:
        left = [point]

        def hook(event: str, arguments: object) -> None:
            if event in POINTS:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sys.addaudithook(hook)
            work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with {status}"
    return status != 0


def at_every_point(folder: Path) -> list[Any]:
    """What differs after the rollback, by where the play (and once it was whole, the rollback) was killed."""
    wrong: list[Any] = []
    for what, step in (("play", 3), ("rollback", 3)):
        point, going = 0, True
        while going:
            place = Place(folder / "node")
            place.base.mkdir()
            place.fill()
            before = place.seen()
            plan, run = place.plan(PLAY), "20261123T094501Z-ab12"
            play = partial(place.run, plan.body, Channel(plan.blobs))
            if what == "play":
                going = killed(play, point)
            else:
                play()
                going = killed(partial(place.roll_back, run), point)
            _, channel = place.roll_back(run, run="20261123T094600Z-ab12")
            failed = [said for said in channel.messages if said.get("state") == "failed"]
            if place.seen() != before or failed:
                wrong.append([what, point, failed, _difference(before, place.seen())])
            if what == "rollback" and (place.base / "run/restarted").read_text() != "first\n":
                wrong.append([what, point, "the handler has not seen the old file"])
            shutil.rmtree(place.base)
            point += step
        wrong += [] if point > 60 else [[what, f"only {point} points"]]
    return wrong


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    names = sorted({*before, *after})
    return {
        name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)
    }


if __name__ == "__main__":
    print(json.dumps(at_every_point(Path(sys.argv[1]))))
