from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from commcli.lab.down import take_down
from commcli.lab.folder import LabFolder, Record
from commcli.lab.up import Wish, up
from tests.lab import eight
from tests.relay.serving import dies_with_us


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


@dataclass(frozen=True)
class Story:
    """`commcli lab demo` at work. What it says, on a terminal that is none, goes to a file."""

    running: subprocess.Popen[bytes]
    folder: Path
    network: str
    log: Path

    def told(self) -> str:
        return self.log.read_text()


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is missing: install openssh-client")
    place = tmp_path_factory.mktemp("story")
    folder, log, network = (
        place / "lab",
        place / "log",
        f"127.{190 + os.getpid() % 50}.{os.getpid() // 50 % 250}",
    )
    words = ["lab", "demo", "--network", network, "--folder", str(folder), "--state", str(place / "state")]
    with log.open("wb") as out:
        command = dies_with_us([sys.executable, "-m", "commcli", *words])
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield Story(running, folder, network, log)
    finally:
        if running.poll() is None:
            running.terminate()
            running.wait(30)
        take_down(LabFolder(folder), grace_s=0.2)


@pytest.fixture(scope="session", autouse=True)
def early(request: pytest.FixtureRequest) -> None:
    """The story takes a minute and a half and hardly any of the machine: it is told beside the other tests of the lab,
    and heard by test_story.py when they are over.
    """
    if any("story" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("story")
