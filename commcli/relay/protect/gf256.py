"""XOR and systematic Reed-Solomon codes over GF(256), in whole shards at a time: big integers and `bytes.translate`.

A shard of n bytes, read little endian, is n field elements laid out in planes: bit b of element e is bit b * n + e of
the shard. So to multiply every element by x is one shift of a big integer, and what runs over the top is folded back
as x^8 = x^4 + x^3 + x^2 + 1, once for each parity. (A table and `translate` for each coefficient needs a conversion
from bytes for each, too, and that is most of the cost: RS(8,4) of 1100 bytes took 1.6 times as long, measured.)
The tables serve the scalars: the small matrices of a decoder.

The parity rows are those of a Cauchy matrix, column by column divided by the first row, so that this one is all ones
(one parity is the XOR) and any k of the k + m shards give the data (Bloemer et al., ICSI TR-95-048, 1995).
"""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import xor as _xor
from typing import Iterable, List, Mapping, Sequence, Tuple

MAX_DATA, MAX_PARITY = 32, 16
_POLYNOMIAL = 0x11D

# The second row, and for each further one its (point, factor): entry = factor * v / (1 + point * v) for v of the
# second row. Any distinct ones that are not zero would do (and no point that is 1 / v); a search found these to have
# few bits and low ones, where the columns and rows are that are used most: each bit is an XOR, each degree a shift.
_SECOND = (
    1, 4, 8, 2, 16, 5, 12, 21, 9, 28, 18, 20, 17, 25, 7, 3,
    6, 24, 19, 34, 48, 33, 32, 38, 66, 72, 88, 64, 74, 84, 36, 44,
)  # fmt: skip
_FURTHER = (
    (93, 184), (55, 173), (191, 237), (75, 102), (148, 228), (226, 174), (100, 202),
    (201, 28), (20, 123), (198, 118), (211, 111), (5, 77), (240, 115), (159, 158),
)  # fmt: skip

Groups = Tuple[Tuple[int, ...], ...]


def _tables() -> Tuple[bytes, ...]:
    """Entry a maps every byte b to a * b."""
    twice = bytes((b << 1) ^ (_POLYNOMIAL if b & 0x80 else 0) for b in range(256))
    tables = [bytes(256)] * 256
    power, table = 1, bytes(range(256))
    for _ in range(255):
        tables[power] = table
        power, table = twice[power], table.translate(twice)
    return tuple(tables)


SCALE = _tables()
INVERSE = bytes([0]) + bytes(SCALE[a].index(1) for a in range(1, 256))


def xor(blocks: Iterable[bytes]) -> bytes:
    """All of them, the shorter zero padded to the longest; empty for none."""
    total, longest = 0, 0
    for block in blocks:
        total ^= int.from_bytes(block, "little")
        longest = max(longest, len(block))
    return total.to_bytes(longest, "little")


def _row(index: int) -> bytes:
    """A row of the parity matrix, MAX_DATA coefficients."""
    if index == 0:
        return bytes([1]) * MAX_DATA
    if index == 1:
        return bytes(_SECOND)
    point, factor = _FURTHER[index - 2]
    return bytes(SCALE[factor][SCALE[v][INVERSE[1 ^ SCALE[point][v]]]] for v in _SECOND)


ROWS = tuple(_row(index) for index in range(MAX_PARITY))


def _groups(coefficients: Sequence[int]) -> Groups:
    """Which columns have bit b in their coefficient, from the highest b that any has down to 0."""
    return tuple(
        tuple(column for column, coefficient in enumerate(coefficients) if coefficient >> bit & 1)
        for bit in reversed(range(max(coefficients).bit_length()))
    )


@lru_cache(maxsize=MAX_DATA * MAX_PARITY)
def _parity_groups(index: int, k: int) -> Groups:
    return _groups(ROWS[index][:k])


def _weighted(groups: Groups, numbers: Sequence[int], plane: int) -> int:
    """The sum of coefficient * number over the columns; plane: bits in a plane."""
    total = 0
    for group in groups:
        total <<= plane
        for column in group:
            total ^= numbers[column]
    over = total >> 8 * plane
    while over:
        total ^= over ^ over << 2 * plane ^ over << 3 * plane ^ over << 4 * plane ^ over << 8 * plane
        over = total >> 8 * plane
    return total


