from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from commcli.lab.down import take_down
from commcli.lab.folder import LabFolder, Record
from commcli.lab.up import Wish, up
from tests.lab import eight


@pytest.fixture(scope="session")
def network() -> str:
    """A loopback /24 of this test process's own, so that two runs on one machine do not meet."""
    return f"127.{90 + os.getpid() % 100}.{os.getpid() // 100 % 250}"


@pytest.fixture
def empty() -> Iterator[LabFolder]:
    """A folder where a lab may come; whatever the test leaves running in it is ended."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    path = Path(tempfile.mkdtemp(prefix="commcli-lab-")).resolve()
    yield LabFolder(path / "lab")
    take_down(LabFolder(path / "lab"), grace_s=0.2)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def lab(empty: LabFolder, network: str) -> tuple[LabFolder, Record]:
    """Three nodes (ae-1, kr-1, sg-1), up."""
    record, _ = up(empty, eight.fleet(), Wish(3, network), lambda text: None)
    return empty, record
