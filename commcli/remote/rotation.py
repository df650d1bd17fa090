"""Bringing relays from the keys that they hold to those of the inventory, in an order that refuses no packet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from commcli.fleet.model import Node
from commcli.remote import relayfiles
from commcli.remote.keyring import Holding, Keyring, Step
from commcli.remote.outcome import Failed, OnEvent, Outcome
from commcli.remote.play import Play
from commcli.remote.play import Step as PlayStep
from commcli.remote.run import PlayResult, run_play
from commcli.remote.ssh import Pool
from commcli.remote.survey import ask_all

# The running relay's own word that it uses the file, not only that the file is there.
TAKEN_UP_S = 20.0
# accept, send, retire, and a look at what came of it.
MOST_ROUNDS = 4

PLAY = Play(
    name="keys",
    about="the keys of the overlay, and that the running relay has taken them up",
    file="keys (built in)",
    variables={},
    steps=(
        PlayStep(
            "peers and keys",
            "file",
            "steps",
            {"path": "{{ base }}/etc/peers.json", "content": "{{ peers_json }}", "mode": "0600"},
            0,
            {},
        ),
        PlayStep(
            "relay holds them",
            "wait_for",
            "checks",
            {
                "socket": "{{ base }}/run/control.sock",
                "ask": "keys",
                "until": 'answer.ok and answer.digest == "{{ keys_digest }}"',
                "log": "{{ base }}/log/relay.log",
            },
            0,
            {},
            timeout_s=TAKEN_UP_S,
        ),
    ),
)


@dataclass(slots=True)
class Rotation:
    """What was done. `outcomes` are those of the last round: of the question if it was not answered by all, else of the
    play; `planned` is the step that a check found wanting; `held` what each node said last.
    """

    steps: list[tuple[Step, list[Outcome[PlayResult]]]] = field(default_factory=list)
    outcomes: Sequence[Outcome[Any]] = ()
    planned: Step | None = None
    held: Mapping[str, Holding] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every node holds what it should."""
        return self.planned is None and all(outcome.state == "done" for outcome in self.outcomes)


async def survey(
    ring: Keyring, nodes: Sequence[Node], *, pool: Pool, on_event: OnEvent | None = None
) -> tuple[list[Outcome[dict[str, Any]]], dict[str, Holding]]:
    """Ask the relays which keys they hold: every answer, and what those that answered hold."""
    answers = await ask_all(ring.fleet, nodes, "keys", pool=pool, on_event=on_event)
    return answers, {o.node: ring.holding(o.node, o.value["keys"]) for o in answers if o.value is not None}


async def rotate(
    ring: Keyring, nodes: Sequence[Node], *, pool: Pool, check: bool = False, on_event: OnEvent | None = None
) -> Rotation:
    """Step by step, each on all nodes that need it, until all hold what they should or one could not be reached.

    Safe to run again after whatever stopped it. Raises Refused (`Keyring.next_step`).
    """
    done = Rotation()
    for _ in range(MOST_ROUNDS):
        done.outcomes, done.held = await survey(ring, nodes, pool=pool, on_event=on_event)
        if len(done.held) < len(nodes):
            return done  # nobody sends with a key before everybody is known to have it
        step = ring.next_step(done.held)
        if check:
            done.planned = step
        if step is None or check:
            return done
        outcomes = await run_play(
            PLAY,
            [node for node in nodes if node.id in step.orders],
            pool,
            variables=partial(_variables, ring, step),
            on_event=on_event,
        )
        done.steps.append((step, outcomes))
        done.outcomes = outcomes
        if not done.complete:
            return done
    raise Failed("somebody else changes the keys at the same time")


def _variables(ring: Keyring, step: Step, node: Node) -> Mapping[str, object]:
    document = relayfiles.peers(ring.fleet, node, ring.masters(step.orders[node.id]))
    return relayfiles.peer_variables(document)
