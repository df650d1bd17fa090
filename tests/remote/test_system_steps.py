"""Files with owners, links, lines, blocks, archives and settings: over a real OpenSSH server and on a disk."""

from __future__ import annotations

import fcntl
import grp
import http.server
import io
import json
import lzma
import os
import pwd
import select
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commcli.errors import BadInput
from commcli.remote.onnode import command, lock
from commcli.remote.onnode.condition import ConditionError
from commcli.remote.onnode.step import StepFailed, StepTimeout
from commcli.remote.steps import archive, directory, file, line, package, script, sysctl, wait_for
from tests.remote import plays, sshd
from tests.remote.test_steps import place

ME, MINE = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
PLAY = """
name: files of all kinds
variables: {owner: nobody, with_motd: true}
steps:
  - name: folder
    directory: {path: "{{ base }}/etc", owner: "{{ owner }}", group: "{{ group }}"}
  - name: copied
    copy: {path: "{{ base }}/etc/limits.conf", source: limits.conf, mode: "0600"}
  - name: newest
    link: {path: "{{ base }}/current", target: etc}
  - name: port
    line: {path: "{{ base }}/current/limits.conf", match: "^#?Port", line: "Port {{ port }}"}
  - name: note
    block: {path: "{{ base }}/etc/motd", content: "{{ base }}", create: "{{ with_motd }}"}
  - name: program
    archive: {path: "{{ base }}/opt", source: program.tar.gz}
  - name: old one
    file: {path: "{{ base }}/old", state: absent}
"""


def tar(**members: bytes) -> bytes:
    """A compressed archive of these files, `__` in a name for a slash."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as whole:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size, info.mode = len(data), 0o755
            whole.addfile(info, io.BytesIO(data))
    return made.getvalue()


STRICT = """ForceCommand sh -c 'umask 077; eval "$SSH_ORIGINAL_COMMAND"'\n"""
MADE = """\
name: made
steps:
  - name: parents
    directory: {path: "{{ base }}/one/two", mode: "0700"}
  - name: by a command
    command: {argv: [touch, "{{ base }}/file"]}
