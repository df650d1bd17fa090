"""Inventories of Ansible's and CSV files -> nodes.yaml that loads; what is lost is told where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commcli.cli import execute
from commcli.errors import BadInput
from commcli.fleet import ansible, csvlist, load
from commcli.fleet.imported import Imported, nodes_of
from commcli.fleet.model import Node, Region
from tests.fleet import samples

REGIONS = {
    "sgp": Region("sgp", "Singapore", "sg", "asia"),
    "fra": Region("fra", "Frankfurt", "de", "europe"),
    "ber": Region("ber", "Berlin", "de", "europe"),
}
INI = """\
# ours
[sgp]
sg[01:03] ansible_user=ops tier=gold
sg9.example.com:2222 ansible_host=192.0.2.9 rack='r1 a' slot=7 db_password=hunter2

[fra]
de-1 ansible_host=de1.example.com address=192.0.2.21 ansible_python_interpreter=/opt/python3

[europe:children]
fra

[europe:vars]
tier=silver
ntp=ntp.europe

[all:vars]
ansible_user=deploy
ansible_ssh_common_args='-o ProxyJump=ops@bastion.example.com -o ServerAliveInterval=5'
ansible_ssh_private_key_file=~/.ssh/id
ansible_become=yes
ntp=ntp.all
url={{ base }}/x
"""
YAML = """\
all:
  vars: {ansible_user: deploy, ansible_python_interpreter: auto_silent}
  children:
    sgp:
      hosts:
        sg[1:2]: {ansible_host: 192.0.2.1, ansible_port: 2200}
    europe:
      children:
        fra:
          hosts:
            de1:
              ansible_host: 192.0.2.2
              tier: gold
      vars: {tier: silver}
"""


def made(text: str, file: str = "hosts", *, region: str | None = None, **addresses: str) -> Imported:
    is_csv = file.endswith(".csv")
    source = (csvlist if is_csv else ansible).read(text, file)
    return nodes_of(source, REGIONS, region=region, user="me", ansible=not is_csv, resolve=addresses.get)


def loaded(result: Imported, folder: Path) -> dict[str, Node]:
    """The nodes that the loader makes of it, in an inventory that has no others."""
    inventory = samples.write(folder, nodes=result.text, markets="markets: {}\n", zones="zones: {}\n")
    with (inventory / "regions.yaml").open("a") as file:
        file.write("  ber: {city: Berlin, country: de, continent: europe}\n")
    return dict(load(inventory).nodes)


def test_an_ini_inventory(tmp_path: Path) -> None:
    result = made(INI, sg01="192.0.2.1", sg03="192.0.2.3")
    nodes = loaded(result, tmp_path)
    assert list(nodes) == ["sg01", "sg03", "sg9", "de-1"] and result.left_out == ("sg02",)
    assert {node.region for node in nodes.values()} == {"sgp", "fra"}
    sg01, sg9, de1 = nodes["sg01"], nodes["sg9"], nodes["de-1"]
    assert (sg01.ssh.user, sg01.ssh.host, sg01.address) == ("ops", "sg01", "192.0.2.1")
    assert (sg9.ssh.user, sg9.ssh.port, sg9.ssh.host) == ("deploy", 2222, "192.0.2.9")
    assert sg9.variables == {"rack": "r1 a", "slot": 7, "ntp": "ntp.all"}
    assert (de1.ssh.host, de1.ssh.python, de1.address) == ("de1.example.com", "/opt/python3", "192.0.2.21")
    assert (de1.tags, de1.variables) == (("europe",), {"tier": "silver", "ntp": "ntp.europe"})
    assert {node.ssh.proxy_jump for node in nodes.values()} == {"ops@bastion.example.com"}
    assert result.told == (
        "hosts:3: host sg02: left out: no IP address (say it as `address`, or look the name up with --resolve)",
        "hosts:4: db_password looks like a secret in the clear; name it in fleet.yaml: secrets",
        "hosts:18: ansible_ssh_common_args ServerAliveInterval has no place here, but in an ssh_config "
        "(fleet.yaml: ssh: config)",
        "hosts:19: ansible_ssh_private_key_file ~/.ssh/id: keys are the fleet's, in fleet.yaml: ssh: identities",
        "hosts:20: ansible_become has no place here",
        "hosts:22: url is a template, and only values are variables here",
    )


def test_a_yaml_inventory(tmp_path: Path) -> None:
    result = made(YAML, "hosts.yml")
    # Two machines can not have one address.
    assert result.nodes == ("sg1", "de1") and result.left_out == ("sg2",)
    assert result.told[0] == (
        "hosts.yml:6: host sg2: left out: its address with UDP port 3478 is that of node sg1 too"
    )
    nodes = loaded(result, tmp_path)
    assert (nodes["sg1"].ssh.port, nodes["sg1"].ssh.python, nodes["de1"].ssh.port) == (2200, None, 22)
    assert nodes["de1"].variables == {"tier": "gold"} and nodes["de1"].tags == ("europe",)


OLD_YAML = """\
all:
  vars: {ansible_user: deploy, transit: no, mode: 0644, since: 2026-11-01, at: 12:30, plain: "no", country_code: NO}
  children:
    sgp:
      hosts: sg1
    small: {children: sgp, vars: {tier: small, ansible_group_priority: 10}}
    wide: {children: {sgp: }, vars: {tier: wide, <<: {zone: z, tier: gone}}}
