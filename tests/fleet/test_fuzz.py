"""Whatever a hand does to the files: a fleet, or errors that each name a file; never a crash, never the secret."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from commcli.errors import BadInput
from commcli.fleet import Fleet, load
from tests.fleet import samples
from tests.fleet.test_probes import WHOLE as PROBES

SECRET = "hunter2"
# What slips of the hand and copy-paste leave behind, and the words of YAML.
SCRAPS = st.sampled_from(
    [
        *(
            "",
            " ",
            "\t",
            "\n",
            ":",
            ": ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            "#",
            "'",
            '"',
            "*",
            "&a ",
            "*a",
            "!",
            "!!int ",
        ),
        *(
            "|\n",
            "~",
            "null",
            "true",
            "-1",
            "1e999",
            "0x7f",
            "9" * 30,
            "9" * 5000,
            "no",
            "<<: ",
            "? ",
            "---\n",
            "%",
        ),
        *("\x00", "é", "\u2028", "sg-1", "de", "fra", "region: ", "ssh: 7", "between: ", "[[de], [de]]"),
        *(
            "192.0.2.1",
            "::ffff:1.2.3.4",
            "a" * 300,
            "a: &a [*a]",
            "{a: {b: {c: [1, {d: 2}]}}}",
            "{192.0.2.1: x}",
        ),
    ]
)


@st.composite
def slipped(draw: st.DrawFn, text: str) -> str:
    """The text with up to three pieces cut out, doubled or replaced by a scrap."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.one_of(SCRAPS, st.just(text[start:end] * 2))) + text[end:]
    return text


@st.composite
def slips(draw: st.DrawFn) -> dict[str, str]:
    """Some files of the sample, each so."""
    names = draw(st.lists(st.sampled_from(sorted(samples.FILES)), min_size=1, max_size=2, unique=True))
    return {name.removesuffix(".yaml"): draw(slipped(samples.FILES[name])) for name in names}


@given(slips())
@settings(max_examples=100, deadline=None)
def test_a_fleet_or_errors_with_places(broken: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inventory = samples.write(Path(folder), **broken)
        try:
            fleet = load(inventory)
        except BadInput as error:
            assert error.errors
            assert all(line.startswith(f"{inventory}/") for line in error.errors)
        else:
            assert isinstance(fleet, Fleet)
            assert all(node.region in fleet.regions for node in fleet.nodes.values())
            assert all(edge in fleet.nodes for market in fleet.markets.values() for edge in market.edges)


@given(slipped(PROBES))
@settings(max_examples=150, deadline=None)
def test_probes_or_errors_with_places(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inventory = samples.write(Path(folder))
        (inventory / "probes.yaml").write_text(text, encoding="utf-8")
        try:
            probes = load(inventory).probes
        except BadInput as error:
            assert error.errors
            assert all(line.startswith(f"{inventory}/probes.yaml") for line in error.errors)
        else:
            assert all(pair.a != pair.b and 1 <= pair.seconds <= 600 for pair in probes.pairs)
            assert len({frozenset((pair.a, pair.b)) for pair in probes.pairs}) == len(probes.pairs)


WRONG_PLACES = (
    *(
        "SECRET",
        "  SECRET",
        "  turn: SECRET",
        "  turn: {file: SECRET, x: y}",
        "  turn: [SECRET",
        "  turn: 'SECRET",
    ),
    *(
        "  turn: @SECRET",
        "  turn: !SECRET x",
        "  turn: *SECRET",
        "  turn: {SECRET: y}",
        "  turn: &SECRET",
        "  turn: %SECRET",
    ),
    *(
        "  turn: |SECRET",
        "  turn: `SECRET`",
        "  turn: SECRET: x",
        "  turn:\n    - SECRET",
        "  turn: !!int SECRET",
    ),
)


# Every place where a value can stand: the part after each ": " of the sample's own lines.
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_secret_put_in_the_wrong_place_is_not_echoed(data: st.DataObject) -> None:
    lines = samples.FILES["fleet.yaml"].splitlines()
    at = data.draw(st.sampled_from([i for i, line in enumerate(lines) if i >= lines.index("secrets:")]))
    scrap = data.draw(st.sampled_from(WRONG_PLACES)).replace("SECRET", SECRET)
    text = "\n".join([*lines[:at], scrap, *lines[at + 1 :]]) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            load(samples.write(Path(folder), fleet=text))
        except BadInput as error:
            assert SECRET not in str(error)
