from __future__ import annotations

import socket

import pytest

from tests.wan.switch import Switch
from tests.wan.weather import Weather

ADDRESSES = {"a": "10.77.0.1", "b": "10.77.0.2", "c": "10.77.0.3"}


def packet(dst: str, payload: bytes = b"", *, dont_fragment: bool = True) -> bytes:
    """As much of an IPv4 packet as the switch looks at."""
    flags = 0x40 if dont_fragment else 0
    return bytes([0x45, 0, 0, 0, 0, 0, flags, 0, 64, 17, 0, 0]) + bytes(4) + socket.inet_aton(dst) + payload


def switch(**links: Weather) -> Switch:
    """Links named as `ab`: from a to b."""
    return Switch(ADDRESSES, {(name[0], name[1]): weather for name, weather in links.items()}, 1)


def test_a_packet_comes_out_where_its_address_is_when_its_link_says() -> None:
    world = switch(ab=Weather(delay_ms=30), ac=Weather(delay_ms=10))
    world.put("a", packet(ADDRESSES["b"], b"slow"), 1.0)
    world.put("a", packet(ADDRESSES["c"], b"quick"), 1.0)
    assert world.wish() == pytest.approx(1.01)
    assert world.due(1.0) == []
    assert [(node, data[20:]) for _, node, data in world.due(1.02)] == [("c", b"quick")]
    assert [(node, data[20:]) for _, node, data in world.due(2.0)] == [("b", b"slow")]
    assert world.wish() is None


def test_packets_of_one_moment_stay_in_order() -> None:
    world = switch(ab=Weather(delay_ms=30))
    for number in range(100):
        world.put("a", packet(ADDRESSES["b"], bytes([255 - number])), 1.0)
    assert [data[20] for _, _, data in world.due(2.0)] == [255 - number for number in range(100)]


def test_each_direction_has_its_own_weather_and_counts() -> None:
    world = switch(ab=Weather(loss=1))
    world.put("a", packet(ADDRESSES["b"]), 1.0)
    world.put("b", packet(ADDRESSES["a"]), 1.0)
    assert [node for _, node, _ in world.due(1.0)] == ["a"]
    counts = world.counts()
    assert set(counts) == {("a", "b"), ("b", "a")}
    assert (counts["a", "b"].lost, counts["b", "a"].delivered) == (1, 1)


@pytest.mark.parametrize(
    "data", [b"", b"\x45", packet("10.77.0.9"), packet("10.77.0.1"), b"\x60" + packet("10.77.0.2")[1:]]
)
def test_what_is_nobodys_goes_nowhere(data: bytes) -> None:
    world = switch()
    world.put("a", data, 1.0)
    assert (world.due(2.0), world.unroutable) == ([], 1)


def test_a_packet_that_may_be_cut_passes_a_small_mtu() -> None:
    world = switch(ab=Weather(mtu=100))
    world.put("a", packet(ADDRESSES["b"], bytes(100)), 1.0)
    world.put("a", packet(ADDRESSES["b"], bytes(100), dont_fragment=False), 1.0)
    assert len(world.due(1.0)) == 1
    assert world.counts()["a", "b"].too_big == 1


def test_a_change_is_for_what_comes_after_it() -> None:
    world = switch(ab=Weather(delay_ms=30))
    world.put("a", packet(ADDRESSES["b"], b"before"), 1.0)
    world.change("a", "b", Weather(loss=1))
    world.put("a", packet(ADDRESSES["b"], b"after"), 1.0)
    assert [data[20:] for _, _, data in world.due(2.0)] == [b"before"]
    with pytest.raises(KeyError):
        world.change("a", "z", Weather())
