"""The keys that a login offers: files, and those of the agent. Part of the door to asyncssh.

Where the inventory names identities no other key is offered, whether the file signs or the agent: a server hangs up
after a few keys (MaxAuthTries), and the agent of a busy operator has many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from commcli.errors import BadInput, OutOfReach
from commcli.fleet.model import SshDefaults
from commcli.remote.sshconfig import Login

# A key on a token signs through the agent only: its file holds a handle.
TOKEN = b"sk-"


@dataclass(frozen=True, slots=True)
class Offered:
    """`pairs`, from files, sign by themselves; of the agent's keys those in `agent` sign, None: all of them."""

    pairs: tuple[asyncssh.SSHKeyPair, ...]
    agent: tuple[bytes, ...] | None


def check(defaults: SshDefaults) -> Offered | None:
    """What the inventory's identities are; None where it names none. Raises BadInput with every bad file.

    For the whole run at once: it would fail on every node.
    """
    if not defaults.identities:
        return None
    problems: list[str] = []
    offered = _offered(defaults.identities, agent=defaults.agent, problems=problems)
    if problems:
        raise BadInput(problems)
    return offered


def of_login(login: Login) -> Offered:
    """What the ssh_config names for this login; files that are not there do not count, as with OpenSSH."""
    named = login.options.config.get("IdentityFile", ())
    assert isinstance(named, list | tuple)
    paths = [Path(word).expanduser() for word in dict.fromkeys(named)]
    # A broken file is passed over here, as OpenSSH does: it may be meant for others.
    offered = _offered(paths, agent=True, problems=[])
    only = login.options.config.get("IdentitiesOnly")
    return offered if only else Offered(offered.pairs, None)


def _offered(paths: Iterable[Path], *, agent: bool, problems: list[str]) -> Offered:
    at_hand: list[asyncssh.SSHKeyPair] = []
    blobs: list[bytes] = []
    for path in paths:
        public = public_blobs(path)
        blobs += public
        try:
            pairs = asyncssh.load_keypairs(str(path), ignore_encrypted=agent)
        except OSError as error:
            # Only its public part is here: the agent has the rest.
            if not (public and agent):
                problems.append(f"ssh identity {path}: {error.strerror}")
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
            if not (public and agent):
                problems.append(f"ssh identity {path}: {error}")
        else:
            blobs += [pair.public_data for pair in pairs]
            of_file = [pair for pair in pairs if not pair.algorithm.startswith(TOKEN)]
            at_hand += of_file
            if pairs and not of_file and not agent:
                problems.append(f"ssh identity {path}: is on a token, which signs through the agent only")
            if not pairs and not public:
                problems.append(f"ssh identity {path}: has a passphrase, and no .pub beside it to find it by")
    signing = {pair.public_data for pair in at_hand}
    return Offered(tuple(at_hand), tuple(blob for blob in dict.fromkeys(blobs) if blob not in signing))


def public_blobs(path: Path) -> list[bytes]:
    """What is public of a key file: of itself, of the .pub file and of the certificate beside it."""
    found: list[bytes] = []
    for beside in (path, path.with_name(path.name + ".pub"), path.with_name(path.name + "-cert.pub")):
        for read in (asyncssh.read_certificate, asyncssh.read_public_key):
            try:
                found.append(read(str(beside)).public_data)
            except (OSError, asyncssh.KeyImportError):
                continue
    return found


async def of_agent() -> frozenset[bytes]:
    """The public parts of the keys that the SSH agent has. Raises OutOfReach where none answers."""
    try:
        agent = await asyncssh.connect_agent()
        try:
            return frozenset(pair.public_data for pair in await agent.get_keys())
        finally:
            agent.close()
            await agent.wait_closed()
    except OSError as error:
        raise OutOfReach(f"no SSH agent: {error.strerror or error}") from None
    except (ValueError, asyncssh.Error) as error:
        raise OutOfReach(f"the SSH agent does not answer: {error}") from None


def is_locked(path: Path) -> bool:
    """Whether this private key signs through the agent only: it has a passphrase, or is on a token.

    Raises BadInput for what is no key.
    """
    try:
        return asyncssh.read_private_key(str(path)).algorithm.startswith(TOKEN)
    except asyncssh.KeyEncryptionError:
        return True
    except asyncssh.KeyImportError as error:
        if str(error).startswith("Passphrase"):
            return True
        raise BadInput(f"{path}: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
