from __future__ import annotations

import pytest

from commcli.relay.clients.admission import HalfOpen, Share, source_of


def test_a_full_house_loses_its_oldest() -> None:
    waiting: HalfOpen[int] = HalfOpen(3, 3)
    assert [waiting.enter(n, b"%d" % n) for n in range(3)] == [None] * 3
    assert waiting.enter(3, b"3") == 0
    waiting.leave(1)
    assert waiting.enter(4, b"4") is None
    assert waiting.enter(5, b"5") == 2
    assert len(waiting) == 3


def test_a_source_pushes_out_only_its_own() -> None:
    waiting: HalfOpen[int] = HalfOpen(100, 2)
    waiting.enter(0, b"honest")
    assert [waiting.enter(n, b"flood") for n in range(1, 6)] == [None, None, 1, 2, 3]
    assert 0 in waiting
    assert len(waiting) == 3


def test_a_source_at_its_limit_pushes_out_its_own_in_a_full_house_too() -> None:
    waiting: HalfOpen[int] = HalfOpen(3, 2)
    waiting.enter(0, b"honest")
    waiting.enter(1, b"flood")
    waiting.enter(2, b"flood")
    assert waiting.enter(3, b"flood") == 1
    assert 0 in waiting


def test_nothing_is_kept_of_who_left() -> None:
    waiting: HalfOpen[int] = HalfOpen(10, 10)
    for n in range(1000):
        waiting.enter(n, b"%d" % n)
        waiting.leave(n)
        waiting.leave(n)
    assert (len(waiting), waiting.sources()) == (0, 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_a_subscriber_is_one_source(one: str, other: str, same: bool) -> None:
    assert (source_of(one) == source_of(other)) is same


def test_a_share_is_of_time_and_not_of_pieces() -> None:
    share = Share(0.25, 0.01, 0.001, 0.0)
    assert share.allows(0.0)
    share.spend(0.05)  # one costly handshake
    assert not share.allows(0.1)  # 0.1 s later it has earned 0.025 s of the 0.04 s that it owes
    assert share.allows(0.17)


def test_a_share_saves_no_more_than_its_burst() -> None:
    share = Share(0.25, 0.01, 0.001, 0.0)
    pieces = 0
    while share.allows(1000.0):
        share.spend(0.0)
        pieces += 1
    assert pieces == 10
