"""What a run did is undone on the node, from its journal: on folders, without a host."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commcli.remote import runid
from commcli.remote.onnode import journal, past, state
from commcli.remote.onnode.change import Write
from commcli.remote.onnode.rollback import Declined
from commcli.remote.onnode.step import StepFailed
from commcli.remote.steps import service
from tests.remote.test_play import in_folder
from tests.remote.undone import PLAY, Place


@pytest.fixture
def node(tmp_path: Path) -> Place:
    place = Place(tmp_path / "node")
    place.base.mkdir()
    place.fill()
    return place


CONFIG = """
name: {name}
steps:
  - name: config
    file: {{path: "{{{{ base }}}}/etc/config", content: "{content}\\n", mode: "0644"}}
"""


def config(content: str, name: str = "config") -> str:
    return CONFIG.format(content=content, name=name)


def test_all_is_put_back_in_reverse_and_the_handler_runs_again(node: Place) -> None:
    before = node.seen()
    run, played = node.play(PLAY)
    assert set(played.states().values()) == {"changed"} and node.seen() != before
    _, undone = node.roll_back(run)
    assert node.seen() == before
    names = list(undone.states())
    assert names[0] == "a file in that" and names[-2:] == ["a new file in new folders", "restart"]
    assert (node.base / "run/restarted").read_text() == "first\n"


def test_a_second_rollback_changes_nothing(node: Place) -> None:
    run, _ = node.play(PLAY)
    node.roll_back(run)
    before = node.seen()
    _, again = node.roll_back(run)
    assert (again.steps(), node.seen()) == ([], before)


def test_a_rollback_can_itself_be_rolled_back_and_done_again(node: Place) -> None:
    before = node.seen()
    run, _ = node.play(PLAY)
    after = node.seen()
    back, _ = node.roll_back(run)
    node.roll_back(back)
    assert node.seen() == after
    assert (node.base / "run/restarted").read_text() == "second\nthird\n"
    node.roll_back(run)
    assert node.seen() == before


def test_check_tells_and_changes_nothing(node: Place) -> None:
    run, _ = node.play(PLAY)
    before = node.seen()
    _, told = node.roll_back(run, check=True, diff=True)
    assert node.seen() == before and not (node.base / f"runs/{run}/pending").exists()
    texts = told.texts()
    assert texts["overwritten"] == f"put back {node.base}/etc/config, 13 -> 6 bytes"
    assert texts["a new file in new folders"] == f"remove {node.base}/new/deep, remove {node.base}/new"
    assert texts["another mode"] == f"{node.base}/etc/tool: mode 0755 -> 0644"
    diffs = {name: said["diff"] for name, said in told.steps()}
    assert "-second\n-third\n+first\n" in diffs["overwritten"]
    # Of what not everybody may read, nothing is shown.
    assert diffs["written"] == f"{node.base}/new/deep/file: the secret content differs, not shown\n"


def test_what_somebody_else_changed_since_is_refused_until_forced(node: Place) -> None:
    run, _ = node.play(PLAY)
    (node.base / "etc/config").write_text("by hand\n")
    before = node.seen()
    with pytest.raises(
        Declined, match=r"etc/config was changed since by somebody else \(nothing was put back"
    ):
        node.roll_back(run)
    assert node.seen() == before
    node.roll_back(run, force=True)
    assert (node.base / "etc/config").read_text() == "first\n"


def test_a_later_run_is_named(node: Place) -> None:
    first, _ = node.play(config("one"))
    second, _ = node.play(config("two", "hotfix"))
    with pytest.raises(Declined, match=rf"config was changed since by run {second} \(hotfix\)"):
        node.roll_back(first)
    node.roll_back(second)
    node.roll_back(first)
    assert (node.base / "etc/config").read_text() == "first\n"


def test_of_a_mode_that_was_changed_since_the_same_is_said(node: Place) -> None:
    run, _ = node.play(config("one"))
    (node.base / "etc/config").chmod(0o600)
    with pytest.raises(Declined, match="changed since by somebody else"):
        node.roll_back(run)


BARE = """
name: bare
steps:
  - name: mode
    file: {{path: "{{{{ base }}}}/etc/config", mode: "{mode}"}}
