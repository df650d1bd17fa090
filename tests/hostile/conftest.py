"""One running relay for a module's tests: UDP, TCP and TLS, as an operator has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.edges import Edge, running


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running(Edge(tmp_path_factory.mktemp("edge"), "edge-3")) as started:
        yield started
        # Whatever a module's tests did to it: it lives, and none of it was a bug of ours.
        assert "bug" not in started.drops(), started.log()
