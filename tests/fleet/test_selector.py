"""Selectors: what they name, and that a typo never means "nobody"."""

from __future__ import annotations

import pytest

from commcli.errors import BadInput
from commcli.fleet import Fleet, load
from commcli.fleet.selector import select
from tests.fleet import samples


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return load(samples.write(tmp_path_factory.mktemp("fleet")))


@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        ("", "sg-1 de-1 de-2 br-1"),
        ("all", "sg-1 de-1 de-2 br-1"),
        ("*", "sg-1 de-1 de-2 br-1"),
        ("de-1", "de-1"),
        ("de-*", "de-1 de-2"),
        ("br-1,de-1", "de-1 br-1"),  # ids widen; the order is the inventory's
        ("all,de-1", "sg-1 de-1 de-2 br-1"),
        ("region:fra", "de-1 de-2"),
        ("region:fra,region:sgp", "sg-1 de-1 de-2"),
        ("region:fra,!drain", "de-1"),
        ("region:fra, !de-2 ", "de-1"),
        ("!region:fra", "sg-1 br-1"),
        ("!drain,!no-transit", "sg-1 de-1"),
        ("drain", "de-2"),
        ("state:active", "sg-1 de-1"),
        ("market:cn", "sg-1"),
        ("market:de", "de-1 de-2"),
        ("country:de,tag:metal", "de-1"),  # kinds narrow
        ("tag:hub", "sg-1 de-1"),
        ("tag:h*,!tag:metal", "sg-1"),
        ("provider:alpha", "sg-1"),
        ("continent:europe", "de-1 de-2"),
        ("continent:*america", "br-1"),
    ],
)
def test_selects(fleet: Fleet, selector: str, ids: str) -> None:
    assert [node.id for node in select(fleet, selector)] == ids.split()


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ("region:sgb", 'unknown region "sgb"; did you mean "sgp"?'),
        ("regoin:sgp", 'unknown kind "regoin"; did you mean "region"?'),
        ("sg-2", 'unknown node "sg-2"; did you mean "sg-1"?'),
        ("!sg-2", 'unknown node "sg-2"; did you mean "sg-1"?'),
        ("all,!market:xx", 'unknown market "xx"'),
        ("fr-*", 'unknown node "fr-*"'),
        ("tag:gpu", 'unknown tag "gpu"'),
        ("tag:", 'unknown tag ""'),
        ("!", 'unknown node ""'),
        ("drian", 'unknown node "drian"'),
        ("market:br,country:de", "no node matches all of it"),
        ("!all", "no node matches all of it"),
        ("de-1,!de-*", "no node matches all of it"),
    ],
)
def test_says_what_it_does_not_know(fleet: Fleet, selector: str, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        select(fleet, selector)
    assert str(caught.value).startswith(f'selector "{selector}": {reason}')
