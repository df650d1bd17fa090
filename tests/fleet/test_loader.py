"""The loader tells everything that is wrong, where, and why; and nothing that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from commcli.errors import BadInput
from commcli.fleet import Capacity, Ports, SecretRef, SshTarget, load
from commcli.relay.mesh.budget import USUAL, Budget
from tests.fleet import samples
from tests.fleet.samples import errors_of


def test_a_node_has_what_it_says_what_the_defaults_say_and_its_regions_country(tmp_path: Path) -> None:
    fleet = load(samples.write(tmp_path))
    node = fleet.nodes["br-1"]
    assert (node.country, node.state, node.address) == ("br", "no-transit", "192.0.2.4")
    assert node.ssh == SshTarget("10.0.0.4", user="ops", port=2022, proxy_jump="ops@bastion.test:22")
    assert (node.ports, node.capacity, node.base) == (Ports(), Capacity(), "/opt/commcli")
    assert fleet.nodes["sg-1"].ssh.host == "192.0.2.1", "the address, unless another host is named"


def test_paths_are_relative_to_the_inventory(tmp_path: Path) -> None:
    folder = samples.write(tmp_path)
    fleet = load(folder)
    assert fleet.ssh.known_hosts == folder / "ssh/known_hosts"
    assert fleet.signing.signers == folder / "signers"
    assert fleet.secrets["turn"] == SecretRef("turn", file=folder / "secrets/turn")


def test_routes_are_for_audio_unless_it_is_said(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path)).media == "audio"
    text = samples.FILES["fleet.yaml"] + "routing: {media: video}\n"
    assert load(samples.write(tmp_path, fleet=text)).media == "video"
    folder = samples.write(tmp_path, fleet=samples.FILES["fleet.yaml"] + "routing: {media: vidio}\n")
    assert errors_of(folder)[0].startswith('fleet.yaml:9: routing: unknown class of media "vidio"')


def test_the_mesh_has_a_budget_that_is_usual_unless_it_is_named(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path)).mesh == USUAL
    text = samples.FILES["fleet.yaml"] + "mesh: {packets_a_second: 1000}\n"
    assert load(samples.write(tmp_path, fleet=text)).mesh == Budget(1000.0, USUAL.per_peer)
    folder = samples.write(tmp_path, fleet=text.replace("1000}", "0, per_pear: 1}"))
    assert errors_of(folder) == [
        "fleet.yaml:9: mesh: packets_a_second must be 0.001 to 10000",
        'fleet.yaml:9: mesh: unknown key "per_pear"; did you mean "per_peer"?',
    ]


def test_a_private_ca_is_a_file_beside_the_inventory_and_none_unless_it_is_named(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path)).tls_ca is None
    text = samples.FILES["fleet.yaml"] + "tls: {ca: tls/ca.pem}\n"
    folder = samples.write(tmp_path, fleet=text)
    assert load(folder).tls_ca == folder / "tls/ca.pem"
    folder = samples.write(tmp_path, fleet=text.replace("ca: tls", "car: tls"))
    assert errors_of(folder) == ['fleet.yaml:9: tls: unknown key "car"; did you mean "ca"?']


def test_what_relays_may_carry_of_probes(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path)).probe_kbit_s == 4000
    text = samples.FILES["fleet.yaml"] + "overlay: {probe_kbit_s: 0}\n"
    assert load(samples.write(tmp_path, fleet=text)).probe_kbit_s == 0
    folder = samples.write(tmp_path, fleet=text.replace("0}", "-1}"))
    assert errors_of(folder) == ["fleet.yaml:9: overlay: probe_kbit_s must be 0 to 1000000"]


def test_markets_edges_and_zones(tmp_path: Path) -> None:
    fleet = load(samples.write(tmp_path))
    assert fleet.markets_of("sg-1") == ("sg", "cn")
    assert fleet.markets_of("nobody") == ()
    assert [node.id for node in fleet.edge_nodes()] == ["sg-1", "de-1", "de-2", "br-1"]
    home, not_by_us = fleet.zones
    assert home.allow == frozenset({"de"}) and not home.forbid
    assert not_by_us.row() == {
        "id": "cn-not-by-us",
        "between": [["cn"], ["*"]],
        "forbid": ["us"],
        "allow": None,
    }


def test_defaults_and_a_node_merge_key_by_key(tmp_path: Path) -> None:
    fleet = load(
        samples.write(
            tmp_path,
            nodes="""\
defaults:
  ssh: {user: ops}
  ports: {turn: 40000, relay_low: 50000}
  tags: [all-of-us]
  variables: {kernel: {gso: true}, mtu: 1400}
  capacity: {sessions: 10}
