"""Masking by value: what is found, in which shapes, and what is left alone."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from commcli.fleet.secrets import Secret
from commcli.remote.onnode.masks import expand, mask

SECRET = 'pa"ss wörd'
KEY = "deadbeef" * 8
ROW = {"keys": [KEY], "address": "127.0.0.1"}
DOCUMENT = json.dumps({"peers": {"frankfurt-am-main-relay-7": ROW}}, indent=1)
ROTATING = "the-new-turn-secret\nthe-old-turn-secret\n"

SHAPES = [
    (f"login with {SECRET}!", "login with ***!"),
    (json.dumps({"x": SECRET}), '{"x": "***"}'),
    ("basic " + base64.b64encode(SECRET.encode()).decode(), "basic ***"),
    ("GET /?password=" + quote(SECRET, safe="") + "&x=1", "GET /?password=***&x=1"),
    ("password=" + quote_plus(SECRET), "password=***"),
    (f"key {KEY} is bad", "key *** is bad"),
    ("frankfurt-am-main-relay-7 at 127.0.0.1 stays", "frankfurt-am-main-relay-7 at 127.0.0.1 stays"),
    ("bad secret: the-old-turn-secret", "bad secret: ***"),
]


@pytest.mark.parametrize(("text", "masked"), SHAPES)
def test_shapes(text: str, masked: str) -> None:
    assert mask(text, expand([SECRET, DOCUMENT, ROTATING])) == masked


def test_every_string_of_a_document_but_nothing_else() -> None:
    told = {"k": ["tops3cret", 1, None, {"tops3cret": ("x tops3cret",)}], "n": 1.5}
    assert mask(told, expand(["tops3cret"])) == {"k": ["***", 1, None, {"***": ["x ***"]}], "n": 1.5}


def test_a_long_secret_is_masked_before_the_short_one_inside_it() -> None:
    assert mask("abcdefgh abcd", expand(["abcd", "abcdefgh"])) == "*** ***"


def test_very_short_secrets_do_not_mask_the_page() -> None:
    assert mask("a b c", expand(["a", ""])) == "a b c"


def test_the_secret_type_never_shows_itself() -> None:
    assert f"{Secret(SECRET)} {Secret(SECRET)!r}" == "*** ***"
