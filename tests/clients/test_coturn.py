"""coturn's turnutils_uclient and turnutils_stunclient against the relay: every row, over every listener it fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from tests.clients.conftest import LOOPBACK, Pair
from tests.clients.programs import Batch, Done, batch, selected
from tests.relay.serving import ADDRESS, ADDRESS6, Served, free_port, need, plain_relay

LISTENERS: dict[str, tuple[str, ...]] = {"udp": (), "tcp": ("-t",), "tls": ("-t", "-S")}
ONE = ("-g", "-c", "-n", "50", "-m", "1")
CHANNEL_DATA = 104  # bytes of a frame with its 100 bytes of payload
EACH_OTHER = ("-y", "-c", "-n", "50", "-m", "2")


@dataclass(frozen=True)
class Row:
    """One run of turnutils_uclient, and what is to come of it."""

    flags: tuple[str, ...]
    listener: str = "udp"
    server: str = ADDRESS  # the relay's address that the client talks to
    peer: str = ADDRESS  # the echo server's; the relayed address is of its family
    relay: str = "open"
    password: str = "pass"
    code: int = 0
    messages: int | None = None  # so many sent, and every one received again
    says: str = ""


KINDS = {
    "channels": Row(ONE, messages=50),
    "send indications": Row((*ONE, "-s"), messages=50),
    "padded channels": Row((*ONE, "-D", "-l", "171"), messages=50),
    "odd sizes": Row((*ONE, "-l", "171"), messages=50),
    "extra requests": Row((*ONE, "-G"), messages=50),
    "relay to relay": Row(EACH_OTHER, messages=100),
    "both families at once": Row(("-g", "-Z", "-n", "20", "-m", "1"), messages=20),
    # It binds a second channel to one peer, and gives up when that is refused, as it must be.
    "two channels for one peer": Row((*ONE, "-N"), code=255, says="channel bind: error 400"),
    "allocate and be gone": Row((*ONE, "-O")),
    "wrong password": Row(ONE, password="wrong", code=255, says="Cannot complete Allocation"),
    "quota of four": Row(("-g", "-c", "-n", "5", "-m", "8"), relay="quota", code=255, says="error 486"),
    "loopback peers denied": Row(ONE, relay="shut", code=255, says="error 403"),
}
FAMILIES = {
    "six": Row(ONE, server=ADDRESS6, peer=ADDRESS6, messages=50),
    "six to four": Row(ONE, server=ADDRESS6, messages=50),
    "four to six": Row(ONE, peer=ADDRESS6, messages=50),
    "relay to relay on six": Row(EACH_OTHER, server=ADDRESS6, peer=ADDRESS6, messages=100),
}
ROWS = {
    f"{name}, {listener}": replace(row, listener=listener)
    for name, row in {**KINDS, **FAMILIES}.items()
    for listener in LISTENERS
}


@pytest.fixture(scope="module")
def relays(relay: Served, pair: Pair) -> Iterator[dict[str, Served]]:
    with (
        plain_relay(pair=pair.files) as shut,
        plain_relay(*LOOPBACK, "--user-quota", "4", pair=pair.files) as quota,
    ):
        yield {"open": relay, "shut": shut, "quota": quota}


def uclient(row: Row, relay: Served, echo_port: int, pair: Pair, source: str) -> list[str]:
    """The command line of one row. `source`: an address of its own, since refusals are rationed for each source."""
    port = relay.tls_port if row.listener == "tls" else relay.port
    family = "-x" if row.peer == ADDRESS6 else "-X"
    command = [need("turnutils_uclient", "coturn"), "-u", "user", "-w", row.password, "-p", str(port)]
    command += ["-L", ADDRESS6 if row.server == ADDRESS6 else source]
    command += LISTENERS[row.listener]
    if row.listener == "tls":
        command += ["-v", "-E", str(pair.certificate)]
    if "-Z" not in row.flags:
        command.append(family)
    if "-y" not in row.flags:
        command += ["-e", row.peer, "-r", str(echo_port)]
    return [*command, *row.flags, row.server]


@pytest.fixture(scope="module")
def noise(relay: Served, echo_port: int, pair: Pair) -> Iterator[Batch]:
    """turnutils_uclient -R: a tenth of what it sends is spoiled at random.

    When that was a request it waits for ever, with coturn too, and is killed: what counts is everybody else.
    """
    rows = {name: Row(("-g", "-c", "-n", "20", "-m", "1", "-R"), name) for name in LISTENERS}
    commands = {
        f"{name} {number}": uclient(row, relay, echo_port, pair, f"127.0.10.{number}")
        for name, row in rows.items()
        for number in range(4)
    }
    with batch(commands, at_once=len(commands), timeout_s=8) as running:
        yield running


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, relays: dict[str, Served], noise: Batch, echo_port: int, pair: Pair
) -> Iterator[Batch]:
    """All rows that are wanted, beside each other and the noise: 4 to 7 seconds each, nearly all of them waiting."""
    commands = {
        name: uclient(ROWS[name], relays[ROWS[name].relay], echo_port, pair, f"127.0.9.{number}")
        for number, name in enumerate(selected(request, "name"), 1)
    }
    with batch(commands, at_once=10) as running:
        yield running


def messages(output: str) -> tuple[int, int]:
    """Sent and received, as its last count has it.

    Under TLS it takes a record for a message, so it counts two that come in one record as one (from coturn, too). There
    it is run with -v, and says the size of each record.
    """
    found = re.findall(r"tot_send_msgs=(\d+), tot_recv_msgs=(\d+)", output)
    assert found, output[-2000:]
    records = map(int, re.findall(r"response received: size=(\d+)", output))
    uncounted = sum(size // CHANNEL_DATA - 1 for size in records if size % CHANNEL_DATA == 0)
    return int(found[-1][0]), int(found[-1][1]) + uncounted


@pytest.mark.parametrize("name", ROWS)
def test_uclient(runs: Batch, name: str) -> None:
    row, done = ROWS[name], runs.result(name)
    assert done.code == row.code, done
    assert row.says in done.output, done.output[-2000:]
    if row.messages is not None:
        assert messages(done.output) == (row.messages, row.messages), done.output[-2000:]


def test_after_spoiled_messages_the_relay_serves_as_before(
    relay: Served, noise: Batch, echo_port: int, pair: Pair
) -> None:
    noise.wait()
    commands = {
        listener: uclient(Row(ONE, listener), relay, echo_port, pair, f"127.0.11.{number}")
        for number, listener in enumerate(LISTENERS, 1)
    }
    with batch(commands) as running:
        for listener in LISTENERS:
            done = running.result(listener)
            assert messages(done.output) == (50, 50), done.output[-2000:]


@pytest.mark.parametrize("address", [ADDRESS, ADDRESS6])
def test_stunclient_learns_its_address(relay: Served, address: str) -> None:
    done = _run("turnutils_stunclient", "coturn", "-p", str(relay.port), address)
    assert done.code == 0
    assert f"UDP reflexive addr: {address}:" in done.output


def test_the_classic_stun_client_learns_its_address(relay: Served) -> None:
    """Debian's `stun` speaks RFC 3489, without a magic cookie and with CHANGE-REQUEST: it must get an answer."""
    # Of itself it picks a port at random, and gives up when somebody has it.
    own = ("-i", "127.0.11.9", "-p", str(free_port()))
    done = _run("stun", "stun-client", f"{ADDRESS}:{relay.port}", "1", "-v", *own)
    assert "ok=1" in done.output, done.output


def _run(program: str, package: str, *arguments: str) -> Done:
    with batch({program: [need(program, package), *arguments]}, timeout_s=30) as running:
        return running.result(program)
