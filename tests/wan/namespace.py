"""Network namespaces without names: alive while a descriptor or a process holds them, gone with the last of both.

So nothing is left in /run/netns whatever ends the test. Plain system calls; no `ip` needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

TUN = "wan0"
QUEUE_PACKETS = 20_000

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x890B, 0x8914, 0x8916, 0x8922, 0x8943
_IFF_UP, _IFF_RUNNING, _RTF_UP = 0x1, 0x40, 0x1

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace and the descriptor of the one interface that it has beside `lo`. Both are the owner's to close."""

    fd: int
    tun_fd: int

    @property
    def inode(self) -> int:
        """What /proc/PID/ns/net shows of those inside."""
        return os.fstat(self.fd).st_ino


def refusal() -> str | None:
    """Why this process may not make namespaces with a TUN; None when it may."""
    try:
        made = make("192.0.2.1", 1500)
    except OSError as error:
        return f"no network namespaces with a TUN here: {error}"
    os.close(made.fd)
    os.close(made.tun_fd)
    return None


def make(address: str, mtu: int) -> Namespace:
    """A namespace with `address` on a TUN that everything goes to, and `lo`. Raises OSError."""
    return _elsewhere(lambda: _made(address, mtu))


def _elsewhere(work: Callable[[], T]) -> T:
    """`work` in a thread of its own, whose namespace is nobody else's: unshare changes the calling thread only."""
    done: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _made(address: str, mtu: int) -> Namespace:
    _checked(_libc.unshare(_CLONE_NEWNET), "unshare")
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Namespace(fd, _tun(address, mtu))
    except OSError:
        os.close(fd)
        raise


def _tun(address: str, mtu: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", TUN.encode(), _IFF_TUN | _IFF_NO_PI))
        # Or the kernel would ask for IPv6 routers.
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/sys/net/ipv6/conf/{TUN}/disable_ipv6").write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            _set_up(sock, address, mtu)
    except OSError:
        os.close(fd)
        raise
    return fd


def _set_up(sock: socket.socket, address: str, mtu: int) -> None:
    name = TUN.encode()
    internet = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    anywhere = struct.pack("=HH4s8x", socket.AF_INET, 0, bytes(4))
    fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", name, mtu))
    fcntl.ioctl(sock, _SIOCSIFTXQLEN, struct.pack("16si20x", name, QUEUE_PACKETS))
    fcntl.ioctl(sock, _SIOCSIFADDR, struct.pack("16s16s8x", name, internet))
    for interface in (b"lo", name):
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", interface, _IFF_UP | _IFF_RUNNING))
    # struct rtentry of linux/route.h: a default route through the interface.
    device = ctypes.create_string_buffer(name)
    route = struct.pack(
        "L16s16s16sHhLPhPLLH",
        *(0, anywhere, anywhere, anywhere, _RTF_UP, 0, 0, 0, 0, ctypes.addressof(device), 0, 0, 0),
    )
    fcntl.ioctl(sock, _SIOCADDRT, route)


@contextlib.contextmanager
def inside(fd: int) -> Iterator[None]:
    """The calling thread in another namespace: sockets made meanwhile stay there. Nothing to await in."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(fd, _CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _checked(_libc.setns(home, _CLONE_NEWNET), "setns")
    finally:
        os.close(home)


def _checked(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def overflow(fd: int) -> int:
    """Packets that did not fit into the queue of the namespace's interface: the forwarder was too slow."""
    with inside(fd):
        for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
            name, _, figures = line.partition(":")
            if name.strip() == TUN:
                # Receive has eight columns; then bytes, packets, errs, drop of transmit.
                return int(figures.split()[11])
    raise OSError(f"no {TUN} in the namespace")


def inhabitants(inodes: frozenset[int]) -> list[int]:
    """Ids of the processes that live in any of the namespaces."""
    found = []
    for entry in Path("/proc").iterdir():
        # Gone meanwhile, or none of ours to look at.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/net").stat().st_ino in inodes:
                found.append(int(entry.name))
    return found
