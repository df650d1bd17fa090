from __future__ import annotations

import socket

from commcli.lab import ports
from commcli.lab.ports import Port

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 01004D7F:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 01004D7F:08AE 01004D7F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2 1
"""


def test_only_listening_tcp_sockets_count() -> None:
    assert ports.parse(TCP, "tcp") == [Port("127.77.0.1", 2222, "tcp")]


def test_every_udp_socket_counts() -> None:
    assert len(ports.parse(TCP, "udp")) == 2


def test_sockets_of_this_machine_are_seen(network: str) -> None:
    address = f"{network}.201"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
        udp.bind((address, 0))
        tcp.bind((address, 0))
        tcp.listen()
        seen = ports.in_use([address])
        assert Port(address, udp.getsockname()[1], "udp") in seen
        assert Port(address, tcp.getsockname()[1], "tcp") in seen
    assert ports.in_use([address]) == []
