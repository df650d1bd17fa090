"""Figures for the textfile collector of Prometheus' node_exporter: rendered here, and replaced by one rename.

Text format 0.0.4, without timestamps: the collector refuses them.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from commcli.errors import BadInput

# All ordered pairs of 200 markets, eight gauges each, are half of it.
MOST_BYTES = 1 << 26
Labels = Mapping[str, str]
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Metric:
    """A gauge and its samples, (labels, value) each; None is unmeasured, as is what is not finite: no line."""

    name: str
    help: str
    samples: Sequence[tuple[Labels, float | None]]


def render(metrics: Sequence[Metric]) -> str:
    """The file's text: HELP, TYPE and samples of every metric that has any."""
    lines = []
    for metric in metrics:
        samples = [(labels, value) for labels, value in metric.samples if _is_known(value)]
        if not samples:
            continue
        # In a help text a double quote stays as it is.
        told = metric.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {metric.name} {told}", f"# TYPE {metric.name} gauge"]
        lines += [f"{metric.name}{_labels(labels)} {_number(value)}" for labels, value in samples]
    return "".join(f"{line}\n" for line in lines)


def of_run(prefix: str, what: str, code: int, unix: float, seconds: float, before: str) -> list[Metric]:
    """What a scheduled run always tells, after what was there `before`: when, how, how long, when it last was good."""
    name = f"{prefix}last_success_timestamp_seconds"
    success = unix if code == 0 else value_of(before, name)
    told = {
        f"{prefix}last_timestamp_seconds": (f"When the last {what} ended.", unix),
        name: (f"When a {what} last ended with exit code 0.", success),
        f"{prefix}exit_code": (f"Exit code of the last {what} (0 good, 1 bad, 4 out of reach).", code),
        f"{prefix}duration_seconds": (f"How long the last {what} took.", seconds),
    }
    return [Metric(name, text, [({}, value)]) for name, (text, value) in told.items()]


def value_of(text: str, name: str) -> float | None:
    """The value of a metric without labels in such a text; None if it has none."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    try:
        return None if found is None else float(found[1])
    except ValueError:
        return None


def check(path: Path) -> None:
    """Raise BadInput unless it is a file or can be one: a device or a pipe would be waited for, and then replaced."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.parent.is_dir():
            return
        raise BadInput(f"{path}: can not write: {os.strerror(errno.ENOENT)}") from None
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise BadInput(f"{path}: is no regular file")


def read(path: Path) -> str:
    """What a former run wrote; "" if it is not there, can not be read, or is longer than any run's."""
    try:
        check(path)
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, BadInput):
        return ""
    return data.decode("utf-8", errors="replace") if len(data) <= MOST_BYTES else ""


def write(path: Path, text: str) -> None:
    """Replace the file: a reader (any user) sees the old text or the new, never half. Raises BadInput.

    The temporary file does not end in `.prom`, so that nobody collects it. It is a new one under a name that nobody
    can foresee: where others may write to the folder, a link could lie in wait under any other.
    """
    check(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(text)
                file.flush()
                # Without it a power cut may leave the new name and none of the text.
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadInput(f"{path}: can not write: {error.strerror}") from None


def _labels(labels: Labels) -> str:
    pairs = [f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _number(value: float) -> str:
    # Whole numbers as such: 1.7e+09 would lose the seconds of a time for a human reader.
    return str(int(value)) if value == int(value) else repr(round(value, 6))
