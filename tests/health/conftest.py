"""A lab of three nodes for the tests that look at real hosts."""

from __future__ import annotations

from tests.lab.conftest import empty, lab, network

__all__ = ["empty", "lab", "network"]
