"""Longest-prefix look-up, against the standard library's idea of networks."""

from __future__ import annotations

import ipaddress
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commcli.relay.table.prefixes import MAX_EDGES, MAX_PREFIXES, PrefixMap, network, packed

ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


@st.composite
def networks(draw: st.DrawFn) -> str:
    # Few distinct first bits, so that networks often lie in each other.
    bits = draw(st.sampled_from([32, 128]))
    length = draw(st.integers(0, bits))
    top = draw(st.integers(0, 3)) << (bits - 2)
    value = (top | draw(st.integers(0, (1 << bits) - 1)) >> draw(st.integers(2, bits))) >> (bits - length)
    value <<= bits - length
    address = ipaddress.IPv4Address(value) if bits == 32 else ipaddress.IPv6Address(value)
    return f"{address}/{length}"


def _mapped(text: str) -> bool:
    address = ipaddress.ip_network(text).network_address
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


@given(networks())
def test_the_one_spelling_of_a_network_is_taken_and_no_other(text: str) -> None:
    expected = ipaddress.ip_network(text)
    if _mapped(text):
        with pytest.raises(ValueError, match="must be written as IPv4"):
            network(text)
        return
    found = network(text)
    assert (found.bits, found.length) == (expected.max_prefixlen, expected.prefixlen)
    assert found.value == int(expected.network_address) >> (found.bits - found.length)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("203.0.113.1/24", "must be written as 203.0.113.0/24"),
        ("203.0.113.0/024", "must be written as 203.0.113.0/24"),
        ("2001:DB8::/32", "must be written as 2001:db8::/32"),
        ("2001:db8:0::/32", "must be written as 2001:db8::/32"),
        ("2001:db8::1/32", "must be written as 2001:db8::/32"),
        ("::ffff:203.0.113.0/120", "IPv4 must be written as IPv4"),
        ("203.0.113.0/33", "above /32"),
        ("2001:db8::/129", "above /128"),
        ("203.0.113.0/" + "9" * 9999, "above /32"),
        ("203.0.113.0", "CIDR"),
        ("203.0.113/24", "CIDR"),
        ("203.0.113.0/255.255.255.0", "CIDR"),
        ("203.0.113.0/-1", "CIDR"),
        ("203.0.113.0/²", "CIDR"),
        ("203.0.113.0/", "CIDR"),
        ("010.0.0.0/8", "CIDR"),
        (" 10.0.0.0/8", "CIDR"),
        ("fe80::%eth0/64", "CIDR"),
        ("\ud800/8", "CIDR"),
        ("10.0.0.0\0/8", "CIDR"),
        ("", "CIDR"),
    ],
)
def test_other_spellings_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        network(text)


@given(st.sets(networks().filter(lambda text: not _mapped(text)), max_size=30), ADDRESSES)
def test_the_longest_prefix_that_holds_the_address_counts(texts: set[str], address: object) -> None:
    ip = ipaddress.ip_address(str(address))
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    holding = [network for network in map(ipaddress.ip_network, texts) if ip in network]
    expected = max(holding, key=lambda network: network.prefixlen, default=None)
    found = PrefixMap({text: [f"edge-of-{text}"] for text in texts}).look_up(str(address))
    assert found == (() if expected is None else (f"edge-of-{expected}",))


def test_the_order_of_edges_is_kept_and_ipv4_on_an_ipv6_socket_is_ipv4() -> None:
    prefixes = PrefixMap({"203.0.113.0/24": ["sg-1", "hk-1"], "::/0": ["de-1"]})
    assert prefixes.look_up("203.0.113.9") == prefixes.look_up("::ffff:203.0.113.9") == ("sg-1", "hk-1")
    assert prefixes.look_up("2001:db8::1") == ("de-1",)
    assert prefixes.look_up("198.51.100.1") == ()
    assert prefixes.look_up("fe80::1%eth0") == prefixes.look_up("no address") == ()
    assert len(prefixes) == 2 and prefixes.edges == {"sg-1", "hk-1", "de-1"}


@pytest.mark.parametrize("row", [[], ["a", "a"], [f"n{number}" for number in range(MAX_EDGES + 1)]])
def test_a_row_has_a_few_edges_and_each_once(row: list[str]) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/8: not 1 to 8 different edges"):
        PrefixMap({"10.0.0.0/8": row})


def test_the_number_of_prefixes_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_PREFIXES} prefixes"):
        PrefixMap({f"prefix {number}": ["a"] for number in range(MAX_PREFIXES + 1)})


def test_a_hundred_thousand_prefixes_are_small() -> None:
    rows = {f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24": ["sg-1", "hk-1"] for n in range(50_000)}
    rows.update({f"2001:{n:x}::/32": ["sg-1", "de-1"] for n in range(0x1000, 0x1000 + 50_000)})
    tracemalloc.start()
    try:
        prefixes = PrefixMap(rows)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(prefixes) == 100_000
    assert held < 10 << 20
    assert prefixes.look_up("0.195.79.1") == ("sg-1", "hk-1")
    assert prefixes.look_up("2001:1000::1") == ("sg-1", "de-1")


@given(st.text(max_size=40))
def test_no_text_is_more_than_no_address(text: str) -> None:
    assert packed(text) is None or len(packed(text) or b"") in (4, 16)
