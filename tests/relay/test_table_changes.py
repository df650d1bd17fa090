"""Tables change under load, and no packet is dropped."""

from __future__ import annotations

import time
from pathlib import Path

from tests.relay.tables_on_disk import NODES, Signer, shard
from tests.relay.upgrading import Call, node

CHANGES = 20


def _unix_text(unix: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def test_twenty_tables_under_load(tmp_path: Path) -> None:
    with node(tmp_path / "node", node="ae-1") as here:
        signer = Signer(here.base)
        # Enough of a map that reading it takes a thread a while.
        prefixes = {f"198.{low >> 8}.{low & 255}.0/24": sorted(NODES)[:2] for low in range(3000)}
        created, expires = _unix_text(time.time()), _unix_text(time.time() + 3600)
        rows = shard(1)["nodes"]
        for row in rows.values():
            row["turn_port"] = 3478
        here.serve()
        calls = [Call(here.server, transport) for transport in ("udp", "tcp", "udp")]
        try:
            for serial in range(1, CHANGES + 1):
                signer.push(shard(serial, created=created, expires=expires, nodes=rows, prefixes=prefixes))
                while f"table_loaded serial={serial}\n" not in here.log():
                    calls[0].goes_on(10)
            assert "table_refused" not in here.log()
            assert [call.lost() for call in calls] == [0, 0, 0]
            told = here.ask("status")
            assert told["table"]["serial"] == CHANGES and told["drops"] == {} and told["kernel_drops"] == 0
        finally:
            for call in calls:
                call.close()
                call.client.wire.close()
