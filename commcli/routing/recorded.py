"""Recorded round trips for `route replay`: (rtt, loss or None, names), (T, N, N) each, RTT in ms."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commcli.errors import BadInput

Recorded = tuple[NDArray[np.float32], NDArray[np.float32] | None, list[str]]


def read(path: Path) -> Recorded:
    """What an .npz file holds: `rtt`, perhaps `loss` and `names`. Raises BadInput."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if "rtt" not in file:
                raise BadInput(f"{path}: has no key rtt")
            rtt = np.asarray(file["rtt"], dtype=np.float32)
            loss = np.asarray(file["loss"], dtype=np.float32) if "loss" in file else None
            names = [str(name) for name in file["names"]] if "names" in file else []
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or 'is no npz file'}") from None
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile):
        raise BadInput(f"{path}: is no npz file of numbers") from None
    return rtt, loss, names or [str(number) for number in range(rtt.shape[-1] if rtt.ndim else 0)]


def of_hours(
    names: Sequence[str], hours: Iterable[Mapping[str, Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(rtt, loss), (T, N, N) each, from rows of store.mesh_hours: an hour a slice. Raises BadInput below two."""
    position = {name: index for index, name in enumerate(names)}
    known = [row for row in hours if row["src"] in position and row["dst"] in position]
    at = {hour: index for index, hour in enumerate(sorted({row["hour"] for row in known}))}
    if len(at) < 2:
        raise BadInput(
            f"the store has {len(at)} hours of the mesh: a back-test takes two", hint="commcli probe mesh"
        )
    rtt = np.full((len(at), len(names), len(names)), np.nan, dtype=np.float32)
    loss = np.full_like(rtt, np.nan)
    for row in known:
        place = at[row["hour"]], position[row["src"]], position[row["dst"]]
        rtt[place] = np.nan if row["rtt_p50_ms"] is None else row["rtt_p50_ms"]
        found = row["loss"] if row["loss_fwd"] is None else row["loss_fwd"]
        loss[place] = np.nan if found is None else found
    return rtt, loss
