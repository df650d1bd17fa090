"""Files for `route replay` that are damaged, hostile, or of something else."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commcli.errors import BadInput
from commcli.routing.recorded import read

RTT = np.linspace(1, 100, 4 * 5 * 5, dtype=np.float32).reshape(4, 5, 5)


def _archive(member: bytes) -> Callable[[Path], Any]:
    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rtt.npy", member)

    return write


def _header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return header.getvalue()


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda file: file.write_bytes(b""), "no npz file of numbers"),
        (lambda file: file.write_text("rtt"), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=RTT.astype(np.complex64)), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=np.full((4, 5, 5), "1.5")), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=RTT.astype("M8[s]")), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=RTT.astype(object)), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=RTT, names=np.array([None, 1] * 5)), "no npz file of numbers"),
        (_archive(_header((10**6, 10**5, 10**5))), "no npz file of numbers"),
        (_archive(_header((10**30, 10**5, 10**5))), "no npz file of numbers"),
        (_archive(b"\x93NUMPY\x01\x00\x10\x00{'descr':(((((((\n"), "no npz file of numbers"),
        (lambda file: np.savez(file, rtt=RTT, names=np.array(["a", "b"])), "2 names of 5 nodes"),
        (lambda file: np.savez(file, loss=RTT), "no key rtt"),
    ],
)
def test_what_is_no_recording_is_one_line(tmp_path: Path, write: Callable[[Path], Any], why: str) -> None:
    write(tmp_path / "data.npz")
    with pytest.raises(BadInput, match=why):
        read(tmp_path / "data.npz")


def test_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    file, chance = tmp_path / "data.npz", random.Random(6)
    np.savez_compressed(file, rtt=RTT, names=np.array(list("abcde")))
    whole = file.read_bytes()
    found = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged)
        try:
            read(file)
        except BadInput:
            found += 1
    assert found > 100


def test_what_is_too_large_for_its_type_never_came_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", rtt=np.full((4, 5, 5), 1e300))
    assert np.isinf(read(tmp_path / "data.npz").rtt).all()
