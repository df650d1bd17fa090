"""playbooks/relay.yml against a real OpenSSH server: the real relay, twice, and when something changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commcli.fleet.model import Fleet, Node
from commcli.fleet.secrets import Secret
from commcli.relay.turn.auth import time_limited_password
from commcli.remote import control, playbook, relayfiles, zipapp
from commcli.remote.outcome import Outcome
from commcli.remote.playbook import Play
from commcli.remote.run import PlayResult, run_play
from commcli.remote.ssh import Pool
from tests.relay.turn_world import REALM
from tests.relay.upgrading import NEXT as NEXT_VERSION
from tests.relay.upgrading import Call, newer
from tests.remote.sshd import Host
from tests.remote.test_bad_days import a_python

FOLDER = Path(__file__).parents[2] / "playbooks"
PLAY = playbook.load(Path(__file__).parents[2] / "playbooks/relay.yml")
ROLLBACK = playbook.load(Path(__file__).parents[2] / "playbooks/rollback.yml")
UPGRADE = playbook.load(Path(__file__).parents[2] / "playbooks/upgrade.yml")
MASTER, TURN = "0123456789abcdef" * 4, "turn-secret-of-the-test"


@pytest.fixture
async def fleet(host: Host) -> AsyncIterator[Fleet]:
    """Two nodes with addresses of their own; their relays are stopped at the end."""
    third = os.getpid() % 250
    nodes = [host.node(name, address=f"127.79.{third}.{n}") for n, name in enumerate(("sg-1", "de-1"), 1)]
    fleet = host.fleet(*nodes)
    yield fleet
    for node in nodes:
        await stopped(Path(node.base))


async def stopped(base: Path) -> None:
    pid_file = base / "run/relay.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    try:
        os.kill(pid, signal.SIGTERM)
        while True:
            os.kill(pid, 0)
            await asyncio.sleep(0.02)
    except ProcessLookupError:
        return


def variables(fleet: Fleet, **changed: object):  # type: ignore[no-untyped-def]
    secrets = {"turn": Secret(TURN), "overlay": Secret(MASTER)}

    def of(node: Node) -> Mapping[str, object]:
        return {**relayfiles.variables(fleet, node, secrets, zipapp.build(), "# nobody yet\n"), **changed}

    return of


async def provision(
    fleet: Fleet, play: Play = PLAY, *, check: bool = False, diff: bool = True, **changed: object
) -> list[Outcome[PlayResult]]:
    async with Pool(fleet) as pool:
        return await run_play(
            play,
            list(fleet.nodes.values()),
            pool,
            check=check,
            diff=diff,
            variables=variables(fleet, **changed),
        )


def changes(outcomes: list[Outcome[PlayResult]]) -> dict[str, list[str]]:
    assert [(o.state, o.reason) for o in outcomes] == [("done", "")] * len(outcomes)
    return {o.node: [s.name for s in o.value.steps if s.state == "changed"] for o in outcomes if o.value}


async def status(fleet: Fleet, name: str) -> dict[str, object]:
    async with Pool(fleet) as pool:
        return await control.ask(await pool.connect(fleet.nodes[name]), fleet.nodes[name], "status")


async def test_twice_changes_once_and_the_relay_answers(fleet: Fleet) -> None:
    first = changes(await provision(fleet))
    assert "relay runs" in first["sg-1"] and "upgrade relay" not in first["sg-1"]
    before = await status(fleet, "sg-1")
    assert before["node"] == "sg-1"
    assert changes(await provision(fleet)) == {"sg-1": [], "de-1": []}
    assert (await status(fleet, "sg-1"))["pid"] == before["pid"]


async def test_secrets_are_private_and_nowhere_in_the_results(fleet: Fleet) -> None:
    outcomes = await provision(fleet)
    etc = Path(fleet.nodes["sg-1"].base) / "etc"
    assert stat.S_IMODE((etc / "peers.json").stat().st_mode) == 0o600
    assert (etc / "turn.secret").read_text() == TURN + "\n"
    key = json.loads((etc / "peers.json").read_text())["peers"]["de-1"]["keys"][0]
    told = repr(outcomes)
    assert TURN not in told and MASTER not in told and key not in told
    assert "secret content differs, not shown" in told


async def test_new_peers_and_a_new_secret_interrupt_nobody(fleet: Fleet) -> None:
    await provision(fleet)
    before = await status(fleet, "sg-1")
    peers = Secret('{"schema":1,"peers":{}}')
    foreseen = await provision(fleet, check=True, turn_secret=Secret("another-secret-1"))
    assert changes(foreseen)["sg-1"] == ["TURN secret", "reload relay"]
    assert changes(await provision(fleet, peers_json=peers))["sg-1"] == ["peers and keys"]
    again = changes(await provision(fleet, peers_json=peers, turn_secret=Secret("another-secret-1")))
    assert again["sg-1"] == ["TURN secret", "reload relay"]
    after = await status(fleet, "sg-1")
    assert after["pid"] == before["pid"]
    assert reloads(after)["ok"] == 1


async def test_a_new_configuration_restarts_only_where_it_must(fleet: Fleet) -> None:
    await provision(fleet)
    first = await status(fleet, "sg-1")

    async def provision_sg(**new: object) -> tuple[str, dict[str, object]]:
        text = json.dumps({**relayfiles.relay_config(fleet, fleet.nodes["sg-1"]), **new})
        alone = replace(fleet, nodes={"sg-1": fleet.nodes["sg-1"]})
        outcomes = await provision(alone, relay_json=text)
        did = changes(outcomes)["sg-1"]
        assert "configuration" in did and did[-1] == "reload relay" and outcomes[0].value is not None
        [handler] = [step for step in outcomes[0].value.steps if step.name == "reload relay"]
        return handler.text, await status(fleet, "sg-1")

    said, limited = await provision_sg(user_quota=3)
    assert said == "reload" and limited["pid"] == first["pid"] and reloads(limited)["ok"] == 1
    said, moved = await provision_sg(user_quota=3, realm="elsewhere")
    assert said == "upgrade: waits for a restart: realm" and moved["pid"] != first["pid"]
    assert taken_over(moved)["from_version"] == first["version"]


def taken_over(told: dict[str, object]) -> dict[str, object]:
    found = told["upgrade"]
    assert isinstance(found, dict) and isinstance(found["taken_over"], dict)
    return dict(found["taken_over"])


def reloads(told: dict[str, object]) -> dict[str, object]:
    found = told["reload"]
    assert isinstance(found, dict)
    return found


async def test_check_changes_nothing_and_the_diff_shows(fleet: Fleet) -> None:
    outcomes = await provision(fleet, check=True)
    assert "relay runs" in changes(outcomes)["sg-1"]
    assert "upgrade relay" not in changes(outcomes)["sg-1"]
    assert not os.path.lexists(fleet.nodes["sg-1"].base)  # noqa: ASYNC240  a look at our own disk
    assert outcomes[0].value is not None
    [step] = [step for step in outcomes[0].value.steps if step.name == "configuration"]
    assert '+ "node": "sg-1",' in step.diff


async def test_the_oldest_python_of_a_node_runs_the_relay(fleet: Fleet) -> None:
    old = a_python("3.9")
    nodes = {name: replace(node, ssh=replace(node.ssh, python=old)) for name, node in fleet.nodes.items()}
    fleet = replace(fleet, nodes=nodes)
    changes(await provision(fleet))
    assert (await status(fleet, "sg-1"))["node"] == "sg-1"


NEXT: dict[str, Any] = {"relay_pyz": newer(), "relay_version": NEXT_VERSION}


async def test_a_new_version_takes_over_and_no_packet_is_lost(fleet: Fleet) -> None:
    fleet = replace(fleet, realm=REALM)
    await provision(fleet)
    first = await status(fleet, "sg-1")
    with calling(fleet) as call:
        foreseen = changes(await provision(fleet, UPGRADE, check=True, **NEXT))
        assert foreseen["sg-1"] == ["program", "upgrade relay"]
        assert changes(await provision(fleet, UPGRADE, **NEXT)) == foreseen
        assert changes(await provision(fleet, UPGRADE, **NEXT)) == {"sg-1": [], "de-1": []}
        # relay.yml does not restart it either, on the way back here
        call.goes_on()
        assert changes(await provision(fleet))["sg-1"] == ["program", "upgrade relay"]
        # and to the former program, once
        back = changes(await provision(fleet, ROLLBACK, relay_version=first["version"]))
        assert back["sg-1"] == ["program", "former version serves"]
        assert changes(await provision(fleet, ROLLBACK, relay_version=first["version"]))["sg-1"] == []
        call.goes_on()
        assert call.lost() == 0
    last = await status(fleet, "sg-1")
    assert taken_over(last)["from_version"] == first["version"] and last["version"] == NEXT_VERSION
    assert taken_over(last)["allocations"] == 1


async def test_a_new_version_that_is_broken_fails_the_play_and_nothing_else(fleet: Fleet) -> None:
    await provision(fleet)
    first = await status(fleet, "sg-1")
    broken = newer(**{"commcli/relay/process/daemon.py": "raise OSError('out of paper')\n"})
    outcomes = await provision(fleet, UPGRADE, relay_pyz=broken, relay_version=NEXT_VERSION)
    assert [outcome.state for outcome in outcomes] == ["failed", "failed"]
    assert "did not take over" in outcomes[0].reason and "out of paper" in outcomes[0].reason
    told = await status(fleet, "sg-1")
    assert told["pid"] == first["pid"] and "out of paper" in str(told["upgrade"])
    # What a relay that dies now is started with is what runs.
    assert _program(fleet).read_bytes() == zipapp.build()
    assert not _program(fleet).with_name("relay.pyz.before").exists()
    outcomes = await provision(
        fleet, relay_pyz=broken, relay_version=NEXT_VERSION
    )  # nor does relay.yml leave it
    assert "relay.pyz is again what it was" in outcomes[0].reason
    assert _program(fleet).read_bytes() == zipapp.build()
    # The next one is tried although its program may be there already: the handler was not done.
    assert changes(await provision(fleet, UPGRADE, **NEXT))["sg-1"] == ["program", "upgrade relay"]


def _program(fleet: Fleet) -> Path:
    return Path(fleet.nodes["sg-1"].base) / "lib/relay.pyz"


@contextlib.contextmanager
def calling(fleet: Fleet) -> Iterator[Call]:
    """Somebody calls through sg-1."""
    node = fleet.nodes["sg-1"]
    username = f"{int(time.time()) + 3600}:alice"
    call = Call((node.address, node.ports.turn), user=(username, time_limited_password(TURN, username)))
    try:
        call.goes_on()
        yield call
    finally:
        call.close()
        call.client.wire.close()


async def test_the_other_shipped_plays_on_a_real_relay(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(name: str) -> Play:
        return playbook.load(FOLDER / f"{name}.yml")

    base = Path(fleet.nodes["sg-1"].base)
    await provision(fleet)
    assert changes(await provision(fleet, play("rotate-keys")))["sg-1"] == []
    # The evidence has no secret in it, and nothing of it stays.
    monkeypatch.chdir(tmp_path)
    changes(await provision(fleet, play("collect")))
    with tarfile.open(tmp_path / "evidence/sg-1/evidence.tar.gz") as evidence:
        names = set(evidence.getnames())
        told = b"".join(file.read() for m in evidence if (file := evidence.extractfile(m)) is not None)
    assert {"evidence/status.json", "evidence/metrics.json", "etc/relay.json", "log/relay.log"} <= names
    assert MASTER.encode() not in told and TURN.encode() not in told and b'"allocations"' in told
    assert not [name for name in os.listdir(base) if name.startswith("evidence")]  # noqa: PTH208
    # Drained, and a second time there is nothing to do.
    assert changes(await provision(fleet, play("drain")))["sg-1"] == ["drain"]
    assert changes(await provision(fleet, play("drain")))["sg-1"] == []
    assert (await status(fleet, "sg-1"))["drained"]
    changes(await provision(fleet, play("remove")))
    assert set(os.listdir(base)) <= {"plays", "runs"}  # noqa: PTH208
