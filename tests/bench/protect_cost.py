"""What protection costs a packet, in one process and without any socket: codes, blocks, repeats, copies, classes.

The median of the rounds and their spread, in CPU time, on this machine; parity by decoders that are told the worst (as
many data lost as there are parities). Run it with the python of a node:
`python3 -m tests.bench.protect_cost [ROUNDS]`
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from functools import partial

from commcli.relay.protect import gf256
from commcli.relay.protect.classes import Classifier
from commcli.relay.protect.copies import Copies
from commcli.relay.protect.parity import Blocks, Rebuilder
from commcli.relay.protect.resend import Sent, Wanted, pack, unpack
from tests.bench import figures

ROUNDS = 7
PACKETS = 4000
SIZES = (200, 1100)
CODES = ((10, 1), (8, 2), (8, 4), (20, 3))
FIRST = 1_767_225_600_000_000
TARGET_KEEP, TARGET_WORD = 0.7, 0.3

Shards = list[bytes]


def _us_a_packet(run: Callable[[], int], rounds: int) -> list[float]:
    """CPU time of `run`, which says how many packets it handled."""
    costs = []
    for _ in range(rounds):
        began = time.process_time()
        packets = run()
        costs.append(1e6 * (time.process_time() - began) / packets)
    return costs


def _line(what: str, run: Callable[[], int], rounds: int, at_most: float | None = None) -> None:
    costs = _us_a_packet(run, rounds)
    figures.line(what, figures.spread(costs) + " us a packet", sorted(costs)[len(costs) // 2], at_most, "us")


def _packets(size: int) -> Shards:
    source = random.Random(size)
    return [source.getrandbits(8 * size).to_bytes(size, "big") for _ in range(PACKETS)]


def _by_table(k: int, m: int, shards: Shards) -> Shards:
    """The other way to code: a table lookup for each coefficient."""
    parities = []
    for row in gf256.ROWS[:m]:
        total = 0
        for column in range(k):
            shard, coefficient = shards[column], row[column]
            scaled = shard if coefficient == 1 else shard.translate(gf256.SCALE[coefficient])
            total ^= int.from_bytes(scaled, "little")
        parities.append(total.to_bytes(len(shards[0]), "little"))
    return parities


def _codes(size: int, rounds: int) -> None:
    packets = _packets(size)
    for k, m in CODES:
        blocks = [packets[start : start + k] for start in range(0, PACKETS - k + 1, k)]
        code = gf256.code(k, m)
        lossy = [dict(enumerate(block[m:] + code.encode(block), m)) for block in blocks]
        name = f"XOR({k},1)" if m == 1 else f"RS({k},{m})"

        def encode(blocks: list[Shards] = blocks, encode: Callable[[Shards], Shards] = code.encode) -> int:
            for block in blocks:
                encode(block)
            return len(blocks) * len(blocks[0])

        def by_table(blocks: list[Shards] = blocks, k: int = k, m: int = m) -> int:
            for block in blocks:
                _by_table(k, m, block)
            return len(blocks) * k

        def decode(lossy: list[dict[int, bytes]] = lossy, code: gf256.ReedSolomon = code) -> int:
            for shards in lossy:
                code.decode(shards)
            return len(lossy) * code.k

        _line(f"{name}, {size} B: encode", encode, rounds)
        _line(f"{name}, {size} B: encode, a table a coefficient", by_table, rounds)
        _line(f"{name}, {size} B: decode, {m} lost", decode, rounds)


def _parity(size: int, rounds: int) -> None:
    packets = _packets(size)

    def add(k: int, m: int) -> int:
        blocks = Blocks()
        blocks.use(k, m, 1.0)
        for number, datagram in enumerate(packets):
            blocks.add(FIRST + number, datagram, 10 + number / 1000)
        return PACKETS

    def idle() -> int:
        blocks = Blocks()
        blocks.use(1, 0, 0.0)
        for number, datagram in enumerate(packets):
            blocks.add(FIRST + number, datagram, 10.0)
        return PACKETS

    def keep() -> int:
        rebuilder = Rebuilder()
        for number, datagram in enumerate(packets):
            rebuilder.keep(FIRST + number, datagram, 10 + number / 1000)
        return PACKETS

    blocks = Blocks()
    blocks.use(10, 1, 1.0)
    made = [blocks.add(FIRST + number, datagram, 0.0) for number, datagram in enumerate(packets)]

    def rebuild(lost: int) -> int:
        """Of each ten, `lost` (0 or 1) are lost."""
        rebuilder = Rebuilder()
        for number, datagram in enumerate(packets):
            if number % 10 or not lost:
                rebuilder.keep(FIRST + number, datagram, 10 + number / 1000)
            for body in made[number]:
                rebuilder.parity(body, 10 + number / 1000)
        if rebuilder.rebuilt != lost * PACKETS // 10:
            raise RuntimeError(f"rebuilt {rebuilder.rebuilt}")
        return PACKETS

    _line(f"Blocks.add, off, {size} B", idle, rounds)
    for k, m in CODES:
        _line(f"Blocks.add, ({k},{m}), {size} B, parities and all", partial(add, k, m), rounds)
    _line(f"Rebuilder.keep, {size} B", keep, rounds, TARGET_KEEP)
    _line(f"Rebuilder, (10,1), {size} B, none lost", partial(rebuild, 0), rounds)
    _line(f"Rebuilder, (10,1), {size} B, one in ten lost", partial(rebuild, 1), rounds)


def _repeats(size: int, rounds: int) -> None:
    packets = _packets(size)

    def keep() -> int:
        keep = Sent().keep
        for number, datagram in enumerate(packets):
            keep(FIRST + number, datagram, 10 + number / 10000)
        return PACKETS

    def again() -> int:
        sent = Sent()
        for number, datagram in enumerate(packets):
            sent.keep(FIRST + number, datagram, 10.0)
        for start in range(0, PACKETS, 20):
            sent.again(unpack(pack(range(FIRST + start, FIRST + start + 3))), 10.01)
        return PACKETS

    def copies() -> int:
        copies = Copies()
        copies.use(4, 0.05)
        for number, datagram in enumerate(packets):
            copies.add(datagram, 10 + number / 1000)
            copies.due(10 + number / 1000)
        return PACKETS

    _line(f"Sent.keep, {size} B", keep, rounds, TARGET_KEEP)
    _line(f"Sent.keep, and 3 in 20 asked for, {size} B", again, rounds)
    _line(f"Copies.add and due, {size} B", copies, rounds)


def _wanted(rounds: int) -> None:
    def due() -> int:
        """A packet a millisecond, one in twenty missing until 30 ms later."""
        wanted, missing = Wanted(), dict[int, float]()
        for number in range(PACKETS):
            now = 10 + number / 1000
            if number % 20 == 0:
                missing[FIRST + number] = now
            missing.pop(FIRST + number - 30, None)
            wanted.due(missing, now, 0.02)
        return PACKETS

    _line("Wanted.due, one in twenty missing", due, rounds)


def _classes(rounds: int) -> None:
    sizes = [random.Random(1).randrange(70, 130) for _ in range(PACKETS)]

    def audio() -> int:
        word = Classifier().word
        for number, size in enumerate(sizes):
            word(size, 10 + number / 50)
        return PACKETS

    def video() -> int:
        word = Classifier().word
        for number in range(PACKETS):
            word(1100, 10 + number // 10 / 30)
        return PACKETS

    def bursts() -> int:
        word_of_burst, burst = Classifier().word_of_burst, [1100] * 9 + [300]
        for number in range(PACKETS // 10):
            word_of_burst(burst, 10 + number / 30)
        return PACKETS

    _line("Classifier.word, audio", audio, rounds, TARGET_WORD)
    _line("Classifier.word, video", video, rounds, TARGET_WORD)
    _line("Classifier.word_of_burst, video, ten a burst", bursts, rounds, TARGET_WORD)


def main() -> None:
    """Print the cost of each, a packet of the media."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"protect_cost: python {sys.version.split()[0]}, {PACKETS} packets a round, {rounds} rounds")
    for size in SIZES:
        _codes(size, rounds)
    for size in SIZES:
        _parity(size, rounds)
        _repeats(size, rounds)
    _wanted(rounds)
    _classes(rounds)


if __name__ == "__main__":
    main()
