"""`commcli doctor` as it is typed."""

from __future__ import annotations

from pathlib import Path

from tests.remote.ops import desk_of
from tests.remote.sshd import Host, free_port


async def test_a_desk_before_and_after(host: Host, tmp_path: Path) -> None:
    desk = desk_of(tmp_path, host, ["a-1", "b-1"], ssh=f", proxy_jump: '127.0.0.1:{host.port}'")
    for name in ("turn", "overlay"):
        (tmp_path / name).write_text("0123456789abcdef\n")
        (tmp_path / name).chmod(0o600)
    (host.folder / "signers").write_text(f"ops {(host.folder / 'id.pub').read_text()}")
    (tmp_path / "inventory/fleet.yaml").write_text(
        (tmp_path / "inventory/fleet.yaml").read_text().replace("/id.pub,", "/signers,")
    )
    good = await desk.type("--all", "--json", noun="doctor")
    assert good.code == 0, [row for row in good.doc["checks"] if row["verdict"] == "fail"]
    found = {row["check"]: row for row in good.doc["checks"]}
    assert found.keys() >= {"versions", "openssh", "state", "inventory", "agent", "identity", "signing", "secret",
                            "known_hosts", "dns", "bastion", "nodes", "clock"}  # fmt: skip
    assert found["nodes"]["what"].startswith("2 of 2 nodes") and "±" in found["clock"]["what"]
    # The bastion once, and each node once.
    assert (host.folder / "log").read_text().count("Accepted publickey") == 3
    assert not (tmp_path / "state").exists()

    nodes = tmp_path / "inventory/nodes.yaml"
    nodes.write_text(nodes.read_text().replace(f"127.0.0.1:{host.port}", f"localhost:{free_port()}"))
    (tmp_path / "turn").chmod(0o644)
    bad = await desk.type(noun="doctor")
    assert bad.code == 1
    assert "known_hosts  fail" in bad.out and "next: commcli fleet trust all" in bad.out
    assert "chmod 600" in bad.out and "unreachable: " in bad.out
