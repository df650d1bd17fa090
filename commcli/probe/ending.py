"""Why a call's endpoint gives up. Pure."""

from __future__ import annotations

from typing import Literal

# call: the edge or the network; busy: this node is in as many calls as it may be; node: its own trouble otherwise.
Kind = Literal["call", "busy", "node"]


class Ended(Exception):
    """The call cannot go on; the text says why and goes to the controller. Only kind "call" is about the network."""

    def __init__(self, reason: str, kind: Kind = "call") -> None:
        super().__init__(reason)
        self.kind = kind
