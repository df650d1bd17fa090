"""Clients allocate, reserve, bind, send, wait, vanish and talk rubbish, in any order, while the operator changes his
mind: the tables, the quotas and the pool of ports tell one story after every step, and in the end all is given back."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.fuzz.playground import CLIENTS, PEERS, WISHES, Playground, Program

CLIENT = st.integers(0, len(CLIENTS) - 1)
# Mostly the same one: then it also gets somewhere.
USER = st.sampled_from([0, 0, 0, 1])
PEER = st.integers(0, len(PEERS) - 1)
PAYLOAD = st.binary(max_size=8)


def _string(text: bytes) -> bytes:
    return bytes([len(text)]) + text


class Churn(RuleBasedStateMachine):
    """Steps of the playground, told apart by name so that a failure reads as a story."""

    def __init__(self) -> None:
        super().__init__()
        self.ground = Playground()

    @rule(
        client=CLIENT,
        user=USER,
        wishes=st.sets(st.integers(0, len(WISHES) - 1), max_size=2),
        redeem=st.booleans(),
    )
    def allocate(self, client: int, user: int, wishes: set[int], redeem: bool) -> None:
        chosen = 0x80 if redeem else sum(1 << wish for wish in wishes)
        self.ground.allocate(Program(bytes([chosen, client, user])))

    @rule(client=CLIENT, user=USER, number=st.integers(0, 5), peer=PEER)
    def bind(self, client: int, user: int, number: int, peer: int) -> None:
        self.ground.bind(Program(bytes([number, peer, client, user])))

    @rule(client=CLIENT, user=USER, peers=st.integers(0, 15))
    def permit(self, client: int, user: int, peers: int) -> None:
        self.ground.permit(Program(bytes([peers, client, user])))

    @rule(client=CLIENT, user=USER, lifetime=st.integers(0, 3), family=st.sampled_from([None, 0, 1]))
    def refresh(self, client: int, user: int, lifetime: int, family: int | None) -> None:
        only = [0] if family is None else [1, family]
        self.ground.refresh(Program(bytes([lifetime, *only, client, user])))

    @rule(client=CLIENT, peer=PEER, payload=PAYLOAD)
    def send(self, client: int, peer: int, payload: bytes) -> None:
        self.ground.send(Program(bytes([peer]) + _string(payload) + bytes([client])))

    @rule(client=CLIENT, number=st.integers(0, 3), payload=PAYLOAD, lie=st.sampled_from([1, 1, 0, 2]))
    def channel(self, client: int, number: int, payload: bytes, lie: int) -> None:
        self.ground.channel(Program(bytes([number]) + _string(payload) + bytes([lie, client])))

    @rule(client=CLIENT, peer=PEER, payload=PAYLOAD)
    def from_peer(self, client: int, peer: int, payload: bytes) -> None:
        self.ground.from_peer(Program(bytes([client, peer]) + _string(payload)))

    @rule(client=CLIENT, junk=st.binary(max_size=60))
    def rubbish(self, client: int, junk: bytes) -> None:
        self.ground.rubbish(Program(_string(junk) + bytes([client])))

    @rule(client=CLIENT, user=USER, method=st.integers(0, 5), attributes=st.binary(max_size=60))
    def request(self, client: int, user: int, method: int, attributes: bytes) -> None:
        self.ground.request(Program(bytes([method]) + _string(attributes) + bytes([client, user])))

    @rule(what=st.integers(0, 5), sweep=st.booleans())
    def passes(self, what: int, sweep: bool) -> None:
        self.ground.passes(Program(bytes([what, sweep])))

    @rule(client=CLIENT)
    def vanish(self, client: int) -> None:
        self.ground.vanish(Program(bytes([client])))

    @rule(what=st.integers(0, 3), how=st.booleans())
    def operate(self, what: int, how: bool) -> None:
        self.ground.operate(Program(bytes([what, how])))

    @invariant()
    def one_story(self) -> None:
        self.ground.check()

    def teardown(self) -> None:
        self.ground.end()


TestChurn = Churn.TestCase
TestChurn.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
