"""Why a call's endpoint gives up. Pure."""

from __future__ import annotations


class Ended(Exception):
    """The call cannot go on; the text says why and goes to the controller.

    `untried`: it is this node's own trouble (busy, told nonsense), and says nothing of the network.
    """

    def __init__(self, reason: str, *, untried: bool = False) -> None:
        super().__init__(reason)
        self.untried = untried
