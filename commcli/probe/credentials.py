"""Time-limited TURN credentials from the fleet's shared secret: user `EXPIRY:userid`, password its HMAC. Pure.

As in draft-uberti-behave-turn-rest, which coturn, pion and our relay speak.
"""

from __future__ import annotations

from dataclasses import dataclass

from commcli.errors import BadInput
from commcli.fleet.model import Fleet
from commcli.fleet.secrets import Secret
from commcli.relay.turn.auth import time_limited_password

TURN_SECRET = "turn"
USERID = "probe"
# What relays do for a userid with these endings: bypass the overlay, pin the relay between the edges, repair nothing.
DIRECT, VIA, PLAIN = "+direct", "+via=", "+plain"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a TURN client needs. The username carries no secret, but a report has no use for it either."""

    username: str
    password: Secret


def turn_secret(fleet: Fleet) -> Secret:
    """What makes the fleet's TURN credentials. Raises BadInput where the inventory has none."""
    if TURN_SECRET not in fleet.secrets:
        raise BadInput(f"fleet {fleet.name}: secrets has no {TURN_SECRET!r}, which makes TURN credentials")
    return fleet.secrets[TURN_SECRET].read()


def mint(
    secret: Secret, *, expires_unix: float, direct: bool = False, via: str | None = None, plain: bool = False
) -> Credentials:
    """Credentials that the relays accept until `expires_unix`. Of several secrets (lines) the first one mints.

    via: the node that media must pass between the edges. plain: without the overlay's repair.
    """
    asked = (DIRECT if direct else "") + (f"{VIA}{via}" if via else "") + (PLAIN if plain else "")
    username = f"{int(expires_unix)}:{USERID}{asked}"
    key = secret.reveal().split("\n", 1)[0].strip()
    return Credentials(username, Secret(time_limited_password(key, username)))
