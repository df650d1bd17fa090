"""Measurements, calls, tables, runs and the audit, in one SQLite file: one noun a module, one door (door.py)."""

from __future__ import annotations

from commcli.store.audits import Audits
from commcli.store.calls import Calls
from commcli.store.door import Row
from commcli.store.edges import Edges
from commcli.store.latest import LatestWindows
from commcli.store.mesh import MESH_KEPT_S, MeshWindows
from commcli.store.plans import Plans
from commcli.store.runs import Runs
from commcli.store.tables import StoredTable, Tables

__all__ = ["MESH_KEPT_S", "Row", "Store", "StoredTable"]


class Store(MeshWindows, LatestWindows, Calls, Edges, Plans, Tables, Audits, Runs):
    """All of it. Open with `with`; door.py says what it raises."""