"""


async def test_what_is_made_is_the_same_whatever_a_login_says(tmp_path: Path) -> None:
    async with sshd.serve(tmp_path / "strict", STRICT) as host:
        [outcome] = await plays.run(host.fleet(), plays.play(tmp_path, MADE))
        base = Path(host.node().base)
        assert outcome.state == "done"
        modes = {name: stat.S_IMODE((base / name).stat().st_mode) for name in ("one", "one/two", "file")}
        assert modes == {"one": 0o755, "one/two": 0o700, "file": 0o644}


async def test_a_play_of_all_kinds_of_files_changes_once(host: sshd.Host, tmp_path: Path) -> None:
    folder = host.folder / "nodes/sg-1"
    folder.mkdir(parents=True)
    (folder / "old").write_text("x")
    (tmp_path / "limits.conf").write_text("#Port 22\nUseDNS no\n")
    (tmp_path / "program.tar.gz").write_bytes(tar(bin__run=b"#!/bin/sh\n"))
    play = plays.play(tmp_path, PLAY)
    known: dict[str, Any] = {"owner": ME, "group": MINE, "port": 2222}

    [checked] = await plays.run(host.fleet(), play, check=True, **known)
    assert checked.state == "done" and plays.states(checked)["port"] == "changed"
    assert sorted(path.name for path in folder.iterdir()) == ["old"], "check changes nothing"

    [first] = await plays.run(host.fleet(), play, **known)
    assert set(plays.states(first).values()) == {"changed"}
    assert (folder / "etc/limits.conf").read_text() == "Port 2222\nUseDNS no\n"
    assert stat.S_IMODE((folder / "etc/limits.conf").stat().st_mode) == 0o600, "the line leaves the mode"
    assert (folder / "etc/motd").read_text() == f"# BEGIN commcli\n{folder}\n# END commcli\n"
    assert stat.S_IMODE((folder / "opt/bin/run").stat().st_mode) == 0o755
    assert (folder / "current").readlink() == Path("etc") and not (folder / "old").exists()

    # The copy is what it is to be no more: the line after it has changed it. Both are said, and neither is an end.
    [second] = await plays.run(host.fleet(), play, **known)
    states = plays.states(second)
    assert (states.pop("copied"), states.pop("port"), set(states.values())) == ("changed", "changed", {"ok"})


def zipped(name: str, data: bytes, mode: int = 0) -> bytes:
    """A zip of one member; `mode` as Unix puts it there."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as whole:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        whole.writestr(info, data)
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> bytes:
    """A tar of one member that is no plain file, or has a strange mode."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as whole:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, target, mode
        whole.addfile(info)
    return made.getvalue()


REG, SYM, HARD, FIFO = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tar(__etc__passwd=b"x"), "would land outside"),
        (special("../up", REG), "would land outside"),
        (special("a/../../up", REG), "would land outside"),
        (zipped("../up", b"x"), "would land outside"),
        (special("su", REG, mode=0o4755), "set-id"),
        (special("away", SYM, "/etc"), "points outside"),
        (special("a/away", SYM, "../../b"), "points outside"),
        (zipped("away", b"../x", stat.S_IFLNK | 0o777), "points outside"),
        (special("same", HARD, "other"), "neither file, folder nor symbolic link"),
        (special("pipe", FIFO), "neither file, folder nor symbolic link"),
        (b"no archive", "no archive that can be read"),
        (tar(a=b"x" * 9999)[:-20], "no archive that can be read"),
        (lzma.compress(b"no tar" * 999), "no archive that can be read"),
        (lzma.compress(os.urandom(9999))[:-600], "no archive that can be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",
)
def test_an_archive_that_wants_more_than_its_folder_writes_nothing(
    data: bytes, why: str, tmp_path: Path
) -> None:
    args = {"path": str(tmp_path / "in"), "digest": "d"}
    verdict = archive.check(args, place(blobs={"d": data}))
    assert verdict.apply is not None
    with pytest.raises(StepFailed, match=why):
        verdict.apply()
    assert list((tmp_path / "in").iterdir()) == [] and len(list(tmp_path.iterdir())) == 1


def test_a_link_that_lies_on_the_node_leads_no_member_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/bin").symlink_to("../out")
    verdict = archive.check(
        {"path": str(tmp_path / "in"), "digest": "d"}, place(blobs={"d": tar(bin__run=b"x")})
    )
    assert verdict.apply is not None
    with pytest.raises(StepFailed, match="a link on the node leads outside"):
        verdict.apply()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as whole:
        inner = zipped("not/this", b"x")
        info = tarfile.TarInfo("lib/relay.pyz")
        info.size = len(inner)
        whole.addfile(info, io.BytesIO(inner))
    verdict = archive.check({"path": str(tmp_path), "digest": "d"}, place(blobs={"d": made.getvalue()}))
    assert verdict.apply is not None
    verdict.apply()
    assert (tmp_path / "lib/relay.pyz").read_bytes() == inner


def test_what_is_there_keeps_its_owner_and_a_folder_its_mode(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir(mode=0o700)
    (folder / "f").touch(0o600)
    if os.getuid() == 0:
        os.chown(folder / "f", 1234, -1)
    before = (folder / "f").stat().st_uid
    verdict = archive.check({"path": str(folder), "digest": "d"}, place(blobs={"d": tar(f=b"new")}))
    assert verdict.apply is not None
    verdict.apply()
    assert ((folder / "f").read_bytes(), (folder / "f").stat().st_uid) == (b"new", before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_diff_of_a_file_that_not_everybody_may_read_has_only_what_is_new(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "app.env"
    path.write_text("PASSWORD=hunter2\nPORT=1\n")
    path.chmod(mode)
    args = {"path": str(path), "line": "PORT=2", "match": "^PORT="}
    diff = line.check(args, place(diff=True)).diff.splitlines()[2:]
    if mode == 0o644:
        assert diff == ["@@ -1,2 +1,2 @@", " PASSWORD=hunter2", "-PORT=1", "+PORT=2"]
    else:
        assert diff == ["@@ -2 +2 @@", "-(not shown)", "+PORT=2"]


def test_a_zip_is_unpacked_and_another_one_later(tmp_path: Path) -> None:
    for n, digest in enumerate(("one", "two")):
        args = {"path": str(tmp_path), "digest": digest}
        verdict = archive.check(args, place(blobs={digest: zipped("a/f", b"%d" % n, stat.S_IFREG | 0o640)}))
        assert verdict.apply is not None
        verdict.apply()
        assert archive.check(args, place()).change == ""
    assert (tmp_path / "a/f").read_bytes() == b"1" and stat.S_IMODE(
        (tmp_path / "a/f").stat().st_mode
    ) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner_unless_another_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    os.chown(path, 12, 34)
    args: dict[str, Any] = {"path": str(path), "digest": "d"}
    for wanted, owner in (({}, (12, 34)), ({"owner": "56"}, (56, 34)), ({"group": "root"}, (56, 0))):
        verdict = file.check({**args, **wanted}, place(blobs={"d": b"new"}))
        assert verdict.apply is not None
        verdict.apply()
        assert (path.stat().st_uid, path.stat().st_gid) == owner
        assert file.check({**args, **wanted}, place(blobs={"d": b"new"})).change == ""


def applied(step: Any, args: dict[str, Any], **about: Any) -> str:
    """Do what is to be done, which is then as it is to be; what was told of it."""
    verdict = step.check(args, place(**about))
    if verdict.change:
        verdict.apply()
        assert step.check(args, place(**about)).change == ""
    told: str = verdict.change
    return told


def test_a_mode_stays_where_none_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(0o711)
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o751)
    assert applied(directory, {"path": str(tmp_path / "d")}) == ""
    content = applied(file, {"path": str(tmp_path / "f"), "digest": "d"}, blobs={"d": b"new"})
    assert content == "content, 3 -> 3 bytes" and stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o751
    assert applied(directory, {"path": str(tmp_path / "new")}) == "create, mode 0755"


def test_attributes_alone_are_of_a_file_that_is_there(tmp_path: Path) -> None:
    args = {"path": str(tmp_path / "f"), "mode": 0o640}
    with pytest.raises(StepFailed, match="f is not there, and no content is given"):
        file.check(args, place())
    with pytest.raises(StepFailed, match="f is not there, and no content is given"):
        file.check(args, place(checking=True))
    assert file.check(args, place(checking=True, changed_before=True)).skipped
    (tmp_path / "f").write_text("as it was")
    (tmp_path / "f").chmod(0o600)
    assert applied(file, args) == "mode 0600 -> 0640"
    assert (tmp_path / "f").read_text() == "as it was"
    with pytest.raises(StepFailed, match="a directory is in the way"):
        file.check({**args, "path": str(tmp_path)}, place())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with something in it, a link out of it, and what that leads to, all root's."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_text("")
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/f").write_text("")
    (tmp_path / "in/deep/f").chmod(0o640)
    (tmp_path / "in/away").symlink_to("../outside")
    return tmp_path


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_all_below_a_folder_gets_an_owner_and_no_link_is_followed(tree: Path) -> None:
    args = {"path": str(tree / "in"), "owner": "12", "group": "34", "recurse": True}
    looked = directory.check(args, place(checking=True))
    assert looked.change == "owner 0 -> 12, group 0 -> 34, owner or group of 3 below it"
    assert (tree / "in/deep/f").stat().st_uid == 0
    os.chown(tree / "in/deep", 12, 34)
    assert applied(directory, args) == "owner 0 -> 12, group 0 -> 34, owner or group of 2 below it"
    owned = {path: (path.lstat().st_uid, path.lstat().st_gid) for path in tree.rglob("*")}
    inside = {tree / "in" / name for name in ("", "deep", "deep/f", "away")}
    assert owned == {path: (12, 34) if path in inside else (0, 0) for path in owned}
    assert stat.S_IMODE((tree / "in/deep/f").stat().st_mode) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_that_becomes_a_link_meanwhile_gives_nothing_away(tree: Path) -> None:
    verdict = directory.check({"path": str(tree / "in"), "owner": "12", "recurse": True}, place())
    (tree / "in/deep").rename(tree / "gone")
    (tree / "in/deep").symlink_to("../outside")
    assert verdict.apply is not None
    with pytest.raises(StepFailed, match="in/deep/f"):
        verdict.apply()
    assert (tree / "outside/f").stat().st_uid == 0


def test_the_lock_of_plays_leads_nobody_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / "play.lock").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic link"):
        lock.take(str(tmp_path / "play.lock"), {"user": "ops"})
    assert (tmp_path / "precious").read_text() == "as it was"


def test_the_lock_of_a_play_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    ending = threading.Timer(0.1, os.close, [descriptor])
    ending.start()
    os.close(lock.take(str(path), {"user": "ops"}))
    ending.join()
    assert json.loads(path.read_text()) == {"user": "ops"}


def test_more_below_than_anybody_means_is_no_change(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MOST_BELOW", 2)
    with pytest.raises(StepFailed, match="more than 2 files and folders below"):
        directory.check({"path": str(tree / "in"), "owner": "12", "recurse": True}, place())


def test_who_does_not_exist_owns_nothing_but_may_exist_later_in_check_mode(tmp_path: Path) -> None:
    args = {
        "path": str(tmp_path),
        "owner": "nobody-of-this-name",
        "mode": stat.S_IMODE(tmp_path.stat().st_mode),
    }
    with pytest.raises(StepFailed, match="no user nobody-of-this-name on this node"):
        directory.check(args, place())
    verdict = directory.check(args, place(checking=True, changed_before=True))
    assert verdict.change == "owner nobody-of-this-name"


def test_what_is_in_the_way_is_not_removed(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="a directory is in the way"):
        file.check({"path": str(tmp_path), "state": "absent"}, place())
    assert directory.check({"path": str(tmp_path / "none"), "state": "absent"}, place()).change == ""


def test_a_setting_that_the_kernel_has_already_is_only_written(tmp_path: Path) -> None:
    value = Path("/proc/sys/kernel/ostype").read_text().strip()
    args = {"name": "kernel.ostype", "value": value, "file": str(tmp_path / "60.conf")}
    verdict = sysctl.check(args, place())
    assert verdict.change == "written" and verdict.apply is not None
    verdict.apply()
    assert (tmp_path / "60.conf").read_text() == f"kernel.ostype = {value}\n"
    assert sysctl.check(args, place()).change == ""


def test_packages_are_asked_for_here() -> None:
    names = ["openssh-server", "no-such-package-at-all"]
    assert package.check({"names": names[:1]}, place()).change == ""
    assert package.check({"names": names}, place()).change == "install no-such-package-at-all"


RUN = "command: {argv: [x]}"
WRONG = {
    "copy: {path: /x}": "source is missing",
    "archive: {path: /x}": "needs exactly one of source, blob",
    "link: {path: /x}": "target is missing",
    "line: {path: /x, line: a, match: '('}": "match: no regular expression",
    "wait_for: {port: 1, unit: x}": "needs exactly one of socket, port, unit, url",
    "wait_for: {socket: /x}": "until is missing",
    "user: {name: x, uid: many}": "uid: must be a whole number",
    "group: {name: x, system: perhaps}": "system: must be true or false",
    "file: {path: /x}": "needs exactly one of content, source, blob",
    'file: {path: /x, mode: "0644", keep: former}': "keep is for a file with content",
    "directory: {path: /x, recurse: true}": "recurse needs owner or group",
    "file: {path: /x, state: gone}": 'unknown word "gone"',
    "directory: {path: ~/x}": "path: must be an absolute path on the node",
    "directory: {path: x}": "path: must be an absolute path on the node",
    f"{RUN}\n    notify: h\nhandlers:\n  - name: h\n    {RUN}\n    notify: h": "turn is over",
    "facts: {paths: [/x, y]}": "paths: must be an absolute path on the node",
}


DPKG = """\
libc6:amd64 installed 2.36-9+deb12u1
libc6:i386 installed 2.36-9+deb12u1
chrony installed 4.3-2
jq config-files 1.6
"""
THERE = {
    "libc6": True,
    "libc6:i386": True,
    "libc6:arm64": False,
    "chrony=4.3-2": True,
    "chrony=4.*": True,
    "chrony=4.4": False,
    "jq": False,
}


def test_a_package_may_be_named_with_its_architecture_and_its_version() -> None:
    found = package.versions(DPKG)
    assert {name: package.is_there(name, found) for name in THERE} == THERE


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_step_is_told_before_any_node_is_touched(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=WRONG[text].replace("(", r"\(")):
        plays.play(tmp_path, f"name: x\nsteps:\n  - name: a\n    {text}\n")


def test_a_script_runs_with_its_arguments_and_leaves_nothing(tmp_path: Path) -> None:
    text = b"#! /bin/sh -eu\necho $0 $1 > made; stat -c %a $0 >> made"
    args = {"digest": "d", "args": ["one"], "cwd": str(tmp_path), "creates": str(tmp_path / "made")}
    verdict = script.check(args, place(blobs={"d": text}))
    assert verdict.apply is not None
    verdict.apply()
    path, word, mode = (tmp_path / "made").read_text().split()
    assert (word, mode, Path(path).exists()) == ("one", "600", False), (
        "no machine has to let it be executed there"
    )
    assert script.check(args, place(blobs={"d": text})).skipped == "what it creates is there"


def test_a_script_that_fails_is_told_by_its_last_words_and_leaves_nothing(tmp_path: Path) -> None:
    code = b"import sys; print(__file__, file=sys.stderr); sys.exit(3)"
    args = {"digest": "d", "interpreter": ["<python>", "-I"]}
    verdict = script.check(args, place(blobs={"d": code}))
    assert verdict.apply is not None
    with pytest.raises(StepFailed, match="exit status 3: ") as caught:
        verdict.apply()
    assert not Path(str(caught.value).split()[-1]).exists()


def test_an_alarm_while_a_command_is_started_leaves_no_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Slow(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            (tmp_path / "pid").write_text(str(self.pid))
            select.select([], [], [], 0.05)

    def ring(*_: object) -> None:
        raise StepTimeout

    monkeypatch.setattr(subprocess, "Popen", Slow)
    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(StepTimeout):
            command.run(["sleep", "60"], place())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


def test_a_program_is_a_script_too(tmp_path: Path) -> None:
    args = {"digest": "d", "args": ["made"], "cwd": str(tmp_path)}
    verdict = script.check(args, place(blobs={"d": Path(str(shutil.which("touch"))).read_bytes()}))
    assert verdict.apply is not None
    verdict.apply()
    assert (tmp_path / "made").exists()


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/good" else 503)
        self.end_headers()
        self.wfile.write(b"all is well")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a small web server."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_port_and_a_page_are_waited_for(web: int) -> None:
    assert wait_for.check({"port": web}, place()).result == {"port": web}
    page = f"http://127.0.0.1:{web}"
    assert wait_for.check({"url": f"{page}/good"}, place()).result == {"status": 200, "body": "all is well"}
    assert wait_for.check({"url": f"{page}/bad", "until": "status == 503"}, place()).result["status"] == 503
    for args, why in (
        ({"url": f"{page}/bad"}, "status 503"),
        ({"url": f"{page}/good", "until": "body == 'other'"}, "status 200"),
        ({"url": "file:///etc/passwd"}, "neither http nor https"),
        ({"port": 1}, "127.0.0.1 port 1: connection refused"),
    ):
        with pytest.raises(StepFailed, match=why):
            wait_for.check(args, place(checking=True))


def test_what_is_no_answer_yet_is_asked_again(web: int) -> None:
    again: list[float] = []

    def come(seconds: float) -> None:
        again.append(seconds)
        if len(again) == 2:
            raise StepTimeout

    with socket.socket() as odd:
        odd.bind(("127.0.0.1", 0))
        odd.listen()

        def answer() -> None:
            for _ in range(2):
                door, _ = odd.accept()
                door.sendall(b"SSH-2.0-OpenSSH\r\n")
                door.close()

        talker = threading.Thread(target=answer)
        talker.start()
        with pytest.raises(StepFailed, match="not so after 5 s: "):
            wait_for.check({"url": f"http://127.0.0.1:{odd.getsockname()[1]}/"}, place(), sleep=come)
        talker.join()
    assert len(again) == 2
    # What its answer does not have is not less than anything, and may come.
    again.clear()
    args = {"port": web, "until": "port < facts.nothing"}
    with pytest.raises(StepFailed, match="not so after 5 s: "):
        wait_for.check(args, place(), sleep=come)
    with pytest.raises(ConditionError, match="unknown name"):
        wait_for.check({"port": web, "until": "nothing"}, place(), sleep=come)


def test_half_a_secret_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(path))
        control.listen()

        def answer() -> None:
            door, _ = control.accept()
            door.recv(100)
            door.sendall(json.dumps({"x": "." * 280, "key": "secretsecretsecret"}).encode())
            door.close()

        relay = threading.Thread(target=answer)
        relay.start()
        masked = place(checking=True, mask=lambda text: text.replace("secretsecretsecret", "***"))
        with pytest.raises(StepFailed) as caught:
            wait_for.check({"socket": str(path), "until": "answer.ok"}, masked)
        relay.join()
    assert "secret" not in str(caught.value)


def test_what_never_comes_is_told_when_the_time_is_over() -> None:
    looks = iter(range(3))

    def until_the_alarm(_seconds: float) -> None:
        if next(looks, None) is None:
            raise StepTimeout

    with pytest.raises(StepFailed, match=r"not so after 5 s: 127.0.0.1 port 1: connection refused"):
        wait_for.check({"port": 1}, place(), sleep=until_the_alarm)
