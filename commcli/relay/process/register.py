"""Which relay ports of this node are live, and whose: memory that the processes of one relay share.

    users   u64 a port and family: keyed hash of the allocation's user; of a reserved port that of its token; 0: free
    owners  u16 a port and family: 1 + the number of the worker that has an allocation there; 0: none has
    live    u64 a worker: its allocations
    beats   u64 a worker: grows while its loop turns
    deaths  u64 a worker: how often it died; the parent's to write

There are no locks: a cell is one machine word and has one writer, the worker whose allocation it is; the binding of the
port's socket decides whose that is. So a look at the whole is a moment old: two workers that count the last place of a
quota at the same instant both give it away (one too many a worker, and only then).
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from typing import Callable, Dict, Optional, Sequence, Tuple

from commcli.relay.clients.udp import Addr, RelayPool
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.auth import Client

_WORD = struct.Struct("=Q")
_SECOND = 1  # in `users`: the allocation's other address, so that it counts once


class Register:
    """The whole memory. Make it before the first fork."""

    def __init__(self, addresses: Sequence[str], ports: Tuple[int, int], workers: int) -> None:
        """`addresses`: one a family."""
        low, high = ports
        self._low, self._span, self._addresses = low, high + 1 - low, tuple(addresses)
        self._rows = {address: number * self._span for number, address in enumerate(addresses)}
        cells = self._span * len(addresses)
        self._memory = mmap.mmap(-1, 8 * (cells + 3 * workers) + 2 * cells)  # shared with children, all zero
        words = memoryview(self._memory)[: 8 * (cells + 3 * workers)].cast("Q")
        self.users = words[:cells]
        self.live, self.beats, self.deaths = (
            words[start : start + workers] for start in range(cells, len(words), workers)
        )
        self.owners = memoryview(self._memory)[8 * len(words) :].cast("H")
        self._key = os.urandom(32)

    def owner(self, relay: Addr) -> Optional[int]:
        """The worker that has a live allocation at this relayed address."""
        cell = self._cell(relay)
        owner = 0 if cell is None else self.owners[cell]
        return owner - 1 if owner else None

    def is_live(self, relay: Addr) -> bool:
        """Has any worker a live allocation at this address?"""
        return self.owner(relay) is not None

    def is_reserved(self, relay: Addr) -> bool:
        """Is this port held for whoever shows its token?"""
        cell = self._cell(relay)
        return cell is not None and self.users[cell] > _SECOND and not self.owners[cell]

    def sessions(self) -> int:
        """Live allocations of the node."""
        return sum(self.live)

    def restarts(self) -> int:
        """Processes that died, and so were started again, since the start."""
        return sum(self.deaths)

    def sessions_of(self, user: str) -> int:
        """Those of one user."""
        return bytes(self.users).count(_WORD.pack(self._mark(user)))

    def enter(self, relay: Addr, worker: int, user: Optional[str]) -> None:
        """An allocation of `worker` lives at `relay`; `user` None: this is its second address."""
        cell = self._rows[relay[0]] + relay[1] - self._low
        self.users[cell] = _SECOND if user is None else self._mark(user)
        self.owners[cell] = worker + 1

    def leave(self, relay: Addr) -> None:
        """It no longer does."""
        cell = self._rows[relay[0]] + relay[1] - self._low
        self.owners[cell] = self.users[cell] = 0

    def counts(self, relay: Addr) -> bool:
        """Does the allocation count for its user at this one of its addresses?"""
        return self.users[self._rows[relay[0]] + relay[1] - self._low] > _SECOND

    def reserve(self, relay: Addr, token: bytes, user: str) -> None:
        """Hold this port, where nothing is bound, for this user with this token."""
        self.users[self._rows[relay[0]] + relay[1] - self._low] = self._mark(user, token)

    def reserved(self, token: bytes, user: str) -> Optional[Addr]:
        """The port that is held for them."""
        mark, held, at = _WORD.pack(self._mark(user, token)), bytes(self.users), -1
        while True:
            at = held.find(mark, at + 1)
            if at < 0:
                return None
            if at % 8 == 0:
                row, port = divmod(at // 8, self._span)
                return self._addresses[row], self._low + port

    def clear(self, worker: int, is_of: Callable[[int], bool]) -> None:
        """Worker `worker` died (counted), and all that it had is gone; `is_of(port)`: is that port of its slice?"""
        for cell, owner in enumerate(self.owners):
            held = not owner and self.users[cell] and is_of(self._low + cell % self._span)
            if held or owner == worker + 1:
                self.owners[cell] = self.users[cell] = 0
        self.live[worker] = self.beats[worker] = 0
        self.deaths[worker] += 1

    def _cell(self, relay: Addr) -> Optional[int]:
        row, port = self._rows.get(relay[0]), relay[1] - self._low
        return row + port if row is not None and 0 <= port < self._span else None

    def _mark(self, user: str, token: bytes = b"") -> int:
        person = b"token" if token else b"user"
        text = bytes([len(token)]) + token + user.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2s(text, key=self._key, person=person, digest_size=8).digest()
        return int.from_bytes(digest, "little") | _SECOND + 1


class LiveRelays(Dict[Addr, Allocation]):
    """`turn.Server.by_relay` of one worker, which the others see in the register."""

    def __init__(self, register: Register, worker: int, allocations: Dict[Client, Allocation]) -> None:
        super().__init__()
        self._register, self._worker, self._allocations = register, worker, allocations

    def __setitem__(self, relay: Addr, allocation: Allocation) -> None:
        super().__setitem__(relay, allocation)
        is_first = relay == allocation.relays[0]
        self._register.enter(relay, self._worker, allocation.user if is_first else None)
        self._register.live[self._worker] = len(self._allocations)

    def __delitem__(self, relay: Addr) -> None:
        allocation = self[relay]
        super().__delitem__(relay)
        counted = self._register.counts(relay)
        self._register.leave(relay)
        rest = [other for other in allocation.relays if other in self]
        if counted and rest:
            self._register.enter(rest[0], self._worker, allocation.user)
        self._register.live[self._worker] = len(self._allocations)


class Census:
    """The register as `turn.Sisters`: what a TURN server asks of all workers of its node."""

    def __init__(self, register: Register, pool: RelayPool) -> None:
        self._register, self._pool = register, pool
        self.sessions, self.sessions_of = register.sessions, register.sessions_of

    def offer(self, token: bytes, user: str, relay: Addr) -> None:
        """Give a port up for whoever shows its token, to whichever worker: held, but not bound."""
        self._register.reserve(relay, token, user)
        self._pool.close(relay)

    def offered(self, token: bytes, user: str) -> bool:
        """Is the port of this token still to be had?"""
        return self._register.reserved(token, user) is not None

    def redeem(self, token: bytes, user: str) -> Optional[Addr]:
        """Open the port of a token; None if there is none, or if it is taken."""
        relay = self._register.reserved(token, user)
        return relay if relay is not None and self._pool.take(relay) else None

    def withdraw(self, token: bytes, user: str) -> None:
        """Hold it no longer."""
        relay = self._register.reserved(token, user)
        if relay is not None:
            self._register.leave(relay)
