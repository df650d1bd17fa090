"""What a play costs a node at the other end of the world: as many round trips as a login with `true`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from commcli.fleet.model import Fleet
from commcli.remote import runid
from commcli.remote.rollback import run_rollback
from commcli.remote.ssh import Pool
from tests.remote import distance, plays, sshd

RTT_S = 0.06
# As this proxy counts, with the handshake: TCP, banner, KEXINIT, key exchange, authentication, channel, exec,
# program, and what asyncssh says of its window meanwhile.
LOGIN_AND_TRUE = 9
MOST_UP = 25_000


def _play(steps: int) -> str:
    rows = "".join(
        f"  - name: file {n}\n    file: {{path: '{{{{ base }}}}/{n}', content: 'x'}}\n" for n in range(steps)
    )
    return f"name: ten\nsteps:\n{rows}"


def _far(host: sshd.Host, way: distance.Way) -> Fleet:
    """A fleet of one node behind the way."""
    public = (host.folder / "host_key.pub").read_text()
    with host.known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{way.port} {public}")
    node = host.node()
    (host.folder / "nodes/sg-1").mkdir(parents=True)
    return host.fleet(replace(node, ssh=replace(node.ssh, port=way.port)))


@pytest.mark.parametrize("steps", [10, 100])
async def test_a_play_costs_no_round_trip_more_than_true(host: sshd.Host, tmp_path: Path, steps: int) -> None:
    async with distance.distant(host.port, RTT_S) as way:
        fleet = _far(host, way)
        async with Pool(fleet) as pool:
            connection = await pool.connect(fleet.nodes["sg-1"])
            assert (await connection.run(["true"], timeout_s=20)).ok
        what = plays.play(tmp_path, _play(steps))
        for state in ("changed", "ok"):
            [outcome] = await plays.run(fleet, what)
            assert set(plays.states(outcome).values()) == {state}
    login, first, again = way.connections
    assert login.round_trips <= LOGIN_AND_TRUE
    assert max(first.round_trips, again.round_trips) <= LOGIN_AND_TRUE
    if steps == 10:
        assert again.up < MOST_UP


async def test_what_is_large_goes_up_where_it_differs(host: sshd.Host, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1_000_000))
    copy = "name: large\nsteps:\n  - name: it\n    copy: {path: '{{ base }}/large', source: large}\n"
    async with distance.distant(host.port, RTT_S) as way:
        fleet = _far(host, way)
        what = plays.play(tmp_path, copy)
        for state in ("changed", "ok"):
            [outcome] = await plays.run(fleet, what)
            assert plays.states(outcome) == {"it": state}
    first, again = way.connections
    assert first.up > 1_000_000
    assert again.up < MOST_UP and again.round_trips <= LOGIN_AND_TRUE


async def test_a_rollback_costs_what_the_play_did(host: sshd.Host, tmp_path: Path) -> None:
    async with distance.distant(host.port, RTT_S) as way:
        fleet = _far(host, way)
        await plays.run(fleet, plays.play(tmp_path, _play(100)))
        [run] = os.listdir(f"{host.node().base}/runs")  # noqa: PTH208
        async with Pool(fleet) as pool:
            [outcome] = await run_rollback(run, list(fleet.nodes.values()), pool, run=runid.new())
    assert set(plays.states(outcome).values()) == {"changed"} and len(plays.states(outcome)) == 100
    _, rollback = way.connections
    assert rollback.round_trips <= LOGIN_AND_TRUE
