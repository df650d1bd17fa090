"""TCP and TLS clients at the real loop, under this python and under the node's oldest one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.node_python import floor_python
from tests.relay.stream_world import write_pair

ROOT = Path(__file__).resolve().parents[2]

ROUND = """
import select, socket, ssl, sys, threading
sys.path.insert(0, sys.argv[1])
from collections import Counter
from pathlib import Path
from commcli.relay.turn import stun
from commcli.relay.loop import Loop
from commcli.relay.clients.stream import Streams, bound_tcp
from commcli.relay.clients.tls import Certificates

REQUEST = stun.build(stun.BINDING, stun.REQUEST, b"t" * 12)

class Echo:
    def frames(self, client, frames, now):
        streams.send_all(client, frames)
    def closed(self, client):
        left.append(client[2])
        if len(left) == 2:
            loop.stop()
    def holds(self, client):
        return True

def exchange(sock):
    with sock:
        sock.sendall(REQUEST * 100)
        received = b""
        while len(received) < 2000:
            received += sock.recv(4096)
        assert received == REQUEST * 100

def clients():
    exchange(socket.create_connection(listeners["tcp"].getsockname()))
    context = ssl.create_default_context(cafile=sys.argv[2])
    context.set_alpn_protocols(["stun.turn"])
    plain = socket.create_connection(listeners["tls"].getsockname())
    sock = context.wrap_socket(plain, server_hostname="relay.example")
    agreed.append((sock.version(), sock.selected_alpn_protocol()))
    exchange(sock)

left, agreed = [], []
loop = Loop(lambda now: streams.tick(now))
streams = Streams(loop, Echo(), Counter())
pair = Certificates(Path(sys.argv[2]), Path(sys.argv[3]), lambda *_, **__: None)
listeners = {"tcp": bound_tcp("127.0.0.1", 0), "tls": bound_tcp("127.0.0.1", 0)}
streams.listen(listeners["tcp"], "tcp")
streams.listen(listeners["tls"], "tls", pair)
thread = threading.Thread(target=clients, daemon=True)
thread.start()
loop.run()
thread.join()
figures = streams.figures()
streams.close()
loop.close()
print(left, agreed, figures["open"], figures["accepted"], figures["handshakes_done"])
"""


@pytest.mark.parametrize("which", ["this python", "the oldest python"])
def test_clients_are_served(which: str, tmp_path: Path) -> None:
    python = sys.executable if which == "this python" else floor_python()
    if python is None:
        pytest.skip("no python3.9 on this machine")
    chain, key = write_pair(tmp_path)
    done = subprocess.run(
        [str(python), "-BIS", "-W", "error", "-c", ROUND, str(ROOT), str(chain), str(key)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout == "['tcp', 'tls'] [('TLSv1.3', 'stun.turn')] 0 2 1\n"
