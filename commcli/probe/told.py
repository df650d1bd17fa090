"""What a node told, looked at before anything is reckoned with it: a hostile or broken node costs its own word. Pure.

Each function raises Failed with one line for what can not be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from commcli.probe.hops import COUNTED, Reading
from commcli.probe.onnode.doors import STATES as DOOR_STATES
from commcli.relay.mesh.window import LENGTHS_S
from commcli.remote.outcome import Failed
from commcli.store.windows import AHEAD_S

# Beyond all that is counted or timed here, and within the years that a calendar can show.
MOST = 2.0**37
MOST_CHARACTERS = 300
MOST_ITEMS, MOST_ROWS, MOST_HOPS = 2_000, 100_000, 4
# A report's texts; everything else in it is a number, a truth value or not measured.
_TEXTS = frozenset(("role", "reason", "connection_state", "boot_id"))
_SECTIONS = ("window", "received", "sent", "host", "clock")
# What a server says of itself, and a certificate in base64.
MOST_OF_SERVER, MOST_OF_DER = 2_000, 100_000
DOOR_KEY = ("node", "address", "transport")
DoorKey = tuple[str, str, str]
_LOSSES = ("loss", "loss_fwd", "loss_back")


def report(raw: object) -> dict[str, Any]:
    """An endpoint's report: of finite numbers where numbers belong, with the sections that are reckoned with."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), dict) for name in _SECTIONS):
        raise Failed("its report lacks what every report has")
    if set(raw["clock"]) != {"boot_id", "max_error_ms"} or not isinstance(raw.get("valid"), bool):
        raise Failed("its report is of another shape")
    _check(raw, "report", [MOST_ITEMS])
    return raw