"""


def test_a_mode_is_put_back_though_the_file_went_on_growing(node: Place) -> None:
    path = node.base / "etc/config"
    was = stat.S_IMODE(path.stat().st_mode)
    run, _ = node.play(BARE.format(mode="0600"))
    assert len(in_folder(node.base / "runs" / run)) == 1, "what it holds is not kept"
    path.write_text("and more\n")
    back, undone = node.roll_back(run)
    assert undone.texts() == {"mode": f"{path}: mode 0600 -> {was:04o}"}
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("and more\n", was)
    node.roll_back(back)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(Declined, match="was changed since"):
        node.roll_back(run)
    path.unlink()
    assert node.roll_back(run)[1].steps() == []


def test_content_that_was_changed_since_is_refused_though_the_mode_was_too(node: Place) -> None:
    for first, second in (
        (config("one"), BARE.format(mode="0600")),
        (BARE.format(mode="0640"), config("two")),
    ):
        run, _ = node.play(first)
        node.play(second, run)
        (node.base / "etc/config").write_text("mine\n")
        with pytest.raises(Declined, match="was changed since by somebody else"):
            node.roll_back(run)
        node.roll_back(run, force=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owners_are_put_back_of_links_and_sockets_too(node: Place) -> None:
    inside = node.base / "tree/inner"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(inside / "sock"))
    given = f"""
name: given
steps:
  - {{name: away, directory: {{path: {node.base}/tree, owner: "12", group: "34", recurse: true}}}}
"""
    run, _ = node.play(given)
    paths = [node.base / "tree", *(node.base / "tree").rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(12, 34)} and len(paths) == 5
    (inside / "leaf").unlink()
    node.roll_back(run)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths if path.name != "leaf"} == {(0, 0)}


def test_a_folder_that_is_used_by_now_stays(node: Place) -> None:
    run, _ = node.play(PLAY)
    (node.base / "new/deep/log").write_text("mine")
    _, undone = node.roll_back(run)
    text = undone.texts()["a new file in new folders"]
    assert text == f"{node.base}/new/deep stays, not empty: log; {node.base}/new stays, not empty: deep"
    assert (node.base / "new/deep/log").read_text() == "mine"
    assert not (node.base / "new/deep/file").exists()


def test_what_no_run_of_that_name_did_is_nothing(node: Place) -> None:
    _, undone = node.roll_back("20260101T000000Z-0000")
    assert undone.steps() == []


COMMANDS = """
name: commands
steps:
  - name: asks
    command: {argv: ["true"], changed_when: stdout == "never"}
  - name: build
    command: {argv: [sh, -c, "echo built > {{ base }}/built"]}
  - name: service
    service:
      name: daemon
      start: [sh, -c, "echo start >> {{ base }}/said"]
      stop: [sh, -c, "echo stop >> {{ base }}/said"]
      pid_file: "{{ base }}/pid"
    notify: reload
handlers:
  - name: reload
    service: {name: daemon, state: restarted}
"""


def test_commands_are_undone_by_their_opposite_or_named(node: Place) -> None:
    text = COMMANDS.replace(
        "state: restarted", 'state: restarted, start: ["false"], stop: ["false"], pid_file: /x'
    )
    run, _ = node.play(text)
    back, undone = node.roll_back(run)
    assert undone.states() == {"service": "changed", "build": "skipped", "reload": "ok"}
    built = f"sh -c echo built > {node.base}/built"
    assert undone.texts()["build"] == f"not put back: run {built}"
    said = node.base / "said"
    assert said.read_text() == "start\nstop\n"
    # Once is enough; but when the rollback has been rolled back, it is to be done again.
    node.roll_back(run)
    assert said.read_text() == "start\nstop\n"
    node.roll_back(back)
    assert said.read_text() == "start\nstop\nstart\n"
    node.roll_back(run)
    assert said.read_text() == "start\nstop\nstart\nstop\n"


def test_a_service_that_was_restarted_is_restarted_with_what_was_put_back(node: Place) -> None:
    restart = config("one") + """
  - name: restarted
    service:
      name: daemon
      state: reloaded
      start: ["true"]
      stop: ["true"]
      reload: [sh, -c, "cat {{ base }}/etc/config >> {{ base }}/said"]
      pid_file: "{{ base }}/pid"
