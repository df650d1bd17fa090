"""SSH signatures (PROTOCOL.sshsig) with a key file or the SSH agent, for stock `ssh-keygen -Y verify`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh

from commcli.errors import BadInput, OutOfReach

HASH = "sha512"


def sign(data: bytes, key: Path | None, agent: bool, namespace: str, *, signers: Path | None = None) -> str:
    """The armored signature of `data` in `namespace`.

    With `key` a key file signs. With `agent` the agent does: with the key that `key` (a public key file) names, or
    else the first one that stands in the allowed_signers file `signers`. Raises BadInput, OutOfReach (no agent).
    """
    if agent:
        with ThreadPoolExecutor(1) as thread:  # the caller may be inside an event loop
            return thread.submit(asyncio.run, _by_agent(data, key, namespace, signers)).result()
    if key is None:
        raise BadInput("signing: neither a key nor the agent is configured")
    return _by_file(data, key, namespace)


def believed(signers: Path) -> set[bytes]:
    """The public keys in an allowed_signers file. Raises BadInput."""
    return _publics(signers, "allowed signers")


def _by_file(data: bytes, key: Path, namespace: str) -> str:
    try:
        loaded = asyncssh.read_private_key(key)
    except OSError as error:
        raise BadInput(f"signing key {key}: {error.strerror}") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise BadInput(
            f"signing key {key}: {error}", hint="An encrypted key signs through the agent."
        ) from None
    if loaded.get_algorithm().startswith("sk-"):
        raise BadInput(
            f"signing key {key} is on a hardware token, which signs through the agent",
            hint="ssh-add it, and set `agent: true` beside `key` under signing in fleet.yaml.",
        )
    return asyncssh.create_sshsig(loaded, data, hash_name=HASH, namespace=namespace).decode()


async def _by_agent(data: bytes, key: Path | None, namespace: str, signers: Path | None) -> str:
    wanted = _wanted(key, signers)
    try:
        async with await asyncssh.connect_agent() as agent:
            for pair in await agent.get_keys():
                if wanted is None or pair.public_data in wanted:
                    return await _signed_by(pair, data, namespace)
    except OSError as error:
        raise OutOfReach(f"no SSH agent to sign with: {error.strerror or error}") from None
    except (ValueError, asyncssh.Error) as error:
        raise OutOfReach(f"the SSH agent did not sign: {error}") from None
    raise BadInput(
        f"the SSH agent has no key that is in {key or signers}", hint="ssh-add -L lists what it has."
    )


async def _signed_by(pair: asyncssh.SSHKeyPair, data: bytes, namespace: str) -> str:
    """asyncssh's create_sshsig has no way to wait for an agent, so the format stands here once more."""
    if pair.algorithm == b"ssh-rsa":
        pair.set_sig_algorithm(b"rsa-sha2-512")
    digest = hashlib.new(HASH, data).digest()
    about = _string(namespace.encode()) + _string(b"") + _string(HASH.encode())
    assert isinstance(pair, asyncssh.SSHAgentKeyPair)
    signature = await pair.sign_async(b"SSHSIG" + about + _string(digest))
    blob = b"SSHSIG" + (1).to_bytes(4, "big") + _string(pair.public_data) + about + _string(signature)
    text = base64.b64encode(blob).decode()
    lines = [text[at : at + 70] for at in range(0, len(text), 70)]
    return "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""])


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _wanted(key: Path | None, signers: Path | None) -> set[bytes] | None:
    """The public keys that may sign; None: any that the agent has."""
    if key is None and signers is None:
        return None
    path = signers if key is None else key if key.suffix == ".pub" else key.with_name(key.name + ".pub")
    assert path is not None
    return _publics(path, "signing key")


def _publics(path: Path, what: str) -> set[bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"{what} {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{what} {path}: is not UTF-8 text") from None
    return {public for line in lines if (public := _public(line.split())) is not None}


def _public(words: Sequence[str]) -> bytes | None:
    """The key blob in a line of a .pub or allowed_signers file: the word after the key type."""
    for kind, blob in itertools.pairwise(words):
        if kind.startswith(("ssh-", "ecdsa-", "sk-")):
            try:
                return base64.b64decode(blob, validate=True)
            except ValueError:
                return None
    return None
