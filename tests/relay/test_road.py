"""What the end of a user id asks for, who may ask for it, and what stays out of a client's hands."""

from __future__ import annotations

import json
from collections.abc import Collection

import pytest

from commcli.fleet.secrets import Secret
from commcli.probe.credentials import USERID, mint
from commcli.relay.turn import road
from commcli.relay.turn.allocation import Allocation
from commcli.relay.turn.auth import road_of, time_limited_password, user_of
from commcli.relay.turn.road import NOWHERE, OVERLAY, Road
from commcli.relay.turn.stun import Addr
from tests.relay.test_challenge import _authenticator
from tests.relay.turn_world import CLIENT, PEER, UNIX, Client, World, config

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("userid", "user", "asked"),
    [
        ("probe", "probe", OVERLAY),
        ("probe+direct", "probe", Road(direct=True)),
        ("probe+plain", "probe", Road(plain=True)),
        ("probe+via=sg-1", "probe", Road(via="sg-1")),
        ("probe+via=sg-1+plain", "probe", Road(via="sg-1", plain=True)),
        ("probe+plain+via=sg-1", "probe", Road(via="sg-1", plain=True)),
        ("probe+direct+plain", "probe", Road(direct=True, plain=True)),
        ("probe+plain+plain", "probe", Road(plain=True)),
        # What contradicts itself, or names no node, leads nowhere and not somewhere else.
        ("probe+via=sg-1+via=hk-1", "probe", Road(via=NOWHERE)),
        ("probe+direct+via=sg-1", "probe", Road(via=NOWHERE)),
        ("probe+via=", "probe", Road(via=NOWHERE)),
        ("probe+via=" + "n" * 33, "probe", Road(via=NOWHERE)),
        # Nobody else may pin a relay or go unprotected.
        ("alice+direct", "alice", Road(direct=True)),
        ("alice+direct+direct", "alice", Road(direct=True)),
        ("alice+plain", "alice+plain", OVERLAY),
        ("alice+via=sg-1", "alice+via=sg-1", OVERLAY),
        ("alice+via=sg-1+direct", "alice+via=sg-1", Road(direct=True)),
        ("probe2+plain", "probe2+plain", OVERLAY),
        ("probe+work+plain", "probe+work+plain", OVERLAY),
        ("probe+work+direct", "probe+work", Road(direct=True)),
        ("+direct", "", Road(direct=True)),
        ("", "", OVERLAY),
    ],
)
def test_a_user_id_and_its_road(userid: str, user: str, asked: Road) -> None:
    for username in (userid, f"1800000000:{userid}"):
        assert user_of(username) == user
        assert road_of(username) == asked


def test_the_controller_and_the_relays_speak_of_the_same() -> None:
    assert road.PROBE == USERID
    for asked in (OVERLAY, Road(direct=True), Road(via="sg-1"), Road(plain=True), Road(False, "sg-1", True)):
        made = mint(Secret(SECRET), expires_unix=5, direct=asked.direct, via=asked.via, plain=asked.plain)
        assert road_of(made.username) == asked


@pytest.mark.parametrize(
    ("revoked", "userid", "is_out"),
    [
        (["probe"], "probe+via=sg-1+plain", True),
        (["probe+plain"], "probe+via=sg-1+plain", True),
        (["probe+plain+via=sg-1"], "probe+via=sg-1+plain", True),
        (["probe+via=sg-1"], "probe+via=sg-1", True),
        (["probe+via=hk-1", "probe+via=sg-1"], "probe+via=sg-1", True),
        (["probe+via=hk-1"], "probe+via=sg-1", False),
        (["probe+plain"], "probe", False),
        (["probe+plain", "probe+direct"], "probe+via=sg-1", False),
        (["alice"], "alice+plain", False),  # of anybody else it is a name
        (["alice+plain"], "alice+plain", True),
    ],
)
def test_revoking_a_user_revokes_its_roads(revoked: Collection[str], userid: str, is_out: bool) -> None:
    auth = _authenticator(revoked=list(revoked))
    assert auth.revokes(f"{int(UNIX) + 60}:{userid}") is is_out


def _client(world: World, userid: str, of: str | None = None, addr: Addr = CLIENT) -> Client:
    """With the password of another user id, if one is named."""
    username, signed = (f"{int(UNIX) + 5000}:{name}" for name in (userid, of or userid))
    return Client(world, username, time_limited_password(SECRET, signed), addr)


@pytest.mark.parametrize("userid", ["probe+via=sg-1", "probe+plain", "probe+direct", "probe"])
def test_a_client_can_not_choose_another_road(userid: str) -> None:
    world = World(config(secrets=[SECRET]))
    world.server.nodes = {"sg-1"}
    mine = "probe+plain+via=sg-1"
    assert _client(world, userid, of=mine).allocate().code == 401
    holder = _client(world, mine)
    assert holder.allocate().code is None
    assert holder.allocation.road == Road(via="sg-1", plain=True)
    other = _client(world, userid)
    codes = [other.refresh(600).code, other.permit(PEER[0]).code, other.bind().code]
    assert codes == [441] * 3
    assert holder.allocation.road == Road(via="sg-1", plain=True)


@pytest.mark.parametrize(
    ("userid", "code"),
    [
        ("probe+via=sg-1", None),
        ("probe+via=xx-1", 403),
        ("probe+via=", 403),
        ("probe+direct+via=sg-1", 403),
        ("alice+via=xx-1", None),
    ],
)
def test_who_is_pinned_to_nobody_is_refused(userid: str, code: int | None) -> None:
    world = World(config(secrets=[SECRET]))
    world.server.nodes = {"sg-1"}
    assert _client(world, userid).allocate().code == code


def test_all_roads_of_a_user_count_as_one() -> None:
    world = World(config(secrets=[SECRET], user_quota=2))
    world.server.nodes = {"sg-1"}
    codes = []
    for port, userid in enumerate(("probe", "probe+plain", "probe+via=sg-1", "probe+direct")):
        client = _client(world, userid, addr=(CLIENT[0], CLIENT[1] + port))
        codes.append(client.allocate().code)
    assert codes == [None, None, 486, 486]


@pytest.mark.parametrize("userid", ["probe", "probe+direct", "probe+via=sg-1+plain", "alice+plain"])
def test_the_next_process_of_a_relay_leads_a_call_along_the_same_road(userid: str) -> None:
    world = World(config(secrets=[SECRET]))
    world.server.nodes = {"sg-1"}
    client = _client(world, userid)
    assert client.allocate().code is None
    kept = json.loads(json.dumps(client.allocation.kept(world.now)))
    assert Allocation.taken(kept, world.now).road == client.allocation.road == road_of(client.username)
