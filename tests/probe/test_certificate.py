"""What is wrong with a certificate: by the words of OpenSSL in a real handshake, and by the certificate itself."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from commcli.probe import certificate
from commcli.probe.onnode.doors import Trust
from tests.probe.certificates import Authority, verified

DAY_S = 86400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def words(
    authority: Authority, names: Sequence[str], wanted: str, days: dict[str, float], *, trusted: bool = True
) -> list[str]:
    pair = authority.issue(names, **days)
    code, text = verified(pair, Trust(authority.pem if trusted else None).strict, wanted)
    found = certificate.read(pair.der)
    tls = {"verify_code": code, "verify_text": text}
    return [word for word, _ in certificate.problems(found, tls, wanted, time.time())]


@pytest.mark.parametrize(
    ("names", "wanted", "days", "expected"),
    [
        (["edge.test"], "edge.test", {}, []),
        (["edge.test"], "EDGE.test", {}, []),
        (["*.edge.test"], "a.edge.test", {}, []),
        (["*.edge.test"], "edge.test", {}, ["name"]),
        (["*.edge.test"], "a.b.edge.test", {}, ["name"]),
        (["127.0.0.1"], "127.0.0.1", {}, []),
        (["::1"], "0:0::1", {}, []),
        (["edge.test"], "127.0.0.1", {}, ["name"]),
        ([], "edge.test", {}, ["name"]),
        (["edge.test"], "edge.test", {"start_days": -9, "end_days": -2}, ["expired"]),
        (["edge.test"], "other.test", {"start_days": -9, "end_days": -2}, ["expired", "name"]),
        (["edge.test"], "edge.test", {"start_days": 2}, ["not-yet-valid"]),
    ],
)
def test_every_trouble_has_its_word(
    authority: Authority, names: list[str], wanted: str, days: dict[str, float], expected: list[str]
) -> None:
    assert words(authority, names, wanted, days) == expected
    # Where the CA is not believed OpenSSL says only that; what else is wrong is told all the same.
    assert words(authority, names, wanted, days, trusted=False) == [*expected, "untrusted"]


def test_the_days_left_go_below_zero(authority: Authority) -> None:
    found = certificate.read(authority.issue(["edge.test"], start_days=-9, end_days=-2).der)
    assert found is not None
    row = found.row(time.time())
    assert row["days_left"] == pytest.approx(-2, abs=0.01) and row["names"] == ["edge.test"]
    assert row["not_after_unix"] - row["not_before_unix"] == pytest.approx(7 * DAY_S, abs=2)


def test_one_that_nobody_can_read_is_bad(authority: Authority) -> None:
    assert certificate.read("bm9ib2R5") is None
    good, version = base64.b64decode(authority.issue(["edge.test"]).der), bytes.fromhex("a003020102")
    assert version in good
    strange = good.replace(version, version[:-1] + b"\x07", 1)
    assert certificate.read(base64.b64encode(strange).decode()) is None
    tls = {"verify_code": 0, "verify_text": ""}
    assert certificate.problems(None, tls, "edge.test", 0.0) == [
        ("unreadable", "nobody can read the certificate")
    ]


def test_a_chain_may_have_expired_above_a_good_certificate(authority: Authority) -> None:
    found = certificate.read(authority.issue(["edge.test"]).der)
    tls = {"verify_code": 10, "verify_text": "certificate has expired"}
    assert certificate.problems(found, tls, "edge.test", time.time()) == [
        ("expired", "a certificate of its chain: certificate has expired")
    ]


def test_looking_blindly_believes_anybody(authority: Authority) -> None:
    assert verified(authority.issue([], end_days=-0.5), Trust(None).blind, "edge.test") == (0, "")


def test_unset_the_machines_own_cas_are_believed(tmp_path: Path) -> None:
    from tests.probe import fleets

    assert certificate.ca_pem(fleets.fleet(fleets.node("a-1"))) is None
