"""`commcli play` as it is typed: documents, exit codes, words."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.remote.sshd import Host, free_port, keygen
from tests.remote.test_play import FILES, STUCK, appears
from tests.remote.test_program import gone

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """A command's end."""

    code: int | None
    out: str
    err: str

    @property
    def doc(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Desk:
    """An operator's desk: an inventory of one node, a playbook, a state folder."""

    folder: Path
    host: Host

    @property
    def base(self) -> Path:
        return self.host.folder / "nodes/sg-1"

    async def start(
        self, *words: str, noun: str = "play", terminal: int | None = None
    ) -> asyncio.subprocess.Process:
        """On pipes, or at a terminal, whose end this is."""
        command = [sys.executable, "-m", "commcli", noun, *words]
        environment = {
            "PATH": os.environ["PATH"],
            "COMMCLI_INVENTORY": str(self.folder / "inventory"),
            "COMMCLI_STATE": str(self.folder / "state"),
        }
        nobody, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
        stdin, out = (nobody, pipe) if terminal is None else (terminal, terminal)
        return await asyncio.create_subprocess_exec(
            *command, stdin=stdin, stdout=out, stderr=out, env=environment, cwd=ROOT
        )

    async def type(self, *words: str, noun: str = "play") -> Ended:
        child = await self.start(*words, noun=noun)
        out, err = await child.communicate()
        return Ended(child.returncode, out.decode(), err.decode())

    def play(self, text: str) -> str:
        (self.folder / "play.yml").write_text(text.replace("{{ greeting }}", "hello"))
        return str(self.folder / "play.yml")

    def write_inventory(self, *, port: int | None = None) -> None:
        folder = self.folder / "inventory"
        folder.mkdir(exist_ok=True)
        (folder / "fleet.yaml").write_text(
            f"name: desk\nssh: {{known_hosts: {self.host.known_hosts}, identities: [{self.host.key}], agent: false}}\n"
            f"signing: {{signers: {self.host.folder}/id.pub, key: {self.host.key}}}\n"
            f"secrets: {{turn: {{file: ../turn}}, overlay: {{file: ../overlay}}}}\n"
        )
        (folder / "regions.yaml").write_text(
            "regions:\n  sgp: {city: Singapore, country: sg, continent: asia}\n"
        )
        (folder / "nodes.yaml").write_text(
            f"nodes:\n  sg-1:\n    region: sgp\n    address: 127.0.0.1\n    base: {self.base}\n"
            f"    ssh: {{host: 127.0.0.1, port: {port or self.host.port}, user: {getpass.getuser()},"
            f" python: {sys.executable}}}\n"
        )
        (folder / "markets.yaml").write_text("markets:\n  sg: {name: Singapore, edges: [sg-1]}\n")
        (folder / "zones.yaml").write_text("zones: {}\n")


@pytest.fixture
def desk(host: Host, tmp_path: Path) -> Desk:
    desk = Desk(tmp_path, host)
    desk.write_inventory()
    desk.base.mkdir(parents=True)
    return desk


async def test_run_twice_as_a_script_does(desk: Desk) -> None:
    file = desk.play(FILES)
    first = await desk.type("run", file, "--yes", "--json")
    assert (first.code, first.err) == (0, "")
    [row] = first.doc["nodes"]
    assert (first.doc["kind"], row["node"], row["state"], row["changed"]) == ("play.run", "sg-1", "done", 3)
    again = await desk.type("run", file, "--yes")
    assert (again.code, again.err) == (0, "")
    assert re.fullmatch(r"files on desk: 1 of 1 nodes done, nothing to change, slowest [\d.]+ s\n", again.out)
    quiet = await desk.type("run", file, "--yes", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


async def test_check_and_diff_show_and_do_nothing(desk: Desk) -> None:
    shown = await desk.type("run", desk.play(FILES), "--check", "--diff")
    assert shown.code == 0 and "+hello" in shown.out and "would change" in shown.out
    assert list(desk.base.iterdir()) == []
    assert not (desk.folder / "state").exists()


async def test_nobody_to_ask_is_wrong_use(desk: Desk) -> None:
    ended = await desk.type("run", desk.play(FILES))
    assert (ended.code, ended.out) == (2, "") and "--yes" in ended.err


async def test_what_is_wrong_in_fleet_and_playbook_is_told_together(desk: Desk) -> None:
    (desk.folder / "inventory/zones.yaml").write_text("zonen: {}\n")
    ended = await desk.type("check", desk.play("name: x\nsteps:\n  - name: y\n    fil: {}\n"))
    assert ended.code == 3
    assert "zones.yaml" in ended.err and re.search(r'play\.yml:4: .*did you mean "file"', ended.err)


async def test_check_needs_neither_secrets_nor_nodes(desk: Desk) -> None:
    desk.write_inventory(port=free_port())
    ended = await desk.type("check", "playbooks/relay.yml", "--json")
    assert (ended.code, ended.doc["kind"], ended.doc["nodes"]) == (0, "play.check", ["sg-1"])


async def test_show_needs_no_inventory(desk: Desk) -> None:
    (desk.folder / "inventory/fleet.yaml").unlink()
    ended = await desk.type("show", "playbooks/relay.yml")
    assert ended.code == 0 and "upgrade relay" in ended.out


async def test_show_and_check_tell_what_would_run_where(desk: Desk) -> None:
    file = desk.play(
        "name: p\nvariables: {tools: [jq, mtr], idle: 1}\nsteps:\n"
        "  - {name: tool, command: {argv: [a, '{{ item }}']}, loop: tools, tags: tools}\n"
        "  - {name: other, command: {argv: [a]}, tags: other}\n"
    )
    shown = await desk.type("show", file, "all", "--tags", "tools")
    assert shown.code == 0 and "sg-1: jq, mtr" in shown.out and "left out by tags: other" in shown.out
    assert re.search(r"tools +\[\"jq\", \"mtr\"\] +.*play.yml:2 +sg-1", shown.out)
    checked = await desk.type("check", file, "--json")
    assert checked.code == 0 and 'play.yml:2: variable "idle" is used nowhere' in checked.doc["warnings"][0]
    ended = await desk.type("run", file, "--tags", "tool", "--yes")
    assert ended.code == 2 and 'has the tag "tool"; did you mean "tools"?' in ended.err


async def test_a_node_out_of_reach_is_4_with_the_next_command(desk: Desk) -> None:
    desk.write_inventory(port=free_port())
    desk.host.known_hosts.write_text("")
    ended = await desk.type("run", desk.play(FILES), "--yes")
    assert ended.code == 4 and "sg-1: connection refused" in ended.out and "next: " in ended.out


async def test_a_changed_host_key_is_5(desk: Desk, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    desk.host.known_hosts.write_text(f"[127.0.0.1]:{desk.host.port} {(tmp_path / 'other.pub').read_text()}")
    ended = await desk.type("run", desk.play(FILES), "--yes", "--json")
    assert ended.code == 5 and "has changed" in ended.doc["nodes"][0]["reason"]


async def test_a_failed_step_is_1_and_named(desk: Desk) -> None:
    ended = await desk.type("run", desk.play(FILES.replace("cat,", "cat, --nonsense,")), "--yes")
    assert ended.code == 1 and 'step "query": cat: exit status 1' in ended.out


async def test_a_missing_secret_is_3_before_any_connection(desk: Desk) -> None:
    ended = await desk.type("run", "playbooks/relay.yml", "--yes")
    assert ended.code == 3 and "secret turn" in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_stopping_names_what_is_unknown_and_leaves_nothing(desk: Desk, number: int, code: int) -> None:
    child = await desk.start("run", desk.play(STUCK), "--yes")
    pid = await appears(desk.base / "pid")
    second = await desk.type("run", desk.play(STUCK), "--yes")
    assert second.code == 75 and "play run stuck" in second.err
    child.send_signal(number)
    _, err = await child.communicate()
    assert child.returncode == code
    assert "not known how far: sg-1 (long)" in err.decode() and "Traceback" not in err.decode()
    await gone(pid)


@pytest.mark.parametrize(
    ("word", "first"), [("--yes", ["run 20", "play files "]), ("--check", ["check files "])]
)
async def test_the_first_words_do_not_wait_for_a_node(desk: Desk, word: str, first: list[str]) -> None:
    met, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        while await reader.read(1 << 16):
            pass
        left.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        desk.write_inventory(port=server.sockets[0].getsockname()[1])
        ours, theirs = os.openpty()
        child = await desk.start("run", desk.play(FILES), word, terminal=theirs)
        os.close(theirs)
        try:
            said = b""
            # Raises OSError when the command ends.
            while not all(words.encode() in said for words in first):
                said += await asyncio.to_thread(os.read, ours, 1 << 16)
            await met.wait()
            assert not left.is_set(), said
        finally:
            if child.returncode is None:
                child.terminate()
            code = await child.wait()
            os.close(ours)
        assert code == 143
