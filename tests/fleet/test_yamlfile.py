"""YAML 1.2's words, lines on everything, and errors that never quote a value."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import yamlfile
from commcli.fleet.yamlfile import Problems, YamlList, YamlMap

NO_TAG = "a tag (!) is not allowed; put text that begins with ! in quotes"


def parse(text: str | bytes) -> object:
    problems = Problems()
    value = yamlfile.parse(text, "f.yaml", problems)
    problems.raise_if_any()
    return value


def errors_of(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(BadInput) as caught:
        parse(text)
    return caught.value.errors


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),  # Norway
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("2026-01-01", "2026-01-01"),
        ("017", 17),
        ("-3", -3),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("1.2.3.4", "1.2.3.4"),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("<<", "<<"),
        ("=", "="),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    got = parse(f"a: {text}")
    assert isinstance(got, YamlMap)
    assert got["a"] == value and type(got["a"]) is type(value)


def test_lines() -> None:
    got = parse("# one\na: 1\nb:\n  - x\n\n  - {c: 3}\n")
    assert isinstance(got, YamlMap)
    assert (got.line, got.lines) == (2, {"a": 2, "b": 3})
    items = got["b"]
    assert isinstance(items, YamlList)
    assert [line for _, line in items.placed()] == [4, 6]
    assert isinstance(items[1], YamlMap) and items[1].lines == {"c": 6}


def test_an_alias_is_the_value_again() -> None:
    assert parse("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 2\na: 3\n", 'f.yaml:3: key "a" is written twice (first in line 1)'),
        ("x:\n  - {a: 1, a: 2}\n", 'f.yaml:2: key "a" is written twice (first in line 2)'),
        ("a: &x [1, *x]\n", "f.yaml:1: an alias (*) lies inside the value that it stands for"),
        ("a: *nope\n", "f.yaml:1: broken YAML: found undefined alias"),
        ("1: a\n", "f.yaml:1: a key must be text, not a number: put it in quotes"),
        ("? [a]\n: b\n", "f.yaml:1: a key must be text, not a list: put it in quotes"),
        ("a: !!python/name:os.system hunter2\n",
         f"f.yaml:1: {NO_TAG}"),
        ("a: !!int hunter2\n", "f.yaml:1: is no value of its type"),
        (f"a: {'9' * 5000}\n", "f.yaml:1: is a number of too many digits"),
        ("a: !!set {hunter2}\n", f"f.yaml:1: {NO_TAG}"),
        ("\ta: 1\n", "f.yaml:1: broken YAML: while scanning for the next token, "
                     "found character that cannot start any token"),
        (b"a: 1\nb: \xff\n", "f.yaml:2: broken YAML: invalid leading UTF-8 octet (byte 8)"),
        ("", "f.yaml: is empty"),
        ("- " * 2000 + "x", "f.yaml: is nested too deep"),
        ("[" * 2000 + "]" * 2000, "f.yaml: is nested too deep"),
    ],
)  # fmt: skip
def test_broken(text: str | bytes, error: str) -> None:
    assert errors_of(text) == (error,)


def test_all_problems_in_order_of_file_and_line_each_once() -> None:
    problems = Problems()
    yamlfile.parse("a: 1\na: 2\nb: !x 3\n", "b.yaml", problems)
    yamlfile.parse("a: [\n", "a.yaml", problems)
    problems.add("b.yaml", 0, "the whole file")
    problems.add("b.yaml", 0, "the whole file")
    with pytest.raises(BadInput) as caught:
        problems.raise_if_any()
    assert [error.split(": ")[0] for error in caught.value.errors] == [
        "a.yaml:2",
        "b.yaml",
        "b.yaml:2",
        "b.yaml:3",
    ]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    problems = Problems()
    assert yamlfile.read(tmp_path, problems) is None
    with pytest.raises(BadInput, match="Is a directory"):
        problems.raise_if_any()


def test_paths_are_shown_as_typed(tmp_path: Path) -> None:
    assert yamlfile.shown(Path("inventory/nodes.yaml").absolute()) == "inventory/nodes.yaml"
    assert yamlfile.shown(tmp_path / "x") == str(tmp_path / "x")


def test_exponents_of_numbers_stay_finite_or_are_refused_by_their_reader() -> None:
    got = parse("a: 1e999\n")
    assert isinstance(got, YamlMap) and got["a"] == math.inf