"""


def test_yaml_is_read_as_ansible_reads_it() -> None:
    text = OLD_YAML.replace("hosts: sg1", "hosts: {sg1: {ansible_host: 192.0.2.1}}")
    [host] = ansible.read(text, "hosts.yml").hosts
    assert host.variables == {
        "ansible_user": "deploy", "ansible_host": "192.0.2.1", "transit": False, "mode": 0o644, "since": "2026-11-01",
        "at": 750, "plain": "no", "country_code": False, "tier": "small", "zone": "z",
    }  # fmt: skip
    one = ansible.read("sgp: {hosts: sg1}\n", "hosts.yml").hosts
    assert [(host.name, host.groups) for host in one] == [("sg1", ("sgp",))]
    wrong = ansible.read("a: {hosts: x, vars: {<<: [1]}}\n", "h.yml").wrong
    assert "<< must be a mapping, not a number" in str(wrong.as_error())


def test_a_host_that_is_named_by_its_address() -> None:
    hosts = ansible.read("[2001:db8::5]:2222 a=1\n[2001:db8::6]\nw[0:4:2]\n", "hosts").hosts
    assert [(host.name, host.variables.get("ansible_port")) for host in hosts] == [
        ("2001:db8::5", 2222), ("2001:db8::6", None), ("w0", None), ("w2", None), ("w4", None),
    ]  # fmt: skip


def test_what_ansible_inventory_lists() -> None:
    listed = {
        "_meta": {
            "hostvars": {"sg1": {"ansible_host": "192.0.2.1", "tier": "gold"}, "x": {"url": "{{ a }}"}}
        },
        # asia has no host: Ansible leaves it out, but not its name.
        "all": {"children": ["ungrouped", "sgp", "asia"], "vars": {"ansible_user": "deploy"}},
        "sgp": {"hosts": ["sg1"]},
        "old": ["x"],
    }
    result = made(json.dumps(listed), "stdin")
    assert result.nodes == ("sg1",) and "ssh: {user: deploy" in result.text
    assert result.told == (
        "stdin: _meta.hostvars.x: host x: left out: no IP address (say it as `address`, or look the name up with "
        "--resolve)",
        "stdin: _meta.hostvars.x.url: url is a template, and only values are variables here",
    )


def test_what_is_a_template_has_no_value_to_take(tmp_path: Path) -> None:
    text = (
        "sg1 ansible_host=192.0.2.1 region=sgp\n"
        "[all:vars]\nansible_port={{ ssh_port }}\nansible_user={{ deploy_user }}\n"
    )
    result = made(text)
    assert result.told == (
        "hosts: does not say of every host who logs in: me, as you here",
        "hosts:3: ansible_port is a template, and only values are taken",
        "hosts:4: ansible_user is a template, and only values are taken",
    )
    node = loaded(result, tmp_path)["sg1"]
    assert (node.ssh.user, node.ssh.port) == ("me", 22)


@pytest.mark.parametrize(
    ("arguments", "jump", "told"),
    [
        ("-J b1", "b1", ""),
        ("-Jb1 -o ServerAliveInterval=5", "b1", "ServerAliveInterval"),
        ("-o 'ProxyJump b1,b2' -4", "b1,b2", "-4"),
        ('-o ProxyCommand="ssh -J b1 -W %h:%p b2"', None, "ProxyCommand"),
        ('-o ProxyCommand="sshpass -p hunter2 ssh -W %h:%p b2"', None, "ProxyCommand"),
        ("-o 'ProxyJump=b1", None, "what is not quoted as in a shell"),
    ],
)
def test_of_sshs_options_the_jump_host_is_taken(arguments: str, jump: str | None, told: str) -> None:
    source = ansible.read("sg1 ansible_host=192.0.2.1 region=sgp ansible_user=ops\n", "hosts")
    source.hosts[0].variables["ansible_ssh_common_args"] = arguments  # type: ignore[index]
    result = nodes_of(source, REGIONS, region=None, user="me", ansible=True)
    assert (f"proxy_jump: {jump}" in result.text.replace('"', "")) == (jump is not None)
    assert [line.split(" has ")[0].split("args ")[1] for line in result.told] == ([told] if told else [])
    assert "hunter2" not in "".join(result.told) + result.text


def test_a_csv(tmp_path: Path) -> None:
    text = (
        "id;host;Region;country;address;user;port;tags;rack\n"
        "sg-9;10.0.0.9;sgp;sg;192.0.2.99;ops;2222;metal,hub;r4\n\n"
        "sg-8;;;SG;192.0.2.98;ops;22;;\n"
        "de-1;;;de;192.0.2.97;ops;22;;\n"
        "no-1;;fra;no;192.0.2.96;;;;\n"
    )
    result = made(text, "nodes.csv")
    nodes = loaded(result, tmp_path)
    assert list(nodes) == ["sg-9", "sg-8", "no-1"]
    assert (nodes["sg-9"].ssh.host, nodes["sg-9"].ssh.port, nodes["sg-9"].ssh.user) == (
        "10.0.0.9",
        2222,
        "ops",
    )
    assert nodes["sg-9"].tags == ("metal", "hub") and nodes["sg-9"].variables == {"rack": "r4"}
    assert (nodes["sg-8"].region, nodes["no-1"].ssh.user, nodes["no-1"].country) == ("sgp", "me", "de")
    assert result.told == (
        "nodes.csv: does not say of every host who logs in: me, as you here",
        'nodes.csv:5: host de-1: country "de" has 2 regions in regions.yaml: say which',
        "nodes.csv:5: host de-1: left out: no region (say it as `region`, by a group of its name, or with --region)",
        'nodes.csv:6: host no-1: country "no": region fra stands in de, and so does the node',
    )


def test_a_host_that_is_there_twice() -> None:
    result = made("id,region,address\nsg-1,sgp,192.0.2.1\nsg-1,sgp,192.0.2.2\n", "n.csv")
    assert (result.nodes, result.left_out) == (("sg-1",), ("sg-1",))
    assert 'n.csv:3: host sg-1: left out: key "sg-1" is written twice (first in line 5)' in result.told


def test_names_that_are_no_ids_and_regions_that_are_none(tmp_path: Path) -> None:
    text = (
        "Web_1.a.example.com address=192.0.2.1 region=fra\nweb-1.b.example.com address=192.0.2.2 region=fra\n"
        "192.0.2.3\nyes address=192.0.2.4\nx address=192.0.2.5 region=frb\n"
    )
    result = made(text, region="sgp")
    assert list(loaded(result, tmp_path)) == [
        "web-1-a-example-com",
        "web-1-b-example-com",
        "192-0-2-3",
        "yes",
    ]
    assert result.told[-1] == 'hosts:5: host x: left out: unknown region "frb"; did you mean "fra"?'


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("h.yml", "all:\n  hosts:\n    a:\n      key: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        62\n",
         "h.yml:4: key is encrypted with Ansible Vault: a secret is no variable here; name it in fleet.yaml: secrets"),
        ("h", "a key='$ANSIBLE_VAULT;1.1;AES256'\n",
         "h:1: key is encrypted with Ansible Vault: a secret is no variable here; name it in fleet.yaml: secrets"),
        ("h", '{"_meta": {"hostvars": {"a": {"key": {"__ansible_vault": "hunter2"}}}}}',
         "h: _meta.hostvars.a.key: key is encrypted with Ansible Vault: a secret is no variable here; name it in "
         "fleet.yaml: secrets"),
        ("h", "[a:b]\nx\n", "h:1: is no section: [group], [group:children] or [group:vars]"),
        ("h", "a[1:x]\n", 'h:1: "[1:x]" is no range'),
        ("h", "a[01\n", 'h:1: "a[01" has a range that is none: [01:20], [a:f] or [0:9:3]'),
        ("h", "a b\n", 'h:1: "b" is no variable of a host: key=value'),
        ("h", "[a]\nx\n[b:children]\nc\n", "h:4: group b has the child c, which is no group"),
        ("h", "[a]\nx\n[a:children]\nb\n[b:children]\na\n", "h:4: group b lies inside itself"),
        ("h", "# nobody\n", "h: has no host"),
        ("h.yml", "all:\n  host: {a: }\n", 'h.yml:2: group all: unknown key "host": hosts, children or vars'),
        ("h.csv", "place\nx\n", "h.csv:1: needs a header with one of the columns id, node, name, hostname, host"),
        ("h.csv", "id,region\nx\n", "h.csv:2: has 1 columns, the header 2"),
        ("h.csv", 'id\n"x\n', "h.csv:2: broken CSV: unexpected end of data"),
    ],
)  # fmt: skip
def test_what_can_not_be_read(file: str, text: str, error: str) -> None:
    with pytest.raises(BadInput) as caught:
        made(text, file)
    assert error in caught.value.errors
    assert "hunter2" not in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inventory = samples.write(tmp_path)
    source, target = tmp_path / "hosts.csv", tmp_path / "nodes.yaml"
    source.write_text("id,region,address,user\nsg-5,sgp,192.0.2.5,ops\n")
    words = ["fleet", "import", str(source), "--inventory", str(inventory)]
    assert execute(words) == 0
    said = capsys.readouterr()
    assert said.out.endswith("nodes:\n  sg-5: {region: sgp, address: 192.0.2.5}\n") and said.err == ""
    assert execute([*words, "--to", str(target)]) == 0
    assert target.read_text() == said.out
    target.write_text("mine\n")
    assert execute([*words, "--to", str(target)]) == 2 and target.read_text() == "mine\n"
    assert execute([*words, "--to", str(target), "--force"]) == 0 and target.read_text() == said.out
    capsys.readouterr()
    assert execute(["fleet", "import", str(tmp_path), "--inventory", str(inventory)]) == 3
    assert (
        "is a folder: ansible-inventory -i INVENTORY --list | commcli fleet import -"
        in capsys.readouterr().err
    )
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "hosts").write_text("sg-5 region=sgp address=192.0.2.5\nsg-5x region=sgp\n")
    assert execute(["fleet", "import", str(tmp_path / "hosts"), "--inventory", str(inventory)]) == 1
    assert "hosts: group_vars/ beside it is not read" in capsys.readouterr().err
    source.write_text("id,address\nsg-5,192.0.2.5\n")
    capsys.readouterr()
    assert execute([*words, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["kind"], document["left_out"]) == ("fleet.import", ["sg-5"])
