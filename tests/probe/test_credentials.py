"""Credentials as the relays check them."""

from __future__ import annotations

from commcli.fleet.secrets import Secret
from commcli.probe.credentials import mint


def test_username_and_password() -> None:
    got = mint(Secret("key"), expires_unix=1700000000.9, direct=False)
    assert got.username == "1700000000:probe"
    # printf 1700000000:probe | openssl dgst -sha1 -hmac key -binary | base64
    assert got.password.reveal() == "CkVYUtDDPRLDYcZ2j5sEXIk2tBA="
    assert "***" in repr(got) and got.password.reveal() not in repr(got)


def test_direct_is_part_of_the_userid() -> None:
    assert mint(Secret("key"), expires_unix=5, direct=True).username == "5:probe+direct"


def test_the_first_of_several_secrets_mints() -> None:
    first = mint(Secret("new\nold"), expires_unix=5, direct=False)
    assert first == mint(Secret("new"), expires_unix=5, direct=False)


def test_what_the_relays_are_asked_for_adds_up() -> None:
    assert mint(Secret("key"), expires_unix=5, via="sg-1", plain=True).username == "5:probe+via=sg-1+plain"