class ReedSolomon:
    """k data shards and m parities, any k of which give the data. Never changes, so that `code` hands it out."""

    __slots__ = ("_parities", "k", "m")

    def __init__(self, k: int, m: int) -> None:
        """Raises ValueError for a k outside of 1..32 or an m outside of 1..16."""
        if not 1 <= k <= MAX_DATA or not 1 <= m <= MAX_PARITY:
            raise ValueError("no code of %d data and %d parity shards" % (k, m))
        self.k, self.m = k, m
        self._parities = [_parity_groups(index, k) for index in range(m)]

    def encode(self, shards: Sequence[bytes]) -> List[bytes]:
        """The m parities of k shards, as long as the longest; shorter ones count as zero padded.

        Raises ValueError for another number of shards.
        """
        if len(shards) != self.k:
            raise ValueError("%d shards for a code of %d" % (len(shards), self.k))
        longest = max(map(len, shards))
        numbers = [int.from_bytes(shard, "little") for shard in shards]
        sums = [reduce(_xor, numbers)]  # the first row is all ones
        sums += [_weighted(groups, numbers, longest) for groups in self._parities[1:]]
        return [total.to_bytes(longest, "little") for total in sums]

    def decode(self, shards: Mapping[int, bytes]) -> List[bytes]:
        """The k data shards: those at hand as they were given, the others as long as a parity.

        shards: by index, the data at 0.., the parities at k... Parities are of one length and no data is longer.
        Raises ValueError if they are not, for an index that does not exist, and for fewer than k shards.
        """
        k = self.k
        if len(shards) < k or not all(0 <= index < k + self.m for index in shards):
            raise ValueError("%d shards do not give %d" % (len(shards), k))
        missing = tuple(index for index in range(k) if index not in shards)
        if not missing:
            return [shards[index] for index in range(k)]
        parities = tuple(sorted(index - k for index in shards if index >= k)[: len(missing)])
        rebuilt = self._solve(shards, missing, parities)
        return [rebuilt[index] if index in rebuilt else shards[index] for index in range(k)]

    def _solve(
        self, shards: Mapping[int, bytes], missing: Tuple[int, ...], parities: Tuple[int, ...]
    ) -> Mapping[int, bytes]:
        length = len(shards[self.k + parities[0]])
        if any(len(shard) != length if index >= self.k else len(shard) > length
               for index, shard in shards.items()):  # fmt: skip
            raise ValueError("shards of different lengths")
        numbers = [int.from_bytes(shards.get(index, b""), "little") for index in range(self.k)]
        syndromes = [
            _weighted(self._parities[parity], numbers, length)
            ^ int.from_bytes(shards[self.k + parity], "little")
            for parity in parities
        ]
        return {
            index: _weighted(groups, syndromes, length).to_bytes(length, "little")
            for index, groups in zip(missing, _solution(missing, parities))
        }


@lru_cache(maxsize=512)
def code(k: int, m: int) -> ReedSolomon:
    """The code, made once. Raises ValueError as its constructor does."""
    return ReedSolomon(k, m)


@lru_cache(maxsize=1024)
def _solution(missing: Tuple[int, ...], parities: Tuple[int, ...]) -> Tuple[Groups, ...]:
    """How the missing data follow from the syndromes of these parities: rows of the inverse matrix."""
    size = len(missing)
    rows = [
        bytes(ROWS[parity][column] for column in missing) + bytes(int(i == j) for j in range(size))
        for i, parity in enumerate(parities)
    ]
    for column in range(size):
        pivot = next(index for index in range(column, size) if rows[index][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column] = rows[column].translate(SCALE[INVERSE[rows[column][column]]])
        for index, row in enumerate(rows):
            if index != column and row[column]:
                rows[index] = xor((row, lead.translate(SCALE[row[column]])))
    return tuple(_groups(row[size:]) for row in rows)
