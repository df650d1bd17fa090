"""probes.yaml: what is probed, what is good; and every mistake in it by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import duration, load, probes
from commcli.fleet.probing import Budget, Objective, ProbePair, Probes
from commcli.probe import judge
from commcli.probe.ask import MOST_SECONDS, TRANSPORTS
from commcli.probe.profiles import PROFILES
from tests.fleet import samples
from tests.fleet.samples import errors_of

WHOLE = """\
defaults: {every: 10m, seconds: 6}
verdict:
  rtt_ms: {warn: 300, bad: 600}
  setup_ms: {bad: 3000}
pairs:
  - {between: [sg, cn], every: 5m, importance: high, profile: hd, sla: {availability: 0.999, p95: {mos: 3.9}}}
  - between: [br, "*"]
    transport: tls
    verdict: {rtt_ms: {warn: 400}, mos: {warn: 3.4, bad: 2.9}}
  - {between: [[sg, de], cn], every: never}
mesh: {every: 1m}
edges: {every: 1h}
budget: {calls_a_run: 4, seconds_a_run: 40, cpu_seconds_an_hour: 600, parallel: 1}
sla: {availability: 0.99, coverage: 0.5, p95: {rtt_ms: 500}}
"""


def with_probes(tmp_path: Path, text: str) -> Path:
    folder = samples.write(tmp_path)
    (folder / "probes.yaml").write_text(text, encoding="utf-8")
    return folder


def test_without_the_file_nothing_is_probed_by_itself(tmp_path: Path) -> None:
    found = load(samples.write(tmp_path)).probes
    assert found == Probes() and found.scheduled() == () and found.overrides("sg", "de") == {}


def test_a_pair_is_whose_first_row_it_is_and_has_what_that_says(tmp_path: Path) -> None:
    found = load(with_probes(tmp_path, WHOLE)).probes
    assert [(pair.a, pair.b, pair.every_s) for pair in found.pairs] == [
        ("sg", "cn", 300), ("br", "sg", 600), ("br", "de", 600), ("br", "cn", 600), ("de", "cn", None),
    ]  # fmt: skip
    assert len(found.scheduled()) == 4
    first = found.pair("cn", "sg")
    promised = Objective(0.999, 0.5, {"rtt_ms": 500, "mos": 3.9})
    lines = {"rtt_ms": (300, 600), "setup_ms": (None, 3000)}
    assert first == ProbePair("sg", "cn", 300, "hd", 6, "udp", "high", lines, promised)
    assert (found.mesh_every_s, found.edges_every_s) == (60, 3600)
    assert found.budget == Budget(4, 40, 600, 1)


def test_lines_of_a_pair_are_laid_over_those_of_all(tmp_path: Path) -> None:
    found = load(with_probes(tmp_path, WHOLE)).probes
    own = {"rtt_ms": (400, 600), "setup_ms": (None, 3000), "mos": (3.4, 2.9)}
    assert found.overrides("de", "br") == found.overrides("br", "de") == own
    assert found.overrides("sg", "de") == found.overrides(None, "de") == found.verdict
    assert found.objective_of("sg", "de") == Objective(0.99, 0.5, {"rtt_ms": 500})
    assert judge.limits(found.overrides("de", "br"))["rtt_ms"].warn == 400


def test_it_knows_the_words_of_the_probes() -> None:
    assert set(probes.PROFILES) == set(PROFILES) and probes.TRANSPORTS == TRANSPORTS
    assert set(probes.FIGURES) == set(judge.LIMITS)
    assert set(probes.FLOORS) == {name for name, limit in judge.LIMITS.items() if limit.is_floor}
    assert probes.MOST_CALL_S == MOST_SECONDS


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pears: []", '1: unknown key "pears"; did you mean "pairs"?'),
        ("pairs: {sg: de}", "1: pairs must be a list of pairs, not a mapping"),
        ("pairs:\n  - [sg, de]", "2: pair: must be a mapping, not a list"),
        ("pairs:\n  - {every: 5m}", '2: pair: between must have two sides, such as [ae, kr] or [ae, "*"]'),
        ("pairs:\n  - between: [sg, d]", '2: pair: unknown market "d"'),
        ("pairs:\n  - between: [sg, 3]", "2: pair: between must hold markets, not a number"),
        ("pairs:\n  - between: [sg, sg]", "2: pair: between names no two different markets"),
        ("pairs:\n  - between: [sg, []]", "2: pair: between names no two different markets"),
        ('pairs:\n  - between: [[sg, "*"], de]', '2: pair: "*" is every market: it stands alone on its side'),
        (
            'pairs:\n  - between: ["*", "*"]\n    every: 1h\n  - {between: [de, sg], every: 5m}',
            "4: pair: rows above name all of it already, and the first row that names two markets is theirs",
        ),
        ("pairs:\n  - {between: [sg, de], ever: 5m}", '2: pair: unknown key "ever"; did you mean "every"?'),
        ("defaults: {every: 300}", f"1: defaults: every must be {duration.HOW}; or never"),
        ("defaults: {every: 5 m}", f"1: defaults: every must be {duration.HOW}; or never"),
        ("mesh: {every: 30s}", "1: mesh: every must be 1m to 7d, or never"),
        ("edges: {every: 8d}", "1: edges: every must be 1m to 7d, or never"),
        ("mesh: 1m", "1: mesh: must be a mapping, not text"),
        ("defaults: {profile: uhd}", '1: defaults: unknown profile "uhd"; did you mean "hd"?'),
        ("defaults: {transport: quic}", '1: defaults: unknown transport "quic"'),
        ("defaults: {seconds: 601}", "1: defaults: seconds must be 1 to 600"),
        ("pairs:\n  - {between: [sg, de], importance: top}", '2: pair: unknown importance "top"'),
        ("verdict: {rtt: {warn: 1}}", '1: verdict: unknown figure "rtt"; did you mean "rtt_ms"?'),
        ("verdict: {rtt_ms: 300}", "1: verdict: rtt_ms: must be a mapping, not a number"),
        ("verdict: {rtt_ms: {}}", "1: verdict: rtt_ms: has neither warn nor bad: it draws no line"),
        ("verdict: {rtt_ms: {worn: 3}}", '1: verdict: rtt_ms: unknown key "worn"; did you mean "warn"?'),
        ("verdict: {loss: {warn: 3}}", "1: verdict: loss: warn must be 0 to 1"),
        ("verdict: {mos: {bad: 0.5}}", "1: verdict: mos: bad must be 1 to 4.5"),
        ("verdict: {rtt_ms: {warn: 9, bad: 8}}", "1: verdict: rtt_ms: warn (9) must not be above bad (8)"),
        ("verdict: {mos: {warn: 3, bad: 3.5}}", "1: verdict: mos: warn (3) must not be below bad (3.5)"),
        (
            "verdict:\n  loss: {bad: 0.1}\npairs:\n  - between: [sg, de]\n    verdict:\n      loss: {warn: 0.2}",
            "6: pair: verdict: loss: warn (0.2) must not be above bad (0.1)",
        ),
        ("budget: {calls_a_run: 0}", "1: budget: calls_a_run must be 1 to 1000"),
        ("budget: {parallel: 1.5}", "1: budget: parallel must be a whole number, not a number"),
        ("budget: {cpu: 3}", '1: budget: unknown key "cpu"; did you mean "cpu_seconds_an_hour"?'),
        ("sla: {availability: 99.5}", "1: sla: availability must be 0 to 1"),
        (
            "sla: {availability: 1}",
            "1: sla: availability must be a share between 0 and 1, such as 0.995: with 1 there is no budget to spend",
        ),
        ("sla: {p95: {pesq: 3}}", '1: sla: p95: unknown figure "pesq"'),
        ("sla: {p95: {mos: 5}}", "1: sla: p95: mos must be 1 to 4.5"),
        ("sla: {uptime: 0.9}", '1: sla: unknown key "uptime"'),
        (
            'budget: {calls_a_run: 1}\npairs:\n  - {between: ["*", "*"], every: 1m}',
            "2: pairs ask for 360 calls an hour, and the budget's calls_a_run: 1 makes 60 at most, with a run a minute",
        ),
        (
            "pairs:\n  - {between: [sg, de], seconds: 60}",
            "1: calls between sg-de are longer than the budget's seconds_a_run: 50",
        ),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, error: str) -> None:
    assert errors_of(with_probes(tmp_path, text + "\n")) == [f"probes.yaml:{error}"]


def test_a_slip_in_it_keeps_nobody_from_anything_else(tmp_path: Path) -> None:
    folder = with_probes(tmp_path, "pears: []\n")
    assert "sg-1" in load(folder).nodes
    (folder / "zones.yaml").write_text("zones: []\n", encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load(folder)
    assert {error.rpartition("/")[2].partition(":")[0] for error in caught.value.errors} == {
        "probes.yaml",
        "zones.yaml",
    }


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = "pairs:\n  - {between: [sg, xx], every: soon}\nbudget: {parallel: 0}\nsla: {coverage: 2}\n"
    assert len(errors_of(with_probes(tmp_path, text))) == 4


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86_400), ("4w", 2_419_200), ("0s", 0)],
)
def test_lengths_of_time(text: str, seconds: int) -> None:
    assert duration.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 m", "1h30m", "1.5h", "5M", "9999999s", "٣m"])
def test_what_is_no_length_of_time(text: str) -> None:
    assert duration.seconds(text) is None


@pytest.mark.parametrize(("seconds", "text"), [(60, "1m"), (90, "90s"), (7200, "2h"), (2_592_000, "30d")])
def test_lengths_of_time_shown(seconds: int, text: str) -> None:
    assert duration.shown(seconds) == text
