from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.wan.globe import Place, globe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The machines of one file's tests; what one test does to them the next one finds."""
    with globe(tmp_path_factory.mktemp("machines")) as running:
        yield running
