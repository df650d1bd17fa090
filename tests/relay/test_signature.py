"""Real keys, real signatures, stock ssh-keygen on both sides."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from commcli.relay.table.shard import ShardRefused
from commcli.relay.table.signature import MAX_SIGNATURE_BYTES, SYSTEM_PATH, SignatureRefused, verify
from tests.relay.serving import need


@dataclass
class Desk:
    """An operator's key and a manifest beside it."""

    folder: Path

    def __post_init__(self) -> None:
        self.keygen = need("ssh-keygen", "openssh-client")
        self.manifest = self.folder / "manifest.json"
        self.signature = self.folder / "manifest.json.sig"
        self.signers = self.folder / "allowed_signers"
        self.manifest.write_bytes(b'{"serial": 7}\n')
        self.make_key("operator")
        self.trust("operator")

    def make_key(self, name: str) -> None:
        command = [self.keygen, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
        subprocess.run(command, check=True)

    def trust(self, name: str, principal: str = "commcli-table", options: str = "") -> None:
        public = (self.folder / f"{name}.pub").read_text()
        self.signers.write_text(f"{principal} {options}{public}")

    def sign(self, name: str = "operator", namespace: str = "commcli-table") -> None:
        self.signature.unlink(missing_ok=True)
        command = [
            self.keygen,
            "-Y",
            "sign",
            "-f",
            str(self.folder / name),
            "-n",
            namespace,
            str(self.manifest),
        ]
        subprocess.run(command, check=True, capture_output=True)

    def verify(self, principal: str = "commcli-table") -> bytes:
        return verify(self.manifest, self.signature, self.signers, principal)

    def refusal(self, principal: str = "commcli-table") -> str:
        with pytest.raises(SignatureRefused) as caught:
            self.verify(principal)
        assert caught.value.reason == "signature"
        assert "\n" not in caught.value.detail
        return caught.value.detail


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.sign()
    return made


def test_a_good_signature_gives_the_bytes_that_were_signed(desk: Desk) -> None:
    assert desk.verify() == b'{"serial": 7}\n'


def test_a_changed_manifest(desk: Desk) -> None:
    desk.manifest.write_bytes(b'{"serial": 8}\n')
    assert "incorrect signature" in desk.refusal()


def test_a_changed_signature(desk: Desk) -> None:
    lines = desk.signature.read_text().splitlines()
    lines[-2] = lines[-2][:4] + ("A" if lines[-2][4] != "A" else "B") + lines[-2][5:]
    desk.signature.write_text("\n".join(lines) + "\n")
    assert desk.refusal()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"-----BEGIN SSH SIGNATURE-----\n"])
def test_no_signature_at_all(desk: Desk, content: bytes) -> None:
    desk.signature.write_bytes(content)
    assert desk.refusal()


def test_signed_for_another_purpose(desk: Desk) -> None:
    desk.sign(namespace="git")
    assert "namespace" in desk.refusal()


def test_a_signer_allowed_only_for_another_purpose(desk: Desk) -> None:
    desk.trust("operator", options='namespaces="git" ')
    assert desk.refusal()


def test_a_principal_that_nobody_allows(desk: Desk) -> None:
    assert desk.refusal("somebody")
    desk.trust("operator", principal="somebody")
    assert desk.refusal()


def test_a_stranger_key(desk: Desk) -> None:
    desk.make_key("stranger")
    desk.sign("stranger")
    assert desk.refusal()


def test_several_signers_for_a_rotation(desk: Desk) -> None:
    desk.make_key("successor")
    first = desk.signers.read_text()
    desk.trust("successor")
    desk.signers.write_text(first + desk.signers.read_text())
    assert desk.verify()
    desk.sign("successor")
    assert desk.verify()


@pytest.mark.parametrize("name", ["manifest", "signature", "signers"])
def test_a_missing_file_is_named(desk: Desk, name: str) -> None:
    path: Path = getattr(desk, name)
    path.unlink()
    assert desk.refusal() == f"{path.name}: No such file or directory"


def test_an_endless_signature_is_not_read(desk: Desk) -> None:
    desk.signature.write_bytes(b"-" * (MAX_SIGNATURE_BYTES + 1))
    assert "longer than" in desk.refusal()


def test_no_ssh_keygen(desk: Desk) -> None:
    with pytest.raises(ShardRefused, match="cannot run"):
        verify(desk.manifest, desk.signature, desk.signers, ssh_keygen=str(desk.folder / "absent"))


def test_an_ssh_keygen_that_hangs(desk: Desk) -> None:
    slow = desk.folder / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with pytest.raises(SignatureRefused, match="did not answer"):
        verify(desk.manifest, desk.signature, desk.signers, ssh_keygen=str(slow), timeout_s=0.05)


def test_an_ssh_keygen_that_refuses_silently_or_in_control_characters(desk: Desk) -> None:
    odd = desk.folder / "odd"
    for said, told in [("", "without a word"), ("\\033[2Jno", "[2Jno")]:
        odd.write_text(f"#!/bin/sh\nprintf '{said}' >&2\nexit 1\n")
        odd.chmod(0o755)
        with pytest.raises(SignatureRefused) as caught:
            verify(desk.manifest, desk.signature, desk.signers, ssh_keygen=str(odd))
        assert told in caught.value.detail
        assert "\033" not in caught.value.detail


def test_the_first_ssh_keygen_in_path_is_not_the_judge(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("ssh-keygen", path=SYSTEM_PATH) is None:
        pytest.skip("ssh-keygen is in none of the system's own folders")
    theirs = desk.folder / "bin"
    theirs.mkdir()
    (theirs / "ssh-keygen").write_text("#!/bin/sh\nexit 0\n")
    (theirs / "ssh-keygen").chmod(0o755)
    monkeypatch.setenv("PATH", str(theirs))
    desk.manifest.write_bytes(b'{"serial": 8}\n')
    assert "incorrect signature" in desk.refusal()
