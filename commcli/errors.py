"""Every error that ends a command, with its exit code (DESIGN: exit codes).

An error's text is the one line that the user reads; foreign exceptions become one of these at the module that
owns the foreign library, nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar


class CommcliError(Exception):
    """The command's own trouble. `str(error)` is one clear line; `hint` is what to do next."""

    exit_code: ClassVar[int] = 70
    kind: ClassVar[str] = "bug"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class AnswerBad(CommcliError):
    """Done, and the answer is bad: unhealthy, MOS under the floor, some node failed."""

    exit_code = 1
    kind = "bad"


class Usage(CommcliError):
    """The command line is wrong."""

    exit_code = 2
    kind = "usage"


class BadInput(CommcliError):
    """An input file is wrong. `errors` holds every problem found, each `file:line: reason`."""

    exit_code = 3
    kind = "input"

    def __init__(self, problems: str | Sequence[str], *, hint: str | None = None) -> None:
        self.errors: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.errors), hint=hint)


class OutOfReach(CommcliError):
    """Nothing is wrong but reachability: unreachable hosts, timeouts."""

    exit_code = 4
    kind = "unreachable"


class Refused(CommcliError):
    """A rule said no: zone, signature, old serial, host key."""

    exit_code = 5
    kind = "refused"


class RolledBack(CommcliError):
    """A rollout was stopped and undone."""

    exit_code = 6
    kind = "rolled-back"


class LockHeld(CommcliError):
    """Another changing command is at work; the message names it."""

    exit_code = 75
    kind = "locked"


class Interrupted(CommcliError):
    """Ctrl-C."""

    exit_code = 130
    kind = "interrupted"


class Terminated(CommcliError):
    """SIGTERM."""

    exit_code = 143
    kind = "terminated"


# From harmless to grave: a fleet that is partly away and partly broken is broken.
_GRAVITY = (0, 4, 1, 6, 5, 3, 2, 75, 70, 143, 130)


def gravest(codes: Iterable[int]) -> int:
    """The exit code of a mixed outcome; 0 when there are none. Unknown codes count as a bug (70)."""
    return max((code if code in _GRAVITY else 70 for code in codes), key=_GRAVITY.index, default=0)
