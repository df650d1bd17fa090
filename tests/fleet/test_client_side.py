"""What a node says of its client side: a second address, TLS, quotas, rates, processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.fleet import Limits, load
from tests.fleet import samples
from tests.fleet.samples import errors_of


def test_the_client_side_of_a_node(tmp_path: Path) -> None:
    nodes = samples.FILES["nodes.yaml"]
    nodes = nodes.replace("port: 2022}", "port: 2022}\n  user_quota: 10\n  workers: 0\n  ports: {tls: 5349}")
    more = "address6: 2001:DB8::5, domain: sg-1.relay.test, user_quota: 20, total_quota: 4000,"
    more += " session_kbit_s: 4000, node_mbit_s: 900, workers: 2, ports: {tls: 443},"
    fleet = load(samples.write(tmp_path, nodes=nodes.replace("192.0.2.1,", f"192.0.2.1, {more}")))
    node, plain = fleet.nodes["sg-1"], fleet.nodes["de-1"]
    assert (node.address6, node.domain, node.ports.tls, node.workers) == (
        "2001:db8::5",
        "sg-1.relay.test",
        443,
        2,
    )
    assert node.limits == Limits(20, 4000, 4000, 900)
    assert (plain.address6, plain.domain, plain.ports.tls, plain.workers) == (None, None, 5349, 0)
    assert plain.limits == Limits(user_quota=10)


def test_a_node_behind_nat_says_what_it_binds(tmp_path: Path) -> None:
    more = "address6: 2001:db8::5, bind_address: 10.0.0.5, bind_address6: FD00::5"
    fleet = load(samples.write(tmp_path, "nodes.yaml", "192.0.2.1,", f"192.0.2.1, {more},"))
    node, plain = fleet.nodes["sg-1"], fleet.nodes["de-1"]
    assert (node.address, node.bind_address, node.bind_address6) == ("192.0.2.1", "10.0.0.5", "fd00::5")
    assert node.ssh.host == "192.0.2.1"
    assert (plain.bind_address, plain.bind_address6) == (None, None)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("address6: 192.0.2.9", "address6 192.0.2.9 is no IPv6 address"),
        ("address6: fe80::1", "address6 fe80::1 is not that of one machine"),
        ("address6: sg-1", 'bad address6 "sg-1": it must be an IP address, v4 or v6'),
        ("bind_address: ten", 'bad bind_address "ten": it must be an IP address, v4 or v6'),
        ("bind_address: 0.0.0.0", "bind_address 0.0.0.0 is not that of one machine"),
        ("bind_address: fd00::5", "bind_address fd00::5 is not of the family of address 192.0.2.1"),
        ("bind_address6: fd00::5", "bind_address6 stands for no address6"),
        ("address6: 2001:db8::5, bind_address6: 10.0.0.5",
         "bind_address6 10.0.0.5 is not of the family of address6 2001:db8::5"),
        ("domain: SG-1.relay.test, ports: {tls: 443}",
         "domain must be a host name in lower case, such as sg-1.relay.example.net"),
        ("domain: sg-1.relay.test", "domain is what the TLS certificate names, but ports has no tls"),
        ("ports: {tls: 3478}", "ports: turn and tls are the same TCP port 3478"),
        ("ports: {tls: 9478}", "ports: metrics and tls are the same TCP port 9478"),
        ("user_quota: 0", "user_quota must be 1 to 10000000"),
        ("total_quota: many", "total_quota must be a whole number, not text"),
        ("session_kbit_s: -1", "session_kbit_s must be 1 to 10000000"),
        ("node_mbit_s: 1.5", "node_mbit_s must be a whole number, not a number"),
        ("workers: 257", "workers must be 0 to 256"),
        ("price_ms: -1", "price_ms must be 0 to 10000"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_client_side(tmp_path: Path, said: str, error: str) -> None:
    folder = samples.write(tmp_path, "nodes.yaml", "192.0.2.1,", f"192.0.2.1, {said},")
    assert errors_of(folder) == [f"nodes.yaml:4: node sg-1: {error}"]


def test_a_second_address_and_a_name_are_a_nodes_own(tmp_path: Path) -> None:
    for said in ("address6: 2001:db8::1", "bind_address: 10.0.0.5", "domain: relay.test"):
        folder = samples.write(tmp_path, "nodes.yaml", "defaults:", f"defaults:\n  {said}")
        assert errors_of(folder) == [f'nodes.yaml:2: defaults: unknown key "{said.split(":")[0]}"']


def test_two_nodes_on_one_address_share_no_tcp_port(tmp_path: Path) -> None:
    nodes = (
        samples.FILES["nodes.yaml"]
        + """\
  x-1: {region: sgp, address: 192.0.2.8, base: /x-1, ports: {tls: 443, relay_high: 50000}}
  x-2:
    {region: sgp, address: 192.0.2.8, base: /x-2,
     ports: {turn: 443, overlay: 4, stamp: 5, relay_low: 50001}}
  x-3:
    {region: sgp, address: 192.0.2.9, address6: "2001:db8::9", ports: {relay_high: 50000}}
  x-4:
    {region: sgp, address: "2001:db8::9", ports: {turn: 3, overlay: 4, stamp: 3480, relay_low: 50001}}
"""
    )
    assert errors_of(samples.write(tmp_path, nodes=nodes)) == [
        "nodes.yaml:13: node x-2: its address with TCP port 443 is that of node x-1 too",
        "nodes.yaml:18: node x-4: its address with UDP port 3480 is that of node x-3 too",
    ]
