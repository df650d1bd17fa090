"""Recorded round trips for `route replay`."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from commcli.errors import BadInput
from commcli.fleet.countries import COUNTRIES

# What zipfile, zlib and numpy raise on a damaged file, on one that is none, and on one that claims to be larger than
# memory.
_DAMAGE = (
    *(ValueError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class Recorded(NamedTuple):
    """`rtt` (T, N, N) in ms and perhaps `loss` (T, N, N) 0..1, NaN where nobody looked; the nodes' `names`, and their
    `countries` where they are known at all (None: of that node unknown).
    """

    rtt: NDArray[np.float32]
    loss: NDArray[np.float32] | None
    names: list[str]
    countries: list[str | None] | None = None


def read(path: Path) -> Recorded:
    """What an .npz file holds: `rtt`, perhaps `loss`, `names` and `countries`. Raises BadInput."""
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if "rtt" not in file:
                raise BadInput(f"{path}: has no key rtt")
            rtt = _numbers(file["rtt"])
            loss = _numbers(file["loss"]) if "loss" in file else None
            names = [str(name) for name in file["names"]] if "names" in file else []
            said = [str(country) for country in file["countries"]] if "countries" in file else None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or 'is no npz file'}") from None
    except _DAMAGE:
        raise BadInput(f"{path}: is no npz file of numbers") from None
    size = rtt.shape[-1] if rtt.ndim else 0
    if names and len(names) != size:
        raise BadInput(f"{path}: has {len(names)} names of {size} nodes")
    countries = None if said is None else [_country(path, word) for word in said]
    if countries is not None and len(countries) != size:
        raise BadInput(f"{path}: has {len(countries)} countries of {size} nodes")
    return Recorded(rtt, loss, names or [str(number) for number in range(size)], countries)


def _numbers(array: NDArray[Any]) -> NDArray[np.float32]:
    """Raises TypeError for what is none: texts, dates, complex numbers."""
    if array.dtype.kind not in "fiu":
        raise TypeError("no numbers")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite
        return array.astype(np.float32)


def _country(path: Path, word: str) -> str | None:
    """ISO 3166-1 alpha-2 in any case; "" is unknown. Raises BadInput."""
    country = word.strip().lower()
    if country and country not in COUNTRIES:
        raise BadInput(f'{path}: countries: "{word}" is none')
    return country or None


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
