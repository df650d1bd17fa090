"""The database's shape, as numbered migrations: number n brings a database from version n to n + 1.

A migration that was released is never edited; the next change is a new one at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from commcli.errors import Refused

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # One closed window of one direction of the mesh, as the node itself counted it (RFC 8762). NULL: unmeasured.
        """
        CREATE TABLE mesh (
            src TEXT NOT NULL, dst TEXT NOT NULL, start INTEGER NOT NULL, seconds INTEGER NOT NULL,
            sent INTEGER NOT NULL, received INTEGER NOT NULL,
            rtt_min_ms REAL, rtt_p50_ms REAL, rtt_p95_ms REAL, rtt_p99_ms REAL,
            loss REAL, loss_fwd REAL, loss_back REAL, jitter_fwd_ms REAL, jitter_back_ms REAL,
            reordered INTEGER, duplicates INTEGER,
            PRIMARY KEY (src, dst, start)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX mesh_by_time ON mesh (start)",
        "CREATE TABLE calls (id INTEGER PRIMARY KEY, unix REAL NOT NULL, document TEXT NOT NULL)",
        """
        CREATE TABLE tables (
            serial INTEGER PRIMARY KEY, unix REAL NOT NULL,
            manifest BLOB NOT NULL, signature TEXT NOT NULL, status TEXT NOT NULL, detail TEXT NOT NULL
        )
        """,
        """
        CREATE TABLE shards (
            serial INTEGER NOT NULL REFERENCES tables (serial), node TEXT NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (serial, node)
        ) WITHOUT ROWID
        """,
        # `ended` is NULL while the command runs, and for ever if it was killed.
        """
        CREATE TABLE audit (
            id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, who TEXT NOT NULL, pid INTEGER NOT NULL,
            command TEXT NOT NULL, reason TEXT, result TEXT NOT NULL, detail TEXT NOT NULL
        )
        """,
        "CREATE TABLE runs (id INTEGER PRIMARY KEY, unix REAL NOT NULL, command TEXT NOT NULL, document TEXT NOT NULL)",
    ),
)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the database to the newest version: all of what is missing, or nothing.

    Raises Refused for a database that a newer commcli has made. `connection` must be in autocommit mode.
    """
    if _version(connection) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the write lock: another process may have migrated while we waited for it.
        version = _version(connection)
        if version > len(migrations):
            raise Refused(
                f"the database has version {version}, this commcli knows {len(migrations)}",
                hint="Use the newer commcli that made it, or another --state folder.",
            )
        for statement in (statement for migration in migrations[version:] for statement in migration):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
