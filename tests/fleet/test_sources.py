"""An inventory as one file, as a program's answer, and with a program in its folder; and what is kept of large ones."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from commcli.errors import BadInput
from commcli.fleet import executable, kept, load, packed
from commcli.fleet.model import Fleet
from commcli.fleet.yamlfile import Problems
from tests.fleet import samples


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where inventories are kept."""
    monkeypatch.setenv("COMMCLI_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def sections() -> dict[str, Any]:
    """The sample inventory as one document."""
    files = {name.removesuffix(".yaml"): yaml.safe_load(text) for name, text in samples.FILES.items()}
    whole = {"fleet": files.pop("fleet")}
    for told in files.values():
        whole.update(told)
    return whole


def program(path: Path, text: str) -> Path:
    """A program of the shell's."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def printing(path: Path, document: object) -> Path:
    """A program that prints the document, and counts its runs in `runs` beside it."""
    path.with_name("answer.json").write_text(json.dumps(document))
    return program(path, "echo >> runs; cat answer.json")


def runs(folder: Path) -> int:
    return (folder / "runs").read_text().count("\n")


def error_of(place: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load(place)
    return str(caught.value)


def test_one_file_and_a_program_hold_what_a_folder_holds(tmp_path: Path) -> None:
    folder = load(samples.write(tmp_path))
    one = tmp_path / "inventory/all.yml"
    one.write_text(yaml.safe_dump(sections(), sort_keys=False))
    assert load(one) == folder
    assert load(printing(tmp_path / "inventory/list", sections())) == folder


def test_a_program_for_one_file_of_the_folder(tmp_path: Path) -> None:
    inventory = samples.write(tmp_path)
    fleet = load(inventory)
    nodes = yaml.safe_load((inventory / "nodes.yaml").read_text())
    (inventory / "nodes.yaml").unlink()
    nodes["nodes"]["sg-2"] = {"region": "sgp", "address": "192.0.2.22"}
    printing(inventory / "nodes", nodes)
    assert set(load(inventory).nodes) == {*fleet.nodes, "sg-2"}
    (inventory / "nodes.yaml").write_text("nodes: {}\n")
    assert "/nodes: stands for nodes.yaml, which is there too" in error_of(inventory)
    (inventory / "nodes.yaml").unlink()
    (inventory / "nodes").chmod(0o644)
    assert "/nodes: can not be run (chmod +x), to stand for nodes.yaml" in error_of(inventory)


def test_problems_of_one_file_have_lines_and_those_of_json_the_path(tmp_path: Path) -> None:
    whole = sections()
    whole["nodes"]["de-1"]["region"] = "frb"
    whole["zones"]["de-home"]["between"] = [["de"], [7]]
    place = printing(tmp_path / "list", whole)
    assert error_of(place).splitlines() == [
        f'{place}: nodes.de-1.region: node de-1: unknown region "frb"; did you mean "fra"?',
        f"{place}: zones.de-home.between[1][0]: zone de-home: a market must be text, not a number",
    ]
    one = tmp_path / "all.yaml"
    one.write_text(json.dumps(whole, indent=1))
    line = 1 + one.read_text().splitlines().index('   "region": "frb",')
    assert error_of(one).splitlines()[0].startswith(f"{one}:{line}: node de-1: unknown region")


def test_what_a_section_of_one_file_lacks(tmp_path: Path) -> None:
    whole = sections()
    del whole["fleet"], whole["zones"]
    whole["zonse"] = {}
    one = tmp_path / "all.yaml"
    one.write_text(yaml.safe_dump(whole))
    told = error_of(one)
    assert "fleet: name is missing" in told and "zones is missing" in told
    assert 'unknown key "zonse"; did you mean "zones"?' in told


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("echo one >&2; echo no access to the cloud >&2; exit 3",
         "ended with status 3: one / no access to the cloud"),
        ("kill -9 $$", "was ended by signal 9, and said nothing"),
        ("echo '{\"nodes\": '", "broken JSON: Expecting value (line 2 of its output)"),
        ("echo '{\"fleet\": NaN}'", "broken JSON: NaN is no number of JSON"),
        ("echo '{\"fleet\": {}, \"fleet\": {}}'", "fleet: is written twice"),
        ("echo '[]'", "must be a mapping, not a list"),
        ("echo '{\"cache_s\": -1}'", "cache_s: cache_s must be 0 to 86400"),
        ("while :; do echo 1234567890123456789012345678901234567890; done", "prints more than 0 MiB"),
        ("sleep 60 & echo '{}'; wait", "no end after 0.4 s"),
        ("exec >&- 2>&-; sleep 60", "no end after 0.4 s"),
    ],
)  # fmt: skip
def test_programs_that_give_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: str
) -> None:
    monkeypatch.setattr(executable, "MOST_BYTES", 1 << 16)
    place = program(tmp_path / "list", text)
    problems = Problems()
    executable.ask(place, problems, deadline_s=0.4 if "sleep" in text else 30)
    if not problems:
        assert error in error_of(place)
        return
    with pytest.raises(BadInput) as caught:
        problems.raise_if_any()
    assert str(caught.value) == f"{place}: {error}"


def test_what_a_program_leaves_behind_ends_with_its_time(tmp_path: Path) -> None:
    place = program(
        tmp_path / "list", f"mkfifo {tmp_path}/held; (exec 3<>{tmp_path}/held; sleep 60) & exit 0"
    )
    problems = Problems()
    executable.ask(place, problems, deadline_s=0.4)
    assert "no end after 0.4 s" in str(problems.as_error())
    # A pipe that nobody else holds has no reader.
    for _ in range(1000):
        with contextlib.suppress(OSError):
            os.close(os.open(tmp_path / "held", os.O_WRONLY | os.O_NONBLOCK))
            time.sleep(0.01)
            continue
        return
    raise AssertionError("its child lives on")


def test_a_program_sees_a_plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "hunter2")
    place = program(tmp_path / "list", "env >&2; exit 1")
    assert "hunter2" not in error_of(place) and "LC_ALL=C.UTF-8" in error_of(place)
    place.chmod(0o757)
    assert "is not run: everybody may write to it (chmod o-w)" in error_of(place)
    place.chmod(0o755)
    place.write_text("nodes: {}\n")
    assert "does not run: Exec format error (is it a file to read? then chmod -x)" in error_of(place)


def large(folder: Path) -> Path:
    """The sample, with comments enough to be worth keeping."""
    inventory = samples.write(folder)
    with (inventory / "nodes.yaml").open("a") as file:
        file.write("# why\n" * (kept.WORTH_BYTES // 6))
    return inventory


def only(state: Path) -> Path:
    [path] = (state / "cache").iterdir()
    return path


def test_the_example_comes_back_as_it_was() -> None:
    fleet = load(Path(__file__).parents[2] / "inventory")
    assert packed.unpack(json.loads(json.dumps(packed.pack(fleet)))) == fleet


def _tampered(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"192.0.2.1", b"192.0.2.7"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _opened(path: Path) -> None:
    path.chmod(0o644)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def test_a_large_inventory_is_kept(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory = large(tmp_path)
    fleet = load(inventory)
    assert stat.S_IMODE(only(state).stat().st_mode) == 0o600
    assert stat.S_IMODE(only(state).parent.stat().st_mode) == 0o700
    with monkeypatch.context() as patch:
        patch.setattr("commcli.fleet.yamlfile.parse", None)  # nothing is parsed
        assert load(inventory) == fleet
    (inventory / "zones.yaml").write_text("zones: {}\n")
    assert load(inventory).zones == ()
    (inventory / "zones.yml").write_text("zones: {}\n")
    assert "zones.yml: is no file of an inventory" in error_of(inventory)


@pytest.mark.parametrize("spoil", [_tampered, _cut, _opened, _emptied])
def test_what_is_odd_is_made_anew(tmp_path: Path, state: Path, spoil: Callable[[Path], None]) -> None:
    inventory = large(tmp_path)
    fleet, good = load(inventory), only(state).read_bytes()
    spoil(only(state))
    assert load(inventory) == fleet
    assert (only(state).read_bytes(), stat.S_IMODE(only(state).stat().st_mode)) == (good, 0o600)


def test_small_and_broken_ones_are_not_kept(tmp_path: Path, state: Path) -> None:
    load(samples.write(tmp_path))
    inventory = large(tmp_path)
    (inventory / "zones.yaml").write_text("zones: [\n")
    error_of(inventory)
    (inventory / "zones.yaml").write_text("zones: {}\n")
    (inventory / "probes.yaml").write_text("defaults: 7\n")
    assert isinstance(load(inventory).probing, BadInput)
    assert not (state / "cache").exists()


def test_a_state_folder_that_can_not_be_written_costs_nothing(tmp_path: Path, state: Path) -> None:
    state.write_text("a file\n")
    assert isinstance(load(large(tmp_path)), Fleet)


@pytest.mark.parametrize(("cache_s", "expected"), [(None, 3), (0, 3), (60, 2)])
def test_a_program_is_asked_again_unless_it_says_for_how_long_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_s: int | None, expected: int
) -> None:
    now = [1000.0]
    monkeypatch.setattr(kept, "now_unix", lambda: now[0])
    whole = sections() if cache_s is None else {**sections(), "cache_s": cache_s}
    place = printing(tmp_path / "list", whole)
    for now[0] in (1000.0, 1059.0, 1060.0):
        assert len(load(place).nodes) == 4
    assert runs(tmp_path) == expected


def test_a_program_that_changed_is_asked(tmp_path: Path) -> None:
    place = printing(tmp_path / "list", {**sections(), "cache_s": 600})
    load(place)
    os.utime(place, ns=(1, 1))
    load(place)
    assert runs(tmp_path) == 2