def _check(value: object, name: str, left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise Failed("its report is too long")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(item, str(key), left)
    elif isinstance(value, list):
        for item in value:
            _check(item, "text" if name == "relayed" else name, left)
    elif isinstance(value, str):
        if (name not in _TEXTS and name != "text") or len(value) > MOST_CHARACTERS:
            raise Failed(f"its report has a text for {printable_name(name)}")
    elif value is not None and not is_number(value):
        raise Failed(f"its report has no number for {printable_name(name)}")


def printable_name(name: str) -> str:
    """A key that a node chose, fit for a line."""
    return name if name.isidentifier() and len(name) < 40 else repr(name)[:40]


def is_number(value: object) -> bool:
    """Finite, and of a size that means something. A truth value is one too."""
    return isinstance(value, int | float) and abs(value) <= MOST  # which no NaN is


def number(value: object) -> float:
    """A finite number. Raises ValueError."""
    if isinstance(value, int | float) and is_number(value):
        return float(value)
    raise ValueError("no number")


def number_or_none(value: object) -> float | None:
    """The same, or None for what was not measured."""
    return None if value is None else number(value)


def reading(node: str, answer: Mapping[str, Any]) -> Reading:
    """A relay's answer to `flows`. It may speak for what ends, or begins, at itself only."""
    flows = [_flow(row) for row in _rows(answer, "flows")]
    segments = [row for row in _rows(answer, "segments") if _is_segment(row, "to", node)]
    sends = [
        row for row in _rows(answer, "sends") if _is_segment(row, "from", node) and _counts(row, "sent_again")
    ]
    return Reading(flows, segments, sends)


def door(raw: object, asked: Mapping[DoorKey, Mapping[str, Any]]) -> dict[str, Any]:
    """A row of a look at the doors of edges (onnode/doors.py), if it is of one of those that are still `asked`."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(key), str) for key in DOOR_KEY):
        raise Failed("its word on a door is of another shape")
    named = " ".join(repr(raw[key][:60])[1:-1] for key in DOOR_KEY)
    wanted = asked.get(door_key(raw))
    if wanted is None:
        raise Failed(f"it told of a door that was not asked, or twice of one: {named}")
    row = {**wanted, **{key: raw.get(key) for key in _DOOR_ROW}}
    if row["state"] not in DOOR_STATES or not all(is_known(row[key]) for key, is_known in _DOOR_ROW.items()):
        raise Failed(f"what it told of a door can not be: {named}")
    if wanted["transport"] != "tls" and (row["tls"] is not None or row["certificate"] is not None):
        raise Failed(f"it told of a certificate where there is no TLS: {named}")
    return row


def door_key(row: Mapping[str, Any]) -> DoorKey:
    """What tells one door from all others."""
    return row["node"], row["address"], row["transport"]


def lags(raw: object) -> list[float]:
    """How late an event loop was, ms a tick."""
    if not isinstance(raw, list) or len(raw) > MOST_ROWS or not all(_is_time(value) for value in raw):
        raise Failed("its lag is of another shape")
    return raw


def _is_time(value: object) -> bool:
    return not isinstance(value, bool) and is_number(value) and number(value) >= 0


def _is_time_or_none(value: object) -> bool:
    return value is None or _is_time(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_time(value)


def _is_code(value: object) -> bool:
    return value is None or (_is_count(value) and number(value) < 1000)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MOST_OF_SERVER


def _is_text_or_none(value: object) -> bool:
    return value is None or _is_text(value)


def _is_tls(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and set(value) == {"version", "cipher", "verify_code", "verify_text"}
        and _is_text_or_none(value["version"])
        and _is_text_or_none(value["cipher"])
        and _is_count(value["verify_code"])
        and _is_text(value["verify_text"])
    )


_DOOR_ROW: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("connect_ms", "tls_ms", "challenge_ms", "allocate_ms", "total_ms"), _is_time_or_none),
    **dict.fromkeys(("error", "alternate", "mapped", "relayed"), _is_text_or_none),
    "state": _is_text,
    "code": _is_code,
    "resent": _is_count,
    "given_back": lambda value: value is None or isinstance(value, bool),
    "tls": _is_tls,
    "certificate": lambda value: value is None or (isinstance(value, str) and len(value) <= MOST_OF_DER),
}


def windows(node: str, answer: Mapping[str, Any], now: float) -> tuple[list[Mapping[str, Any]], float]:
    """A relay's answer to `mesh` at `now` (unix s): (its windows, seconds that its clock is ahead of ours at least).

    A window that ends later than AHEAD_S from now is left out: kept, it would be the newest until then. The others are
    taken, so that a clock that was just put right is not held against the node. 0 s: none was left out.
    """
    told = _rows(answer, "windows")
    if not all(_is_window(row, node) for row in told):
        raise Failed(f"node {node}: its relay tells of a mesh window that can not be")
    kept = [row for row in told if row["start"] + row["seconds"] <= now + AHEAD_S]
    if len(kept) == len(told):
        return kept, 0.0
    return kept, max(row["start"] + row["seconds"] for row in told) - now


def _is_window(row: Mapping[str, Any], node: str) -> bool:
    """Whether a relay could have counted it (relay/mesh/window.py). Its times are looked at where they are kept."""
    peer, losses = row.get("peer"), [row.get(key) for key in _LOSSES]
    return (
        isinstance(peer, str)
        and 0 < len(peer) <= MOST_CHARACTERS
        and peer != node
        and all(_counts(row, key) for key in ("start", "seconds", "sent", "received"))
        and row["seconds"] in LENGTHS_S
        and row["start"] % row["seconds"] == 0
        and row["received"] <= row["sent"]
        and all(loss is None or (is_number(loss) and 0 <= loss <= 1) for loss in losses)
    )


def _rows(answer: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    rows = answer.get(name, [])
    if not isinstance(rows, list) or len(rows) > MOST_ROWS or not all(isinstance(row, dict) for row in rows):
        raise Failed(f"relay: its {name} are no rows")
    return rows


def _flow(row: Mapping[str, Any]) -> Mapping[str, Any]:
    path = row.get("path")
    if (
        not all(isinstance(row.get(key), str) for key in ("src", "dst", "role"))
        or not (
            isinstance(path, list) and len(path) <= MOST_HOPS and all(isinstance(hop, str) for hop in path)
        )
        or not _counts(row, "packets")
        or not all(is_number(row.get(key)) for key in ("first_unix", "last_unix"))
    ):
        raise Failed("relay: its flows are of another shape")
    return row


def _is_segment(row: Mapping[str, Any], end: str, node: str) -> bool:
    """Whether it is a row of one of the node's own segments. Raises Failed for what is no row of any."""
    if not all(isinstance(row.get(key), str) for key in ("from", "to")):
        raise Failed("relay: its segments are of another shape")
    delay = row.get("delay_ms")
    numbers = [
        row.get("rtt_ms"),
        row.get("started_unix"),
        *(delay.values() if isinstance(delay, dict) else [delay]),
    ]
    if not all(value is None or is_number(value) for value in numbers) or not all(
        row.get(key) is None or _counts(row, key) for key in COUNTED
    ):
        raise Failed("relay: its segments are of another shape")
    return bool(row[end] == node)


def _counts(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
