"""The lab's certificates: believed by whoever believes the lab's CA, made once, and gone with the lab."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from commcli.lab import authority
from commcli.lab.folder import LabFolder, Place, Record
from tests.probe.certificates import Pair, verified

RECORD = Record(
    "127.77.0", 2222, (Place("ae-1", "Dubai", "127.77.0.1"), Place("kr-1", "Seoul", "127.77.0.2"))
)


@pytest.fixture
def lab(tmp_path: Path) -> LabFolder:
    folder = LabFolder(tmp_path)
    authority.make(folder, RECORD)
    return folder


def pair(folder: LabFolder, node: str) -> Pair:
    chain = authority.certificate(folder, node)
    return Pair(chain, chain.with_name("privkey.pem"))


def everything(folder: LabFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["ae-1.lab.test", "127.77.0.1"])
def test_a_node_is_believed_by_its_domain_and_by_its_address(lab: LabFolder, name: str) -> None:
    context = ssl.create_default_context(cafile=lab.tls_ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as pythons from 3.13 on have it
    assert verified(pair(lab, "ae-1"), context, name) == (0, "")
    assert verified(pair(lab, "kr-1"), context, name)[0] != 0


def test_keys_are_private_and_the_cas_is_nowhere(lab: LabFolder) -> None:
    private = [path for path, data in everything(lab).items() if b"PRIVATE KEY" in data]
    assert [path.name for path in private] == ["privkey.pem", "privkey.pem"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*private, *(path.parent for path in private)))


def test_what_is_there_stays_and_what_is_missing_is_made_anew(lab: LabFolder) -> None:
    before = everything(lab)
    authority.make(lab, RECORD)
    assert everything(lab) == before
    authority.certificate(lab, "kr-1").unlink()
    assert not authority.ready(lab, RECORD)
    authority.make(lab, RECORD)
    assert authority.ready(lab, RECORD)
    assert verified(pair(lab, "ae-1"), ssl.create_default_context(cafile=lab.tls_ca), "ae-1.lab.test") == (
        0,
        "",
    )


def test_certificates_that_end_soon_are_made_anew(tmp_path: Path) -> None:
    folder = LabFolder(tmp_path)
    authority.make(folder, RECORD, days=20)
    assert not authority.ready(folder, RECORD)
    authority.make(folder, RECORD)
    assert authority.ready(folder, RECORD)
