"""Authentication in the fewest round trips. asyncssh takes two more, each as long as the way to the node.

What it does about it is behind names that are not public. Where those are no longer so nothing breaks, and the round
trips are back: tests/remote/test_distance.py counts them.
"""

from __future__ import annotations

from typing import Any

import asyncssh

_SIGNED, _UNSIGNED = b"\1", b"\0"


def begin_with_a_signature(connection: Any) -> None:
    """To be called as authentication begins, with an SSHClientConnection.

    It would ask which methods there are first, by one that never works, and then whether a key would do, before
    it signs with it. It asks which after all if we have no key. A signature at once is allowed (RFC 4252, section 7);
    of a key of the agent's, or in a piece of hardware, it is asked for first, since each may want a person's hand.
    """
    if getattr(connection, "_auth_methods", None) == [b"none"]:
        connection._auth_methods = [b"publickey", b"none"]
    send = getattr(connection, "send_userauth_request", None)
    if send is None:
        return

    async def send_signed(method: bytes, *words: bytes, key: Any = None, trivial: bool = True) -> None:
        pair = getattr(getattr(connection, "_auth", None), "_keypair", None)
        if method == b"publickey" and words[:1] == (_UNSIGNED,) and _is_at_hand(pair):
            words, key, trivial = (_SIGNED, *words[1:]), pair, False
        await send(method, *words, key=key, trivial=trivial)

    connection.send_userauth_request = send_signed


def _is_at_hand(pair: Any) -> bool:
    is_ours: bool = isinstance(pair, asyncssh.SSHKeyPair) and not isinstance(pair, asyncssh.SSHAgentKeyPair)
    return is_ours and not pair.algorithm.startswith(b"sk-")
