"""The sockets that a relay is known by: bound by itself, or those of the process before it."""

from __future__ import annotations

import socket
from typing import Callable, Dict, Mapping, Optional


class Sockets:
    """Every socket that outlives an upgrade, by a name that says what is bound, and to which address."""

    def __init__(self, offered: Optional[Mapping[str, socket.socket]] = None) -> None:
        """`offered`: what another process has bound for us."""
        self._offered: Dict[str, socket.socket] = dict(offered or {})
        self.opened: Dict[str, socket.socket] = {}

    def get(self, name: str, bind: Callable[[], socket.socket]) -> socket.socket:
        """The socket of this name: the one that is offered, else a new one by `bind`, whose errors it raises."""
        sock = self._offered.pop(name, None)
        if sock is None:
            sock = bind()
        sock.setblocking(False)
        self.opened[name] = sock
        return sock

    def close_unused(self) -> None:
        """Close what was offered and is wanted no more."""
        for sock in self._offered.values():
            sock.close()
        self._offered.clear()
