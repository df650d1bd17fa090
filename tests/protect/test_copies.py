"""Spaced copies: after so many packets or so long, in order, and never a heap of them."""

from __future__ import annotations

from commcli.relay.protect.copies import MAX_BYTES, Copies


def test_a_copy_follows_after_so_many_packets() -> None:
    copies = Copies()
    copies.use(3, 1.0)
    went = []
    for number in range(6):
        copies.add(b"%d" % number, number / 1000)
        went.append(copies.due(number / 1000))
    assert went == [[], [], [], [b"0"], [b"1"], [b"2"]]


def test_a_copy_follows_after_so_long_if_no_packets_come() -> None:
    copies = Copies()
    copies.use(4, 0.06)
    copies.add(b"one", 10.0)
    copies.add(b"two", 10.02)
    assert copies.wish() == 10.06
    assert copies.due(10.05) == []
    assert copies.due(10.06) == [b"one"]
    assert copies.due(10.1) == [b"two"]
    assert copies.wish() is None


def test_packets_of_one_instant_have_copies_of_one_instant() -> None:
    copies = Copies()
    copies.use(2, 0.05)
    for name in (b"a", b"b", b"c", b"d"):
        copies.add(name, 1.0)
    assert copies.due(1.0) == [b"a", b"b"]
    assert copies.due(1.05) == [b"c", b"d"]


def test_off_at_first_and_off_at_once() -> None:
    copies = Copies()
    copies.add(b"one", 1.0)
    assert copies.due(9.0) == [] and copies.wish() is None
    copies.use(2, 0.05)
    copies.add(b"two", 1.0)
    copies.use(0, 0.0)
    assert copies.due(9.0) == [] and copies.figures()["bytes"] == 0


def test_a_spacing_that_shrinks_lets_the_old_ones_wait_for_theirs() -> None:
    copies = Copies()
    copies.use(3, 9.0)
    copies.add(b"one", 1.0)
    copies.use(1, 9.0)
    copies.add(b"two", 1.0)
    copies.add(b"three", 1.0)
    assert copies.due(1.0) == []
    copies.add(b"four", 1.0)
    assert copies.due(1.0) == [b"one", b"two", b"three"]


def test_it_is_bounded_and_drops_the_oldest() -> None:
    copies = Copies()
    copies.use(1000, 9.0)
    for number in range(500):
        copies.add(b"%d" % number + bytes(1000), 1.0)
        assert copies.figures()["bytes"] <= MAX_BYTES == copies.figures()["most_bytes"]
    went = copies.due(10.0)
    assert copies.dropped + len(went) == 500
    assert went[-1].startswith(b"499") and copies.figures()["datagrams"] == 0
