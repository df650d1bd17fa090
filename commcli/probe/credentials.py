"""Time-limited TURN credentials from the fleet's shared secret: user `EXPIRY:userid`, password its HMAC. Pure.

As in draft-uberti-behave-turn-rest, which coturn, pion and our relay speak.
"""

from __future__ import annotations

from dataclasses import dataclass

from commcli.fleet.secrets import Secret
from commcli.relay.turn.auth import time_limited_password

USERID = "probe"
# A relay lets allocations of a userid with this ending bypass the overlay.
DIRECT = "+direct"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a TURN client needs. The username carries no secret, but a report has no use for it either."""

    username: str
    password: Secret


def mint(secret: Secret, *, expires_unix: float, direct: bool) -> Credentials:
    """Credentials that the relays accept until `expires_unix`. Of several secrets (lines) the first one mints."""
    username = f"{int(expires_unix)}:{USERID}{DIRECT if direct else ''}"
    key = secret.reveal().split("\n", 1)[0].strip()
    return Credentials(username, Secret(time_limited_password(key, username)))
