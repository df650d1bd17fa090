"""prefixes.yaml: client networks and the edges nearest to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.fleet import load
from tests.fleet import samples
from tests.fleet.samples import errors_of


def prefixes(tmp_path: Path, text: str) -> Path:
    folder = samples.write(tmp_path)
    (folder / "prefixes.yaml").write_text(text, encoding="utf-8")
    return folder


def test_prefixes_are_optional_and_keep_their_order(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path)).prefixes == {}
    text = "prefixes:\n  203.0.113.0/24: [sg-1, de-1]\n  2001:db8::/32: de-1\n  0.0.0.0/0: [br-1]\n"
    assert load(prefixes(tmp_path, text)).prefixes == {
        "203.0.113.0/24": ("sg-1", "de-1"),
        "2001:db8::/32": ("de-1",),
        "0.0.0.0/0": ("br-1",),
    }


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("203.0.113.1/24: [sg-1]", "prefix 203.0.113.1/24: must be written as 203.0.113.0/24"),
        ("2001:DB8::/32: [sg-1]", "prefix 2001:DB8::/32: must be written as 2001:db8::/32"),
        ("Malaysia: [sg-1]", "prefix Malaysia: not a network in CIDR notation, such as 203.0.113.0/24"),
        ("10.0.0.0/8: [sg1]", 'prefix 10.0.0.0/8: unknown node "sg1"; did you mean "sg-1"?'),
        ("10.0.0.0/8: [sg-1, sg-1]", 'prefix 10.0.0.0/8: node "sg-1" is written twice'),
        ("10.0.0.0/8: []", "prefix 10.0.0.0/8: names no edge"),
        ("10.0.0.0/8:", "prefix 10.0.0.0/8: names no edge"),
        ("10.0.0.0/8: {sg-1: 1}", "prefix 10.0.0.0/8: the list must hold nodes, not a mapping"),
        ("203.0.113.0/24: [de-1]", 'key "203.0.113.0/24" is written twice (first in line 2)'),
    ],
)
def test_a_mistake_in_the_prefixes(tmp_path: Path, row: str, error: str) -> None:
    folder = prefixes(tmp_path, f"prefixes:\n  203.0.113.0/24: [sg-1]\n  {row}\n")
    assert errors_of(folder) == [f"prefixes.yaml:3: {error}"]


def test_a_broken_prefixes_file_is_an_error_and_a_stray_one_is_named(tmp_path: Path) -> None:
    assert errors_of(prefixes(tmp_path, "networks: {}\n")) == [
        "prefixes.yaml:1: prefixes is missing: write `prefixes: {}` if there are none",
        'prefixes.yaml:1: unknown key "networks"',
    ]
    folder = samples.write(tmp_path)
    (folder / "prefixes.yaml").rename(folder / "prefixes.yml")
    assert errors_of(folder) == ['prefixes.yml: is no file of an inventory; did you mean "prefixes.yaml"?']