"""  # fmt: skip
    holder = "import fcntl,sys; f=open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(node.base / "pid")], stdin=-1, stdout=-1
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        run, _ = node.play(restart)
        _, undone = node.roll_back(run)
    assert list(undone.states().values()) == ["changed", "changed"]
    assert (node.base / "said").read_text() == "one\nfirst\n"


def test_the_handlers_of_a_rollback_that_failed_run_when_it_is_done_again(node: Place) -> None:
    text = PLAY.replace(
        "cat {{ base }}/etc/config >", "test ! -e {{ base }}/run/broken && cat {{ base }}/etc/config >"
    )
    run, _ = node.play(text)
    (node.base / "run/broken").touch()
    _, failed = node.roll_back(run)
    assert failed.states()["restart"] == "failed"
    (node.base / "run/broken").unlink()
    _, again = node.roll_back(run)
    assert again.states() == {"restart": "changed"}
    assert (node.base / "run/restarted").read_text() == "first\n"


def test_a_handlers_own_file_is_kept_for_it(node: Place, tmp_path: Path) -> None:
    (tmp_path / "restart.sh").write_text("#!/bin/sh\necho restarted >> $1\n")
    text = config("one") + """    notify: by script
handlers:
  - name: by script
    script: {source: restart.sh, args: ["{{ base }}/said"]}
"""  # fmt: skip
    run, _ = node.play(text)
    node.roll_back(run)
    assert (node.base / "said").read_text() == "restarted\nrestarted\n"


def test_too_much_to_keep_is_said_before_and_after(node: Place) -> None:
    with (node.base / "tree/large").open("wb") as file:
        file.truncate(state.LARGEST + 1)
    text = 'name: gone\nsteps:\n  - {name: gone, directory: {path: "{{ base }}/tree", state: absent}}\n'
    run, played = node.play(text)
    assert played.texts()["gone"] == "remove, for good: more than 32 MiB"
    _, undone = node.roll_back(run)
    assert undone.states() == {"gone": "skipped"}
    assert undone.texts()["gone"] == f"{node.base}/tree is not put back, it was not kept: more than 32 MiB"


def test_one_run_keeps_no_more_than_all_may(node: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "KEPT_BYTES", 3)
    run, _ = node.play(config("one"))
    _, undone = node.roll_back(run)
    assert undone.texts()["config"].endswith(
        "etc/config is not put back, it was not kept: too much for one run"
    )


def test_the_base_itself_may_go(node: Place) -> None:
    gone = 'name: gone\nsteps:\n  - {name: gone, directory: {path: "{{ base }}", state: absent}}\n'
    _, played = node.play(gone)
    assert played.states() == {"gone": "changed"} and not node.base.exists()


SYSTEMCTL = """#!/bin/sh
echo "$@" >> {folder}/calls
case $1 in
  is-*) exit $(cat {folder}/$1);;
  enable) echo 0 > {folder}/is-active; echo 0 > {folder}/is-enabled;;
  disable) echo 3 > {folder}/is-active; echo 1 > {folder}/is-enabled;;
esac
"""
UNIT = """
name: unit
steps:
  - name: config
    file: {{path: "{{{{ base }}}}/etc/daemon", content: "{content}"}}
    notify: new config
  - name: daemon
    service: {{name: daemon, unit: "{content}"}}
handlers:
  - name: new config
    service: {{name: daemon, state: restarted, unit: "{content}"}}
