"""Requests for what parity mends are left alone, all others are answered."""

from __future__ import annotations

from commcli.relay.protect import mending
from commcli.relay.protect.mending import Mending

RTT_S = 0.1


def block_of_ten(m: int = 1) -> Mending:
    """Data 100..109, parities from 110 on."""
    found = Mending()
    found.block(range(100, 110), range(110, 110 + m))
    return found


def test_what_is_in_no_block_is_answered() -> None:
    assert block_of_ten().to_answer([7, 300], 1.0, RTT_S) == [7, 300]


def test_as_many_losses_as_parities_are_left_to_them() -> None:
    found = block_of_ten(2)
    assert found.to_answer([103], 1.0, RTT_S) == []
    assert found.to_answer([108], 1.01, RTT_S) == []
    assert found.left_alone == 2


def test_one_more_and_all_of_them_are_answered() -> None:
    found = block_of_ten()
    assert found.to_answer([103], 1.0, RTT_S) == []
    assert found.to_answer([104], 1.01, RTT_S) == [103, 104]
    assert found.to_answer([109], 1.02, RTT_S) == [109]


def test_a_lost_parity_counts_and_is_not_sent_again() -> None:
    found = block_of_ten()
    assert found.to_answer([110], 1.0, RTT_S) == []
    assert found.to_answer([105], 1.01, RTT_S) == [105]
    assert found.to_answer([110], 1.02, RTT_S) == []


def test_a_request_doubled_in_a_hurry_is_left_alone_too() -> None:
    found = block_of_ten()
    assert found.to_answer([103], 1.0, RTT_S) == []
    assert found.to_answer([103], 1.02, RTT_S) == []


def test_a_request_after_a_round_trip_is_answered_for_parity_did_not_help() -> None:
    found = block_of_ten()
    assert found.to_answer([103], 1.0, RTT_S) == []
    assert found.to_answer([103], 1.13, RTT_S) == [103]
    assert found.to_answer([103], 1.26, RTT_S) == [103]


def test_an_answer_that_was_lost_is_repeated() -> None:
    found = block_of_ten()
    assert found.to_answer([103, 104], 1.0, RTT_S) == [103, 104]
    assert found.to_answer([104], 1.02, RTT_S) == [104]  # in a hurry: the only round that there is time for
    assert found.to_answer([104], 1.13, RTT_S) == [104]


def test_blocks_that_are_filled_in_turn_are_told_apart() -> None:
    found = Mending()
    found.block(range(100, 110, 2), [110])
    found.block(range(101, 110, 2), [111])
    assert found.to_answer([100, 101], 1.0, RTT_S) == []
    assert found.to_answer([103], 1.01, RTT_S) == [101, 103]


def test_old_blocks_are_forgotten_and_their_requests_answered() -> None:
    found = Mending()
    for number in range(mending.MOST_BLOCKS + 100):
        found.block(range(number * 10, number * 10 + 9), [number * 10 + 9])
    assert found.figures() == {"entries": mending.MOST_BLOCKS, "most_entries": mending.MOST_BLOCKS}
    assert found.to_answer([5], 1.0, RTT_S) == [5]
    assert found.to_answer([mending.MOST_BLOCKS * 10], 1.0, RTT_S) == []