nodes:
  sg-1:
    region: sgp
    address: 2001:DB8:0::1
    ports: {overlay: 40001}
    tags: [hub]
    variables: {mtu: 9000}
    capacity: {mbps: 2.5}
  de-1: {region: fra, address: 192.0.2.2}
  de-2: {region: fra, address: 192.0.2.3}
  br-1: {region: sao, address: 192.0.2.4}
""",
        )
    )
    node = fleet.nodes["sg-1"]
    assert node.ports == Ports(turn=40000, overlay=40001, relay_low=50000)
    assert node.tags == ("all-of-us", "hub")
    assert node.variables == {"kernel": {"gso": True}, "mtu": 9000}
    assert node.capacity == Capacity(sessions=10, mbps=2.5)
    assert node.address == "2001:db8::1", "one spelling, so that addresses can be compared"


# (file, old, new, the whole list of errors)
ONE_MISTAKE = [
    pytest.param(
        *("nodes.yaml", "region: sgp", "region: sgb"),
        ['nodes.yaml:4: node sg-1: unknown region "sgb"; did you mean "sgp"?'],
        id="unknown region",
    ),
    pytest.param(
        *("nodes.yaml", "tags: [hub], provider", "tag: [hub], provider"),
        ['nodes.yaml:4: node sg-1: unknown key "tag"; did you mean "tags"?'],
        id="unknown key of a node",
    ),
    pytest.param(
        *("nodes.yaml", "    state: no-transit\n", "    stat: no-transit\n"),
        ['nodes.yaml:10: node br-1: unknown key "stat"; did you mean "state"?'],
        id="unknown key, in its own line",
    ),
    pytest.param(
        *("nodes.yaml", "proxy_jump:", "jump:"),
        ['nodes.yaml:11: node br-1: ssh: unknown key "jump"; did you mean "proxy_jump"?'],
        id="unknown key of a section",
    ),
    pytest.param(
        *("nodes.yaml", "defaults:", "default:"),
        [
            *[f"nodes.yaml:{line}: node {node}: ssh: user is missing, here and in the defaults" for line, node in
              ((4, "sg-1"), (5, "de-1"), (6, "de-2"), (7, "br-1"))],
            'nodes.yaml:1: unknown key "default"; did you mean "defaults"?',
        ],
        id="unknown key of a file",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "state: draining"),
        ['nodes.yaml:6: node de-2: unknown state "draining"; did you mean "drain"?'],
        id="unknown word",
    ),
    pytest.param(
        *("nodes.yaml", "  de-2:", "  de-1:"),
        [
            'markets.yaml:3: market de: unknown node "de-2"; did you mean "de-1"?',
            'nodes.yaml:6: key "de-1" is written twice (first in line 5)',
        ],
        id="duplicate id",
    ),
    pytest.param(
        *("nodes.yaml", "port: 2022", "user: root"),
        ['nodes.yaml:2: key "user" is written twice (first in line 2)'],
        id="duplicate key",
    ),
    pytest.param(
        *("nodes.yaml", "192.0.2.2", "192.0.2.256"),
        ['nodes.yaml:5: node de-1: bad address "192.0.2.256": it must be an IP address, v4 or v6'],
        id="bad address",
    ),
    pytest.param(
        *("nodes.yaml", "192.0.2.2", '"::ffff:192.0.2.2"'),
        ["nodes.yaml:5: node de-1: address ::ffff:192.0.2.2 must be written as 192.0.2.2"],
        id="an IPv4 address in disguise",
    ),
    pytest.param(
        *("nodes.yaml", "192.0.2.2", "224.0.0.1"),
        ["nodes.yaml:5: node de-1: address 224.0.0.1 is not that of one machine"],
        id="multicast address",
    ),
    pytest.param(
        *("nodes.yaml", "192.0.2.2", "192.0.2.1"),
        [
            "nodes.yaml:5: node de-1: the same SSH host, port and base folder are those of node sg-1 too",
            *[f"nodes.yaml:5: node de-1: its address with UDP port {port} is that of node sg-1 too"
              for port in (3478, 3479, 3480)],
            "nodes.yaml:5: node de-1: its address with its relay ports is that of node sg-1 too",
        ],
        id="two nodes on one address",
    ),
    pytest.param(
        *("nodes.yaml", "port: 2022", "port: 70000"),
        ["nodes.yaml:2: defaults: ssh: port must be 1 to 65535"],
        id="number out of range",
    ),
    pytest.param(
        *("nodes.yaml", "port: 2022", 'port: "2022"'),
        ["nodes.yaml:2: defaults: ssh: port must be a whole number, not text"],
        id="text for a number",
    ),
    pytest.param(
        *("nodes.yaml", "tags: [hub],", "tags: hub,"),
        ["nodes.yaml:4: node sg-1: tags must be a list of tags, not text"],
        id="text for a list",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "ports: {overlay: 3478}"),
        ["nodes.yaml:6: node de-2: ports: turn and overlay are the same UDP port 3478"],
        id="ports that clash",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "ports: {stamp: 50000}"),
        ["nodes.yaml:6: node de-2: ports: stamp port 50000 lies in the relay range"],
        id="a port among the relayed ones",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "ports: {relay_low: 60000, relay_high: 50000}"),
        ["nodes.yaml:6: node de-2: ports: relay_low is above relay_high"],
        id="an empty relay range",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "base: opt/commcli"),
        ["nodes.yaml:6: node de-2: base must be an absolute folder of its own, such as /opt/commcli"],
        id="relative base",
    ),
    pytest.param(
        *("nodes.yaml", "state: drain", "variables: {mtu: 1400, api_key: hunter2}"),
        [
            "nodes.yaml:6: node de-2: variables: api_key looks like a secret in the clear; "
            "name it in fleet.yaml: secrets"
        ],
        id="a secret among the variables",
    ),
    pytest.param(
        *("nodes.yaml", "  de-2:", "  Drain:"),
        [
            'markets.yaml:3: market de: unknown node "de-2"; did you mean "de-1"?',
            'nodes.yaml:6: node id "Drain" must be lower-case letters, digits and inner hyphens, 32 at most',
        ],
        id="bad id",
    ),
    pytest.param(
        *("regions.yaml", "country: br", "country: uk"),
        ['regions.yaml:4: region sao: unknown country "uk"; did you mean "gb"?'],
        id="unknown country",
    ),
    pytest.param(
        *("regions.yaml", "country: sg", "country: SG"),
        ['regions.yaml:2: region sgp: unknown country "SG"; did you mean "sg"?'],
        id="country in capitals",
    ),
    pytest.param(
        *("regions.yaml", "city: Sao Paulo, ", ""),
        ["regions.yaml:4: region sao: city is missing"],
        id="missing key",
    ),
    pytest.param(
        *("regions.yaml", "lat: 1.35", "lat: 135"),
        ["regions.yaml:2: region sgp: lat must be -90 to 90"],
        id="latitude",
    ),
    pytest.param(
        *("regions.yaml", "lat: 1.35, ", ""),
        ["regions.yaml:2: region sgp: lat and lon come together or not at all"],
        id="half a place",
    ),
    pytest.param(
        *("regions.yaml", "continent: asia", "continent: Azia"),
        ['regions.yaml:2: region sgp: unknown continent "Azia"; did you mean "asia"?'],
        id="continent",
    ),
    pytest.param(
        *("markets.yaml", "  cn:", "  xx:"),
        [
            'markets.yaml:4: market xx: unknown country "xx"',
            'zones.yaml:7: zone cn-not-by-us: unknown market "cn"',
        ],
        id="a market that is no country",
    ),
    pytest.param(
        *("markets.yaml", "[sg-1]}\n  de", "[]}\n  de"),
        ["markets.yaml:2: market sg: edges must name at least one node, here or abroad"],
        id="a market without edges",
    ),
    pytest.param(
        *("markets.yaml", "[de-1, de-2]", "[de-1, de-1]"),
        ['markets.yaml:3: market de: node "de-1" is written twice'],
        id="an edge twice",
    ),
    pytest.param(
        *("zones.yaml", "forbid: [us]", "forbid: [usa]"),
        ['zones.yaml:8: zone cn-not-by-us: unknown country "usa"; did you mean "us"?'],
        id="unknown country in a zone",
    ),
    pytest.param(
        *("zones.yaml", "    forbid: [us]\n", ""),
        ["zones.yaml:6: zone cn-not-by-us: neither forbid, allow nor store is given: it rules nothing"],
        id="a zone without a rule",
    ),
    pytest.param(
        *("zones.yaml", "forbid: [us]", "forbid: []"),
        ["zones.yaml:8: zone cn-not-by-us: forbid names no country"],
        id="an empty rule",
    ),
    pytest.param(
        *("zones.yaml", '[[cn], "*"]', "[cn]"),
        ['zones.yaml:7: zone cn-not-by-us: between must have two sides, such as [[cn], "*"]'],
        id="one side",
    ),
    pytest.param(
        *("zones.yaml", '"*"', '["*", br]'),
        ['zones.yaml:7: zone cn-not-by-us: "*" is every market: it stands alone on its side'],
        id="every market and one more",
    ),
    pytest.param(
        *("zones.yaml", "allow: [de]", "allow: [de, fr]\n    forbid: [fr]"),
        ["zones.yaml:5: zone de-home: both allows and forbids fr"],
        id="allowed and forbidden",
    ),
    pytest.param(
        *("zones.yaml", "forbid: [us]", "forbid: [sg]"),
        [
            "zones.yaml:6: zone cn-not-by-us: leaves no path at all between markets "
            "sg-sg, sg-de, sg-cn, sg-br and 3 more"
        ],
        id="a zone that forbids every path",
    ),
    pytest.param(
        *("zones.yaml", "allow: [de]", "allow: [fr]"),
        ["zones.yaml:2: zone de-home: leaves no path at all between markets de-de"],
        id="a zone that allows only where nobody is",
    ),
    pytest.param(
        *("fleet.yaml", "realm: relay.test", "realm: 7"),
        ["fleet.yaml:2: realm must be text, not a number"],
        id="bad type",
    ),
    pytest.param(
        *("fleet.yaml", "  known_hosts: ssh/known_hosts", "  agent: true"),
        ["fleet.yaml:3: ssh: known_hosts is missing"],
        id="no known_hosts: nobody is trusted on first sight",
    ),
    pytest.param(
        *("fleet.yaml", "ssh:\n  known_hosts: ssh/known_hosts", "ssh: {known_hosts: k, connect_timeout_s: .nan}"),
        ["fleet.yaml:3: ssh: connect_timeout_s must be a number, not text"],
        id="not a number is no number",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "errors"), ONE_MISTAKE)
def test_one_mistake_one_line(tmp_path: Path, file: str, old: str, new: str, errors: list[str]) -> None:
    assert sorted(errors_of(samples.write(tmp_path, file, old, new))) == sorted(errors)


def test_all_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    folder = samples.write(
        tmp_path,
        fleet=samples.FILES["fleet.yaml"].replace("name:", "nam:"),
        regions=samples.FILES["regions.yaml"].replace("country: br", "country: b"),
        nodes=samples.FILES["nodes.yaml"].replace("region: fra", "region: frb"),
        markets="markets:\n  sg: [oops\n",
    )
    assert errors_of(folder) == [
        "fleet.yaml:1: name is missing",
        'fleet.yaml:1: unknown key "nam"; did you mean "name"?',
        "markets.yaml:3: broken YAML: while parsing a flow sequence, did not find expected ',' or ']'",
        'nodes.yaml:5: node de-1: unknown region "frb"; did you mean "fra"?',
        'nodes.yaml:6: node de-2: unknown region "frb"; did you mean "fra"?',
        'regions.yaml:4: region sao: unknown country "b"',
    ]


def test_zones_are_judged_although_something_else_is_wrong(tmp_path: Path) -> None:
    folder = samples.write(
        tmp_path,
        *("zones.yaml", "allow: [de]", "allow: [fr]"),
        fleet=samples.FILES["fleet.yaml"] + "nam: x\n",
    )
    assert errors_of(folder) == [
        'fleet.yaml:9: unknown key "nam"',
        "zones.yaml:2: zone de-home: leaves no path at all between markets de-de",
    ]


def test_zones_that_forbid_every_path_together(tmp_path: Path) -> None:
    zones = samples.FILES["zones.yaml"]
    zones += "  one: {between: [[de], [br]], forbid: [br], reason: x}\n"
    assert errors_of(samples.write(tmp_path, zones=zones)) == [
        "zones.yaml:10: zone one: leaves no path at all between markets de-br"
    ]
    # de is served by an edge in Germany and one in Singapore, and each is forbidden by another zone.
    zones = "zones:\n" + "".join(
        f"  {name}: {{between: [[de], [br]], forbid: [{country}], reason: x}}\n"
        for name, country in (("one", "de"), ("two", "sg"))
    )
    markets = samples.FILES["markets.yaml"].replace("[de-1, de-2]", "[de-1, sg-1]")
    assert errors_of(samples.write(tmp_path, zones=zones, markets=markets)) == [
        "zones.yaml:2: zone one: leaves no path at all between markets de-br (together with zone two)",
        # A zone goes by what an edge serves, and sg-1 serves de now: so sg and cn are bound by the same rule.
        "zones.yaml:3: zone two: leaves no path at all between markets sg-br, cn-br",
    ]


def test_what_only_the_lab_may_do(tmp_path: Path) -> None:
    nodes = samples.FILES["nodes.yaml"].replace(
        "192.0.2.2,", "127.77.0.2, bind_address: 127.0.0.1, variables: {faults: true},"
    )
    assert load(samples.write(tmp_path, nodes=nodes)).nodes["de-1"].address == "127.77.0.2"
    fleet = samples.FILES["fleet.yaml"] + "production: true\n"
    assert errors_of(samples.write(tmp_path, nodes=nodes, fleet=fleet)) == [
        "nodes.yaml:5: node de-1: address 127.77.0.2 is loopback, in a production fleet",
        "nodes.yaml:5: node de-1: bind_address 127.0.0.1 is loopback, in a production fleet",
        "nodes.yaml:5: node de-1: variables: faults is the lab's, not a production fleet's",
    ]


@pytest.mark.parametrize("broken", ["regions", "nodes", "markets"])
def test_what_refers_into_a_broken_file_is_not_blamed(tmp_path: Path, broken: str) -> None:
    errors = errors_of(samples.write(tmp_path, **{broken: "a: b: c\n"}))
    assert errors == [f"{broken}.yaml:1: broken YAML: mapping values are not allowed in this context"]


@pytest.mark.parametrize("missing", samples.FILES)
def test_a_missing_file_is_one_error(tmp_path: Path, missing: str) -> None:
    folder = samples.write(tmp_path)
    (folder / missing).unlink()
    assert errors_of(folder) == [f"{missing}: No such file or directory"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- a\n", "1: must be a mapping, not a list"),
        ("zones: [a]\n", "1: zones must be a mapping of ids, not a list"),
        ("zones:\n", "1: zones is missing: write `zones: {}` if there are none"),
        ("zones: {}\n---\nzones: {}\n",
         "2: broken YAML: expected a single document in the stream, but found another document"),
        ("zones: {}\nx: \x00\n", "2: broken YAML: control characters are not allowed (byte 13)"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_table(tmp_path: Path, text: str, error: str) -> None:
    errors = errors_of(samples.write(tmp_path, zones=text))
    assert [e.removeprefix("zones.yaml:").strip() for e in errors] == [error]


def test_no_zones_is_a_choice_that_can_be_written(tmp_path: Path) -> None:
    assert load(samples.write(tmp_path, zones="zones: {}\n")).zones == ()


def test_a_file_nobody_reads_is_an_error(tmp_path: Path) -> None:
    folder = samples.write(tmp_path)
    (folder / "zones.yml").write_text("zones: {}\n")
    assert errors_of(folder) == ['zones.yml: is no file of an inventory; did you mean "zones.yaml"?']


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such inventory") as caught:
        load(tmp_path / "inventory")
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "{value: hunter2}",
        "{hunter2: turn}",
        "[hunter2]",
        "{file: secrets/turn, env: hunter2}",
        "{env: hunter-2}",
        "{command: 'hunter2 \"open'}",
        "{command: [7, hunter2]}",
        "{file: [hunter2]}",
        "1234567890",
        "!!binary hunter2",
    ],
)
def test_a_secret_in_the_clear_is_refused_and_not_echoed(tmp_path: Path, secret: str) -> None:
    folder = samples.write(tmp_path, "fleet.yaml", "{file: secrets/turn}", secret)
    errors = errors_of(folder)
    assert errors and all(error.startswith("fleet.yaml:8: ") for error in errors)
    assert "hunter" not in "".join(errors) and "1234567890" not in "".join(errors)


def test_the_ways_to_name_a_secret(tmp_path: Path) -> None:
    folder = samples.write(
        tmp_path,
        "fleet.yaml",
        "  turn: {file: secrets/turn}\n",
        "  a: {env: A_SECRET}\n  b: {command: pass show 'relay turn'}\n"
        "  c: {command: [pass, show, c]}\n  d: {file: /d}\n",
    )
    assert load(folder).secrets == {
        "a": SecretRef("a", env="A_SECRET"),
        "b": SecretRef("b", command=("pass", "show", "relay turn")),
        "c": SecretRef("c", command=("pass", "show", "c")),
        "d": SecretRef("d", file=Path("/d")),
    }


def test_the_example_is_right_and_worldwide() -> None:
    fleet = load(Path(__file__).parents[2] / "inventory")
    assert len(fleet.nodes) >= 12
    assert len({fleet.regions[node.region].continent for node in fleet.nodes.values()}) >= 4
    assert fleet.markets["cn"].edges == ("hk-1", "sg-1")
    assert "no" in fleet.markets, "Norway, not false"