"""


def test_a_unit_is_put_back_and_what_systemd_was_told(
    node: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(folder=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "is-active").write_text("3")
    (tmp_path / "is-enabled").write_text("1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "UNITS", str(node.base))
    node.facts = {"systemd": True, "uid": 0}

    def told() -> list[str]:
        calls = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        return [call for call in calls if not call.startswith("is-")]

    first, _ = node.play(UNIT.format(content="one"))
    assert told() == ["daemon-reload", "enable --now daemon"]
    second, _ = node.play(UNIT.format(content="two"))
    assert told() == ["daemon-reload", "restart daemon"]
    node.roll_back(second)
    assert (node.base / "daemon.service").read_text() == "one"
    assert told() == ["daemon-reload", "restart daemon"]
    node.roll_back(first)
    assert not (node.base / "daemon.service").exists()
    assert told() == ["disable --now daemon", "daemon-reload"]


def test_the_journal_is_ours_alone_to_read(node: Place) -> None:
    run, _ = node.play(PLAY)
    folder = node.base / "runs" / run
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert (stat.S_IMODE(folder.stat().st_mode), modes) == (0o700, {0o600})
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) > 4


def test_a_run_that_changes_nothing_leaves_no_journal(node: Place) -> None:
    node.play(config("first"))
    assert not (node.base / "runs").exists()


def test_the_oldest_runs_make_room(node: Place, tmp_path: Path) -> None:
    runs = [node.play(config(str(number)))[0] for number in range(journal.KEPT_RUNS + 2)]
    assert in_folder(node.base / "runs") == [*runs[2:], "pruned"]
    for run in runs[:2]:
        with pytest.raises(
            StepFailed, match=r"is no longer kept here \(the last 20 are, and no more than 256 MiB\)"
        ):
            node.roll_back(run)
    _, nothing = node.roll_back("20200101T000000Z-0000")  # a run that has changed nothing here
    assert nothing.states() == {}


def test_a_file_that_somebody_put_among_the_runs_is_in_nobodys_way(node: Place) -> None:
    first, _ = node.play(config("one"))
    (node.base / "runs/notes.txt").touch()
    second, played = node.play(config("second"))
    assert played.states()["config"] == "changed"
    _, back = node.roll_back(second)
    assert back.states()["config"] == "changed"
    assert in_folder(node.base / "runs")[:2] == [first, second]


def test_large_runs_make_room_earlier(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
        with (tmp_path / name / "blob").open("wb") as file:
            file.truncate(journal.KEPT_BYTES // 2)
    journal.prune(str(tmp_path), {"d", "b"})
    # Not what is at work, nor what it undoes.
    assert in_folder(tmp_path) == ["b", "c", "d", "pruned"] and (tmp_path / "pruned").read_text() == "\na"


def test_no_room_for_the_journal_and_nothing_is_changed(node: Place) -> None:
    (node.base / "runs").write_text("in the way")
    _, played = node.play(config("one"))
    assert played.states() == {"config": "failed"}
    assert "no journal, so nothing is changed" in played.texts()["config"]
    assert (node.base / "etc/config").read_text() == "first\n"


def test_a_journal_cut_off_anywhere_is_read_as_far_as_it_goes(node: Place) -> None:
    run, _ = node.play(PLAY)
    text = (node.base / "runs" / run / "journal").read_text()
    whole = list(past.parsed(run, text).touched())
    for end in range(0, len(text), 37):
        touched = list(past.parsed(run, text[:end]).touched())
        assert [each.path for each in touched] == [each.path for each in whole[: len(touched)]]


def test_two_plays_of_one_run_are_undone_together(node: Place) -> None:
    before = node.seen()
    run, _ = node.play(config("one"))
    with (node.base / "runs" / run / "journal").open("a") as file:
        file.write('{"n": 9, "torn')
    node.play(config("two"), run)
    node.roll_back(run)
    assert node.seen() == before


@pytest.fixture
def full(tmp_path: Path) -> Any:
    """A run's journal on a device that is always full."""
    plan = {"base": str(tmp_path), "run": "r", "steps": [], "play": "p"}
    written = journal.Journal(plan, {})
    written.begin({"name": "s", "section": "steps", "notify": [], "args": {}}, "told")
    with written.noted(Write(str(tmp_path / "a"), b"", 0o644)):
        pass
    os.dup2(os.open("/dev/full", os.O_RDWR), written._file)
    return written


def test_a_full_disk_fails_the_step_before_anything_is_changed(full: journal.Journal, tmp_path: Path) -> None:
    why = "no journal, so nothing is changed: disk full"
    with pytest.raises(StepFailed, match=why), full.noted(Write(str(tmp_path / "b"), b"", 0o644)):
        pytest.fail("it was changed")


