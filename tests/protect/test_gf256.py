"""GF(256) and the codes over it: any k of k + m shards give the data, bit for bit."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.protect import gf256
from commcli.relay.protect.gf256 import MAX_DATA, MAX_PARITY, ReedSolomon, code, xor


def slow_product(a: int, b: int) -> int:
    """As the textbook says: shift and add, reduced by x^8 + x^4 + x^3 + x^2 + 1."""
    total = 0
    for bit in range(8):
        if b >> bit & 1:
            total ^= a << bit
    for bit in range(14, 7, -1):
        if total >> bit & 1:
            total ^= 0x11D << (bit - 8)
    return total


def slow_parity(row: int, shards: list[bytes]) -> bytes:
    """A parity element by element, each gathered from its eight planes."""
    size = max(map(len, shards))
    numbers = [int.from_bytes(shard, "little") for shard in shards]
    total = 0
    for element in range(size):
        value = 0
        for column, number in enumerate(numbers):
            digits = sum((number >> (bit * size + element) & 1) << bit for bit in range(8))
            value ^= slow_product(gf256.ROWS[row][column], digits)
        total |= sum((value >> bit & 1) << (bit * size + element) for bit in range(8))
    return total.to_bytes(size, "little")


def test_the_tables_are_the_field_of_the_textbook() -> None:
    assert all(gf256.SCALE[a][b] == slow_product(a, b) for a in range(256) for b in range(256))
    assert all(slow_product(a, gf256.INVERSE[a]) == 1 for a in range(1, 256))


def test_the_first_row_is_the_xor_and_no_small_minor_is_zero() -> None:
    """The larger ones follow from the shape of the matrix; these would show a slip in its constants."""
    rows, product = gf256.ROWS, gf256.SCALE
    assert rows[0] == b"\1" * MAX_DATA
    assert all(value for row in rows for value in row)
    for (upper, lower), (i, j) in itertools.product(
        itertools.combinations(rows, 2), itertools.combinations(range(MAX_DATA), 2)
    ):
        assert product[upper[i]][lower[j]] != product[upper[j]][lower[i]]


def test_rows_are_of_a_cauchy_matrix() -> None:
    """1 / (x + y) times a factor a row, with all x and y different: every minor of such a one is not zero."""
    points = [0, *(point for point, _ in gf256._FURTHER)]
    columns = [gf256.INVERSE[value] for value in gf256._SECOND]
    assert len({*points, *columns}) == MAX_PARITY - 1 + MAX_DATA
    for row, point in zip(gf256.ROWS[1:], points, strict=True):
        factors = {gf256.SCALE[value][point ^ column] for value, column in zip(row, columns, strict=True)}
        assert len(factors) == 1 and factors != {0}


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_xor_is_bytewise_and_pads_with_zeros(blocks: list[bytes]) -> None:
    longest = max(map(len, blocks), default=0)
    expected = bytearray(longest)
    for block in blocks:
        for index, byte in enumerate(block):
            expected[index] ^= byte
    assert xor(blocks) == bytes(expected)


@given(st.data(), st.integers(1, 6), st.integers(1, 5))
def test_parities_are_as_the_textbook_computes_them(data: st.DataObject, k: int, m: int) -> None:
    shards = data.draw(st.lists(st.binary(min_size=1, max_size=12), min_size=k, max_size=k))
    assert code(k, m).encode(shards) == [slow_parity(row, shards) for row in range(m)]


def test_one_parity_is_the_xor() -> None:
    shards = [b"abc", b"de", b"fghij"]
    assert code(3, 1).encode(shards) == [xor(shards)]


@given(st.data(), st.integers(1, MAX_DATA), st.integers(1, MAX_PARITY))
def test_any_k_shards_give_the_data(data: st.DataObject, k: int, m: int) -> None:
    source = data.draw(st.randoms(use_true_random=False))
    shards = [source.randbytes(source.randrange(1, 60)) for _ in range(k)]
    every = dict(enumerate(shards + code(k, m).encode(shards)))
    longest = max(map(len, shards))
    left = source.sample(sorted(every), source.randint(k, k + m))
    found = code(k, m).decode({index: every[index] for index in left})
    assert found == [
        shard if index in left else shard.ljust(longest, b"\0") for index, shard in enumerate(shards)
    ]


def test_every_way_to_lose_as_many_as_there_are_parities() -> None:
    shards = [random.Random(index).randbytes(17) for index in range(6)]
    every = dict(enumerate(shards + code(6, 4).encode(shards)))
    for left in itertools.combinations(every, 6):
        assert code(6, 4).decode({index: every[index] for index in left}) == shards


def test_too_few_or_strange_shards_are_refused() -> None:
    shards = [b"ab", b"cd", b"ef"]
    first, second = code(3, 2).encode(shards)
    for bad in (
        {0: b"ab", 3: first},
        {0: b"ab", 1: b"cd", 5: first},
        {0: b"ab", 1: b"cd", -1: first},
        {0: b"abc", 1: b"cd", 3: first},
        {0: b"ab", 3: first, 4: second + b"x"},
    ):
        with pytest.raises(ValueError):
            code(3, 2).decode(bad)
    with pytest.raises(ValueError):
        code(3, 2).encode(shards[:2])


@pytest.mark.parametrize(("k", "m"), [(0, 1), (33, 1), (1, 0), (1, 17), (-1, 2)])
def test_codes_that_do_not_exist_are_refused(k: int, m: int) -> None:
    with pytest.raises(ValueError):
        ReedSolomon(k, m)
