"""The fixed ports of this folder's edges (edges.py) are safe only in one worker."""

from __future__ import annotations

from tests.conftest import group_of


def test_folders_that_share_ports_share_a_worker() -> None:
    folders = ("clients", "hostile", "relay")
    assert {group_of(f"tests/{folder}/test_it.py::test[a/b::c@d]") for folder in folders} == {"relays"}
    assert group_of("tests/lab/test_it.py::test") == group_of("tests/wan/test_other.py::test") != "relays"
    assert group_of("tests/store/test_it.py::test") == "tests/store/test_it.py"
