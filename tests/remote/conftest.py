"""The server that the remote tests run against."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.remote import asyncserver, sshd


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[sshd.Host]:
    """A real OpenSSH server on loopback."""
    if reason := sshd.why_not():
        pytest.skip(reason)
    async with sshd.serve(tmp_path / "sshd") as running:
        yield running


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[asyncserver.Server]:
    """An SSH server in this process, where bad days can be had."""
    async with asyncserver.serve(tmp_path / "server") as running:
        yield running
