"""Signatures that stock ssh-keygen verifies, made with key files and through an agent."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.errors import BadInput, OutOfReach
from commcli.remote.sshsig import sign
from tests.remote import skagent
from tests.remote.sshd import keygen

NAMESPACE, DATA = "commcli-table", b'{"schema":1}\n'

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen here")


def verified(folder: Path, signature: str, data: bytes = DATA, namespace: str = NAMESPACE) -> bool:
    (folder / "sig").write_text(signature)
    command = ["ssh-keygen", "-Y", "verify", "-f", str(folder / "signers"), "-I", "ops", "-n", namespace]
    done = subprocess.run([*command, "-s", str(folder / "sig")], input=data, capture_output=True, check=False)
    return done.returncode == 0


def signer(folder: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key that the signers file knows."""
    key = folder / kind
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(key)]
    subprocess.run(command, check=True)
    (folder / "signers").write_text(f'ops namespaces="{NAMESPACE}" {key.with_suffix(".pub").read_text()}')
    return key


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_ssh_keygen_verifies(tmp_path: Path, kind: str) -> None:
    signature = sign(DATA, signer(tmp_path, kind), False, NAMESPACE)
    assert verified(tmp_path, signature)
    assert not verified(tmp_path, signature, DATA + b" ")
    assert not verified(tmp_path, signature, namespace="file")


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = str(tmp_path / "agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as child:
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        yield
        child.terminate()


def add(key: Path) -> None:
    # The agent's socket appears a moment after its start.
    while subprocess.run(
        ["ssh-add", "-q", str(key)], env=os.environ, stderr=subprocess.DEVNULL, check=False
    ).returncode:
        pass


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_the_agent_signs_with_the_key_that_nodes_accept(tmp_path: Path, agent: None, kind: str) -> None:
    keygen(tmp_path / "stranger")
    add(tmp_path / "stranger")
    add(signer(tmp_path, kind))
    assert verified(tmp_path, sign(DATA, None, True, NAMESPACE, signers=tmp_path / "signers"))
    assert verified(tmp_path, sign(DATA, tmp_path / kind, True, NAMESPACE))


@pytest.mark.parametrize("named", [True, False], ids=["by its public key file", "by the signers"])
def test_a_hardware_key_in_the_agent_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    token = skagent.Token()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent.sock"))
    (tmp_path / "signers").write_text(f'ops namespaces="{NAMESPACE}" {token.public}\n')
    (tmp_path / "id_sk.pub").write_text(token.public)
    key = tmp_path / "id_sk" if named else None
    with skagent.serving(token, tmp_path / "agent.sock"):
        signature = sign(DATA, key, True, NAMESPACE, signers=tmp_path / "signers")
    assert token.signed == 1
    assert verified(tmp_path, signature)
    assert not verified(tmp_path, signature, DATA + b" ")


def test_a_hardware_key_file_without_its_agent_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "id_sk").write_text(skagent.Token().handle)
    with pytest.raises(BadInput, match="id_sk is on a hardware token") as caught:
        sign(DATA, tmp_path / "id_sk", False, NAMESPACE)
    assert "agent: true" in str(caught.value.hint)


def test_an_agent_without_the_key_says_so(tmp_path: Path, agent: None) -> None:
    signer(tmp_path)
    keygen(tmp_path / "stranger")
    add(tmp_path / "stranger")
    with pytest.raises(BadInput, match="has no key that is in"):
        sign(DATA, None, True, NAMESPACE, signers=tmp_path / "signers")


def test_no_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody.sock"))
    with pytest.raises(OutOfReach, match="no SSH agent"):
        sign(DATA, None, True, NAMESPACE)


def test_keys_that_can_not_sign(tmp_path: Path) -> None:
    (tmp_path / "junk").write_text("junk")
    for key, reason in (
        (None, "neither a key nor the agent"),
        (tmp_path / "absent", "No such file"),
        (tmp_path / "junk", "Invalid"),
        (signer(tmp_path, passphrase="long enough"), "[Pp]assphrase"),
    ):
        with pytest.raises(BadInput, match=reason):
            sign(DATA, key, False, NAMESPACE)
