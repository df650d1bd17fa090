"""An SSH agent with a FIDO key (sk-ssh-ed25519) whose token is in software: what a touched hardware key answers."""

from __future__ import annotations

import base64
import hashlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KIND = b"sk-ssh-ed25519@openssh.com"
APPLICATION = b"ssh:"
# draft-miller-ssh-agent s. 5.1
FAILURE, REQUEST_IDENTITIES, IDENTITIES, SIGN_REQUEST, SIGN_RESPONSE = 5, 11, 12, 13, 14
TOUCHED = b"\x01"


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Token:
    """The key. Its signatures count up, and cover what OpenSSH's PROTOCOL.u2f says."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(KIND) + string(public) + string(APPLICATION)
        self.signed = 0

    @property
    def public(self) -> str:
        """As in a .pub file."""
        return f"{KIND.decode()} {base64.b64encode(self.blob).decode()}"

    @property
    def handle(self) -> str:
        """As in a private key file: a handle that is worth nothing without the token (PROTOCOL.key, PROTOCOL.u2f)."""
        secret = bytes(8) + self.blob + TOUCHED + string(b"handle") + string(b"") + string(b"token")
        secret += bytes(range(1, 1 + -len(secret) % 8))
        head = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + (1).to_bytes(4, "big")
        text = base64.encodebytes(head + string(self.blob) + string(secret)).decode()
        return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{text}-----END OPENSSH PRIVATE KEY-----\n"

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        how = TOUCHED + self.signed.to_bytes(4, "big")
        covered = hashlib.sha256(APPLICATION).digest() + how + hashlib.sha256(data).digest()
        return string(KIND) + string(self._key.sign(covered)) + how

    def answer(self, request: bytes) -> bytes:
        """The agent's answer to one request."""
        if request[0] == REQUEST_IDENTITIES:
            return bytes((IDENTITIES,)) + (1).to_bytes(4, "big") + string(self.blob) + string(b"token")
        if request[0] == SIGN_REQUEST:
            size = int.from_bytes(request[1:5], "big")
            rest = request[5 + size :]
            if request[5 : 5 + size] == self.blob:
                data = rest[4 : 4 + int.from_bytes(rest[:4], "big")]
                return bytes((SIGN_RESPONSE,)) + string(self.sign(data))
        return bytes((FAILURE,))


@contextmanager
def serving(token: Token, path: Path) -> Iterator[None]:
    """An agent with this key at `path`."""

    class Handler(socketserver.StreamRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            while size := self.rfile.read(4):
                answer = token.answer(self.rfile.read(int.from_bytes(size, "big")))
                self.wfile.write(string(answer))

    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
