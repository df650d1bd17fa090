"""The database's shape, as numbered migrations: number n brings a database from version n to n + 1.

A migration that was released is never edited; the next change is a new one at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from commcli.errors import Refused

_THERE, _BACK, _FROZEN = "directions.there", "directions.back", "video.freezes.webrtc.total_ms"
# (`unixepoch()` is younger than the SQLite of some distributions.)
_NOW = "CAST(strftime('%s', 'now') AS INTEGER)"


def _in(place: str) -> str:
    """What stands there in a call's document. (`->>` is younger than the SQLite of some distributions.)"""
    return f"json_extract(document, '$.{place}')"


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
    (
        *(
            f"ALTER TABLE mesh ADD COLUMN {column}"
            for column in (
                *(
                    "reordered_fwd INTEGER",
                    "reordered_back INTEGER",
                    "bursts_fwd INTEGER",
                    "bursts_back INTEGER",
                ),
                *("longest_burst_fwd INTEGER", "longest_burst_back INTEGER"),
                *("pdv_fwd_p50_ms REAL", "pdv_fwd_p95_ms REAL", "pdv_fwd_p99_ms REAL"),
                *("pdv_back_p50_ms REAL", "pdv_back_p95_ms REAL", "pdv_back_p99_ms REAL"),
                *(
                    "delay_fwd_min_ms REAL",
                    "delay_fwd_p50_ms REAL",
                    "delay_fwd_p95_ms REAL",
                    "delay_fwd_p99_ms REAL",
                ),
                *("delay_back_min_ms REAL", "delay_back_p50_ms REAL", "delay_back_p95_ms REAL"),
                *("delay_back_p99_ms REAL", "clock_error_ms REAL"),
            )
        ),
        # An hour of one direction of the mesh: what is left of the windows when they have made room.
        """
        CREATE TABLE mesh_hours (
            src TEXT NOT NULL, dst TEXT NOT NULL, hour INTEGER NOT NULL,
            windows INTEGER NOT NULL, seconds INTEGER NOT NULL, down_seconds INTEGER NOT NULL,
            sent INTEGER NOT NULL, received INTEGER NOT NULL,
            rtt_min_ms REAL, rtt_p50_ms REAL, rtt_p95_ms REAL, rtt_p99_ms REAL,
            loss REAL, loss_fwd REAL, loss_back REAL, worst_loss REAL, jitter_fwd_ms REAL, jitter_back_ms REAL,
            PRIMARY KEY (src, dst, hour)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX mesh_hours_by_time ON mesh_hours (hour)",
        # Hours of which windows have come that mesh_hours does not hold yet.
        """
        CREATE TABLE mesh_open_hours (
            src TEXT NOT NULL, hour INTEGER NOT NULL, PRIMARY KEY (src, hour)
        ) WITHOUT ROWID
        """,
        "INSERT INTO mesh_open_hours SELECT DISTINCT src, start / 3600 * 3600 FROM mesh",
        # The end of the newest window that a node ever told us of: it outlives the windows.
        "CREATE TABLE mesh_heard (src TEXT PRIMARY KEY, newest INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO mesh_heard SELECT src, max(start + seconds) FROM mesh GROUP BY src",
        "CREATE INDEX calls_by_time ON calls (unix)",
        # The figures of a call (its id is that of `calls`), which are kept longer than its document.
        """
        CREATE TABLE call_figures (
            id INTEGER PRIMARY KEY, unix REAL NOT NULL, run TEXT,
            from_node TEXT NOT NULL, to_node TEXT NOT NULL, from_market TEXT, to_market TEXT,
            profile TEXT, transport TEXT, direct INTEGER NOT NULL, via TEXT, plain INTEGER NOT NULL,
            verdict TEXT NOT NULL, verdict_there TEXT, verdict_back TEXT, valid INTEGER, connected INTEGER NOT NULL,
            mos REAL, rtt_ms REAL, setup_ms REAL, loss_there REAL, loss_back REAL,
            jitter_there_ms REAL, jitter_back_ms REAL, mos_there REAL, mos_back REAL,
            one_way_there_ms REAL, one_way_back_ms REAL, freeze_ms REAL
        )
        """,
        "CREATE INDEX call_figures_by_time ON call_figures (unix)",
        "CREATE INDEX call_figures_by_run ON call_figures (run) WHERE run IS NOT NULL",
        # Calls of commcli before these figures: what their documents held.
        f"""
        INSERT INTO call_figures
        SELECT id, unix, NULL, {_in("from.node")}, {_in("to.node")}, {_in("from.market")}, {_in("to.market")},
            {_in("profile")}, 'udp', coalesce({_in("direct")}, 0), NULL, 0,
            {_in("verdict")}, NULL, NULL, {_in("valid")}, coalesce({_in("connected")}, 0),
            {_in("mos")}, {_in("rtt_ms.p50")}, {_in("setup_ms")},
            {_in(f"{_THERE}.audio.loss")}, {_in(f"{_BACK}.audio.loss")},
            {_in(f"{_THERE}.audio.jitter_ms")}, {_in(f"{_BACK}.audio.jitter_ms")},
            {_in(f"{_THERE}.mos.mos")}, {_in(f"{_BACK}.mos.mos")},
            {_in(f"{_THERE}.audio.one_way_ms.p50")}, {_in(f"{_BACK}.audio.one_way_ms.p50")},
            max(coalesce({_in(f"{_THERE}.{_FROZEN}")}, {_in(f"{_BACK}.{_FROZEN}")}),
                coalesce({_in(f"{_BACK}.{_FROZEN}")}, {_in(f"{_THERE}.{_FROZEN}")}))
        FROM calls
        WHERE {_in("kind")} = 'probe.call' AND {_in("from.node")} IS NOT NULL AND {_in("to.node")} IS NOT NULL
            AND {_in("verdict")} IS NOT NULL
        """,
        # A matrix of calls; `finished` is NULL while there is something to go on with.
        """
        CREATE TABLE matrices (
            id INTEGER PRIMARY KEY, unix REAL NOT NULL, finished REAL, document TEXT NOT NULL
        )
        """,
        # What `probe run` last did of each thing that probes.yaml schedules.
        # `good`: when it last ended with 0, or else was first heard of.
        """
        CREATE TABLE jobs (
            key TEXT PRIMARY KEY, due REAL NOT NULL, ran REAL NOT NULL, exit_code INTEGER NOT NULL, good REAL
        ) WITHOUT ROWID
        """,
        # A TURN transport of an edge as it was met; `seen_from` is NULL for the machine that commcli runs on.
        """
        CREATE TABLE edges (
            id INTEGER PRIMARY KEY, unix REAL NOT NULL, seen_from TEXT, node TEXT NOT NULL, transport TEXT NOT NULL,
            valid INTEGER, verdict TEXT NOT NULL, total_ms REAL, days_left REAL, document TEXT NOT NULL
        )
        """,
        "CREATE INDEX edges_by_time ON edges (unix)",
    ),
    (
        # Windows that nodes told of before they happened (60 s: windows.py, AHEAD_S) were once believed. They would be
        # the newest until then, and what is measured then could not be kept beside them.
        f"DELETE FROM mesh WHERE start + seconds > {_NOW} + 60",
        f"DELETE FROM mesh_open_hours WHERE hour > {_NOW}",
        f"DELETE FROM mesh_hours WHERE hour > {_NOW}",
        f"DELETE FROM mesh_heard WHERE newest > {_NOW} + 60",
        "INSERT OR IGNORE INTO mesh_heard SELECT src, max(start + seconds) FROM mesh GROUP BY src",
    ),
    (
        # A run has a row before it begins, under the name that it has on the nodes too. `ended` is NULL while it runs,
        # and for ever if it was killed.
        *(
            f"ALTER TABLE runs ADD COLUMN {column}"
            for column in ("run TEXT", "who TEXT", "result TEXT", "ended REAL")
        ),
        """
        UPDATE runs SET run = strftime('%Y%m%dT%H%M%SZ-', unix, 'unixepoch') || printf('%04x', id % 65536),
            ended = unix, result = CASE coalesce(json_extract(document, '$.exit_code'), 0) WHEN 0 THEN 'done'
                ELSE 'exit ' || json_extract(document, '$.exit_code') END
        """,
        "CREATE UNIQUE INDEX runs_by_name ON runs (run)",
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