def test_killed_at_any_point_of_a_play_or_a_rollback_all_is_put_back(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.remote.undone", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


HANDLED = """
name: handled
steps:
  - name: command
    command: {{argv: [sh, -c, "true"], changed_when: "false or status == {status}"}}
    notify: [restart]
  - name: config
    file: {{path: "{{{{ base }}}}/etc/config", content: "{content}"}}
    notify: [write, retried]
handlers:
  - name: restart
    command: {{argv: [touch, "{{{{ base }}}}/run/touched"]}}
  - name: write
    file: {{path: "{{{{ base }}}}/etc/generated", content: "{content}"}}
  - name: retried
    command: {{argv: [sh, -c, "echo {content} >> {{{{ base }}}}/run/tried; cat {{{{ base }}}}/run/answer"]}}
    until: stdout == "good"
    when: facts.uid != 4242
"""


def test_what_a_command_has_not_changed_is_told_to_no_handler(node: Place) -> None:
    (node.base / "run/answer").write_text("good")
    _, played = node.play(HANDLED.format(status=1, content="one"))
    assert played.states()["command"] == "ok" and "restart" not in played.states()
    assert not (node.base / "run/touched").exists()
    _, played = node.play(HANDLED.format(status=0, content="one"))
    assert (played.states()["command"], played.states()["restart"]) == ("changed", "changed")


def test_a_handler_whose_until_does_not_hold_is_still_to_run(node: Place) -> None:
    (node.base / "run/answer").write_text("bad")
    _, played = node.play(HANDLED.format(status=1, content="one"))
    assert played.states()["retried"] == "failed"
    (node.base / "run/answer").write_text("good")
    _, again = node.play(HANDLED.format(status=1, content="one"))
    assert (again.states()["config"], again.states()["retried"]) == ("ok", "changed")


def test_what_a_handler_wrote_is_put_back_and_not_written_again(node: Place) -> None:
    (node.base / "run/answer").write_text("good")
    node.play(HANDLED.format(status=1, content="one"))
    second, _ = node.play(HANDLED.format(status=1, content="two"))
    assert (node.base / "etc/generated").read_text() == "two"
    node.roll_back(second)
    written = [(node.base / "etc" / name).read_text() for name in ("config", "generated")]
    assert written == ["one", "one"]
    assert (node.base / "run/tried").read_text() == "one\ntwo\ntwo\n", "a command is run again"


def test_runs_are_named_in_their_order() -> None:
    names = [runid.new() for _ in range(100)]
    assert names == sorted(set(names)) and all(map(runid.is_one, names))


SPELT = """
name: spelt
steps:
  - name: away
    directory: {path: "{{ base }}/link/", state: absent}
"""
REPOINTED = """
name: repointed
steps:
  - name: file
    file: {path: "{{ base }}//now/./file", content: new}
  - name: now
    link: {path: "{{ base }}/now", target: second}
  - name: folder
    directory: {path: "{{ base }}/app/"}
  - name: in it
    file: {path: "{{ base }}/app/f", content: x}
"""


def test_a_slash_at_the_end_does_not_lead_through_a_link(node: Place) -> None:
    (node.base / "precious").mkdir()
    (node.base / "precious/file").touch()
    (node.base / "link").symlink_to("precious")
    _, played = node.play(SPELT)
    assert (played.states()["away"], played.texts()["away"]) == ("failed", "a link is in the way")
    assert (node.base / "precious/file").exists()


def test_a_rollback_finds_what_lay_behind_a_link_and_what_is_spelt_otherwise(node: Place) -> None:
    for name in ("first", "second"):
        (node.base / name).mkdir()
    (node.base / "now").symlink_to("first")
    before = node.seen()
    run, _ = node.play(REPOINTED)
    assert (node.base / "first/file").read_text() == "new"
    node.roll_back(run)
    assert node.seen() == before


ODD = """
name: odd
steps:
  - name: away
    directory: {path: "{{ base }}/spool", state: absent}
"""


def test_a_pipe_in_a_folder_keeps_nothing_else_from_coming_back(node: Place) -> None:
    (node.base / "spool/in").mkdir(parents=True)
    (node.base / "spool/in/job").write_text("precious")
    os.mkfifo(node.base / "spool/pipe")
    run, played = node.play(ODD)
    assert played.texts()["away"] == "remove, for good: pipe, neither file, folder nor link"
    _, back = node.roll_back(run)
    assert "but for pipe: neither file, folder nor link" in back.texts()["away"]
    assert (node.base / "spool/in/job").read_text() == "precious" and not (node.base / "spool/pipe").exists()


def test_a_large_folder_of_which_a_part_is_gone_is_told(node: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LARGEST", 5000)
    (node.base / "spool").mkdir()
    (node.base / "spool/large").write_text("x" * 6000)
    (node.base / "spool/stays").touch()

    def half(path: str) -> None:
        Path(path, "large").unlink()
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr("commcli.remote.onnode.change.shutil.rmtree", half)
        run, played = node.play(ODD)
    assert played.states()["away"] == "failed"
    _, back = node.roll_back(run)
    assert "is not put back, it was not kept: more than" in back.texts()["away"]
